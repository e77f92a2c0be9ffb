import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.data.codestream import codestream_bits, codestream_size, jpeg_frame, rle_size, without_boxes

J2K = b"\xff\x4f\xff\x51" + struct.pack(">HH8IH3B", 41, 0, 110, 220, 10, 20, 64, 64, 0, 0, 1, 15, 1, 1)
SOF = struct.pack(">BBHBHHB3B", 0xFF, 0xC3, 11, 16, 30, 40, 1, 1, 0x11, 0)
END = b"\xff\xda\x00\x02scan\xff\x00\xff\xd0\xff\xd9"


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (J2K, (100, 200, 1)),  # the image area begins at an offset: T.800, A.5.1
        (b"jP  boxes" + J2K, None),
        (J2K[:-2] + b"\2\2", None),  # every other pixel is stored
        (b"\xff\xd8" + SOF + END, (40, 30, 1)),
        (b"\xff\xd8" + SOF + END[:-2], (40, 30, 1)),  # cut short: the decoder's to tell
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff" + SOF[1:] + END, (40, 30, 1)),  # behind a segment and filling
        (b"\xff\xd8" + SOF.replace(b"\xc3", b"\xf7") + END, (40, 30, 1)),  # JPEG-LS
        (
            b"\xff\xd8\xff\xe1" + struct.pack(">H", 4 + len(SOF)) + b"\xff\xd8" + SOF + SOF + END,
            (40, 30, 1),
        ),  # thumbnail
        (b"\xff\xd8" + SOF + SOF + END, None),
        (b"\xff\xd8" + SOF + END[:-2] + SOF + END, None),  # the second frame behind the first one's scan
        (b"\xff\xd8\xff\xd8" + SOF + END, None),
        (b"\xff\xd8" + SOF + b"x" + END, None),  # libjpeg passes over what stands between segments
        (b"\xff\xd8\xff\xde" + SOF[2:] + SOF + END, None),  # hierarchical
        (b"\xff\xd8" + SOF + b"\xff\xf8\x00\x04\x04\x00" + END, None),  # JPEG-LS: a size that stands elsewhere
        (b"\xff\xd8\xff\xda\x00\x02" + SOF, None),  # a scan before any frame
        (b"\xff\xd8\xff\xc4\x00\x02", None),
        (b"", None),
    ],
)
def test_a_frame_says_its_size(frame: bytes, size: tuple[int, int, int] | None) -> None:
    assert codestream_size(frame) == size


def test_a_frame_says_the_bits_of_a_sample() -> None:
    assert codestream_bits(b"\xff\xd8" + SOF + END) == 16
    assert codestream_bits(b"\xff\xd8" + SOF.replace(b"\xc3", b"\xf7") + END) == 16
    assert codestream_bits(J2K) is None


def box(kind: bytes, content: bytes, *, form: str = "short") -> bytes:
    if form == "long":
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 0 if form == "open" else 8 + len(content), kind) + content


SIGN, IHDR = box(b"jP  ", b"\r\n\x87\n"), struct.pack(">IIH4B", 200, 100, 1, 15, 7, 0, 0)
HEADER = box(b"jp2h", box(b"ihdr", IHDR))
DECOY = box(b"uuid", bytes(16) + J2K)


@pytest.mark.parametrize(
    ("frame", "stream"),
    [
        (J2K, J2K),
        (SIGN + HEADER + box(b"jp2c", J2K), J2K),
        (SIGN + DECOY + HEADER + box(b"jp2c", J2K + b"x", form="long"), J2K + b"x"),
        (SIGN + HEADER + box(b"jp2c", J2K + b"x", form="open"), J2K + b"x"),
        (SIGN + box(b"jp2c", J2K) + HEADER, None),
        (SIGN + HEADER + HEADER + box(b"jp2c", J2K), None),
        (SIGN + box(b"jp2h", box(b"ihdr", IHDR[:3] + b"\xff" + IHDR[4:])) + box(b"jp2c", J2K), None),  # another size
        (SIGN + DECOY + HEADER + box(b"jp2c", J2K.replace(struct.pack(">I", 110), b"\0\0\xff\xff")), None),
        (SIGN + box(b"jp2h", box(b"ihdr", IHDR) + box(b"pclr", b"")) + box(b"jp2c", J2K), None),
        (SIGN + HEADER + struct.pack(">I4s", 7, b"free") + box(b"jp2c", J2K), None),
        (SIGN + HEADER + struct.pack(">I4sQ", 1, b"jp2c", 2**63) + J2K, None),
    ],
)
def test_the_code_stream_of_a_jp2_file_is_where_its_boxes_say(frame: bytes, stream: bytes | None) -> None:
    assert without_boxes(frame) == stream


def test_scans_are_counted() -> None:
    found = jpeg_frame(b"\xff\xd8" + SOF + 7 * END[:-2] + END)
    assert found is not None
    assert found.n_scans == 8


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer(frame: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\xd8" + SOF, J2K[:4], b"\0\0\0\x0cjP  \r\n\x87\n"):
        codestream_size(start + frame)
        without_boxes(start + frame)


@given(
    st.lists(
        st.one_of(st.tuples(st.just(0), st.binary(min_size=1, max_size=128)), st.tuples(st.integers(2, 128))),
        max_size=9,
    )
)
def test_rle_is_counted_as_it_unpacks(runs: list[tuple[object, ...]]) -> None:
    segment, n_bytes = b"", 0
    for run in runs:
        if len(run) == 2:  # as they are
            assert isinstance(run[1], bytes)
            segment += bytes([len(run[1]) - 1]) + run[1]
            n_bytes += len(run[1])
        else:  # one byte, repeated
            assert isinstance(run[0], int)
            segment += bytes([257 - run[0], 7])
            n_bytes += run[0]
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segment)
    assert rle_size(header.tobytes() + segment + segment, 10**6) == 2 * n_bytes


def test_counting_stops_where_it_is_too_much() -> None:
    header = np.zeros(16, "<u4")
    header[:2] = 1, 64
    bomb = header.tobytes() + bytes([129, 0]) * 10**6
    assert 1000 < rle_size(bomb, 1000) <= 1000 + 128
