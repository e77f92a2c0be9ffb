"""What a compressed frame says of its own size, read before anything decodes it."""

import struct
from collections.abc import Iterator

_J2K = b"\xff\x4f\xff\x51"  # SOC, SIZ: ITU-T T.800, A.4
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOFn: ITU-T T.81, B.1.1.3; SOF55: T.87
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return (width, height, components) of a JPEG, JPEG-LS or JPEG 2000 frame; None where it does not say."""
    start = frame.find(_J2K, 0, 4096)  # behind the boxes of a JP2 file, which should not be there
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        (components,) = struct.unpack_from(">H", frame, start + 40)
        return right - left, bottom - top, components
    for marker, place in _segments(frame):
        if marker in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", frame, place + 3)
            return width, height, components
    return None


def codestream_bits(frame: bytes) -> int | None:
    """Return the bits of a sample of a JPEG or JPEG-LS frame, which may be more than BitsStored."""
    return next((frame[place + 2] for marker, place in _segments(frame) if marker in _FRAMES), None)


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


def _segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG stream up to its first scan, with the place of its segment."""
    place = 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF or marker in _ALONE:  # filling, or no segment
            place += 1 if marker == 0xFF else 2
            continue
        yield marker, place + 2
        place += 2 + int(struct.unpack_from(">H", frame, place + 2)[0])
