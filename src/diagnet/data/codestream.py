"""What a compressed frame says of its own size, read before anything decodes it.

What does not parse says nothing, and is refused: a decoder might find another size in it.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SCANS = 100  # of a JPEG: a progressive one has about ten, and each is decoded over the whole picture
_MAX_TILES = 4096  # of a JPEG 2000; each costs memory before anything is decoded
_J2K = b"\xff\x4f\xff\x51"  # SOC, SIZ: ITU-T T.800, A.4
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"  # the box that begins a JP2 file: T.800, I.5.1
_COLORED = (b"pclr", b"cmap", b"cdef")  # boxes by which samples become other ones
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOFn: ITU-T T.81, B.1.1.3; SOF55: T.87
_SOI, _EOI, _SOS, _DHP, _EXP, _LSE = 0xD8, 0xD9, 0xDA, 0xDE, 0xDF, 0xF8
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_NEXT = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")  # behind a scan: neither stuffing (T.81, T.87) nor a restart


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """What the one frame of a JPEG or JPEG-LS says of itself; `bits` are those of a sample."""

    width: int
    height: int
    components: int
    bits: int
    n_scans: int


def jpeg_frame(stream: bytes) -> JpegFrame | None:
    """Read a JPEG or JPEG-LS up to its end; None where it does not parse, or holds anything but one frame."""
    found: JpegFrame | None = None
    n_scans = 0
    for marker, start, end in _segments(stream):
        if marker in (_SOI, _DHP, _EXP) or end > len(stream):
            return None  # a picture in it, a hierarchy of frames, or cut short
        if marker == _LSE and stream[start + 2] == 4:  # a size that is told elsewhere: T.87, C.2.4.1.4
            return None
        if marker in _FRAMES:
            if found is not None or n_scans or end - start < 8:
                return None
            bits, height, width, components = struct.unpack_from(">BHHB", stream, start + 2)
            if end - start != 8 + 3 * components:
                return None
            found = JpegFrame(width, height, components, bits, 0)
        n_scans += marker == _SOS
    return None if found is None else JpegFrame(found.width, found.height, found.components, found.bits, n_scans)


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return (width, height, components) of a JPEG, JPEG-LS or JPEG 2000 frame; None where it does not parse."""
    if frame.startswith(_J2K):
        return _j2k_size(frame)
    found = jpeg_frame(frame)
    return None if found is None else (found.width, found.height, found.components)


def codestream_bits(frame: bytes) -> int | None:
    """Return the bits of a sample of a JPEG or JPEG-LS frame, which may be more than BitsStored."""
    found = jpeg_frame(frame)
    return None if found is None else found.bits


def without_boxes(frame: bytes) -> bytes | None:
    """Return the code stream of a frame that is a JP2 file, which should not be in DICOM; other frames as they are.

    A decoder is given the code stream alone, so that it finds no other one: T.800, Annex I. None where the boxes do not
    parse, or say another size than the code stream, or that its samples stand for others.
    """
    if not frame.startswith(_JP2):
        return frame
    size: tuple[int, ...] | None = None
    for kind, start, end in _boxes(frame, len(_JP2), len(frame)):
        if kind == b"jp2h":
            inside = [*_boxes(frame, start, end)]
            if size or not inside or inside[0][0] != b"ihdr" or any(name in _COLORED for name, _, _ in inside):
                return None
            if inside[0][2] - inside[0][1] != 14:
                return None
            height, width, components = struct.unpack_from(">IIH", frame, inside[0][1])
            size = width, height, components
        if kind == b"jp2c":
            stream = frame[start:end]
            return stream if size is not None and stream.startswith(_J2K) and _j2k_size(stream) == size else None
    return None


def rle_size(frame: bytes, limit: int) -> int:
    """Bytes that a frame in RLE Lossless unpacks to; counting stops above `limit` (PS3.5, Annex G)."""
    n_segments, *offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[1:n_segments], len(frame)]
    total = 0
    for start, end in zip(offsets[:n_segments], ends, strict=False):
        place = start
        while place < min(end, len(frame)) and total <= limit:
            count = frame[place]
            place += count + 2 if count < 128 else 2
            total += count + 1 if count < 128 else 257 - count
    return total


def _j2k_size(stream: bytes) -> tuple[int, int, int] | None:
    """Read SIZ, which stands first: T.800, A.5.1."""
    if len(stream) < 42:
        return None
    (length,) = struct.unpack_from(">H", stream, 4)
    right, bottom, left, top, across, down, tiles_left, tiles_top = struct.unpack_from(">8I", stream, 8)
    (components,) = struct.unpack_from(">H", stream, 40)
    steps = stream[42 : 4 + length]  # precision and the two steps of each component
    if length != 38 + 3 * components or len(steps) != 3 * components or {*steps[1::3], *steps[2::3]} != {1}:
        return None
    if not (left < right and top < bottom and across and down and tiles_left <= left and tiles_top <= top):
        return None
    n_tiles = -(-(right - tiles_left) // across) * -(-(bottom - tiles_top) // down)
    return (right - left, bottom - top, components) if n_tiles <= _MAX_TILES else None


def _boxes(frame: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box: T.800, I.4; ends where they do not parse."""
    while place + 8 <= end:
        length, kind = struct.unpack_from(">I4s", frame, place)
        head = 8
        if length == 1 and place + 16 <= end:  # XLBox
            (length,) = struct.unpack_from(">Q", frame, place + 8)
            head = 16
        elif length == 0:  # up to the end
            length = end - place
        if length < head or place + length > end:
            return
        yield kind, place + head, place + length
        place += length


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each marker of a JPEG stream up to its end, with the start and end of its segment.

    Yields SOI where the stream does not parse, as it does for a second SOI. A stream that ends in a scan has ended.
    """
    if stream[:2] != b"\xff\xd8":
        yield _SOI, 0, 0
        return
    place, is_scan = 2, False
    while True:
        match = _NEXT.search(stream, place) if is_scan else None
        if is_scan and match is None:
            return
        if match is not None:
            marker, place = match[1][0], match.end()
        else:
            while stream[place : place + 2] == b"\xff\xff":  # filling
                place += 1
            if stream[place : place + 1] != b"\xff" or place + 2 > len(stream):
                yield _SOI, place, place
                return
            marker, place = stream[place + 1], place + 2
        if marker == _EOI:
            return
        if marker in _ALONE:
            continue
        if marker == _SOI or place + 2 > len(stream):
            yield _SOI, place, place
            return
        (length,) = struct.unpack_from(">H", stream, place)
        if length < 2:
            yield _SOI, place, place
            return
        yield marker, place, place + length
        place, is_scan = place + length, marker == _SOS
