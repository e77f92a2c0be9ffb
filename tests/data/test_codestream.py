import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.data.codestream import codestream_bits, codestream_size, rle_size

J2K = b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 47, 0, 110, 220, 10, 20, 64, 64, 0, 0, 1)
SOF = struct.pack(">BBHBHHB", 0xFF, 0xC3, 11, 16, 30, 40, 1)


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (J2K, (100, 200, 1)),  # the image area begins at an offset: T.800, A.5.1
        (b"jP  boxes" + J2K, (100, 200, 1)),
        (b"\xff\xd8" + SOF, (40, 30, 1)),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff" + SOF[1:], (40, 30, 1)),  # behind an application segment and filling
        (b"\xff\xd8" + SOF.replace(b"\xc3", b"\xf7"), (40, 30, 1)),  # JPEG-LS
        (b"\xff\xd8\xff\xda\x00\x02" + SOF, None),  # a scan before any frame
        (b"\xff\xd8\xff\xc4\x00\x02", None),
        (b"", None),
    ],
)
def test_a_frame_says_its_size(frame: bytes, size: tuple[int, int, int] | None) -> None:
    assert codestream_size(frame) == size


def test_a_frame_says_the_bits_of_a_sample() -> None:
    assert codestream_bits(b"\xff\xd8" + SOF) == 16
    assert codestream_bits(b"\xff\xd8" + SOF.replace(b"\xc3", b"\xf7")) == 16
    assert codestream_bits(J2K) is None


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_an_error_of_struct(frame: bytes) -> None:
    for start in (b"", b"\xff\xd8", J2K[:4]):
        with contextlib.suppress(struct.error):
            codestream_size(start + frame)


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
