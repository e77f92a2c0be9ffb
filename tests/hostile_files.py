"""Files that an attacker would send, for tests/attack and benchmarks/attack.py: small to send, dear to read."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from dicom_files import write_dicom

_ITEM = b"\xfe\xff\x00\xe0"
_SR, _GSPS = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.11.1"


def file_of(
    elements: bytes,
    path: Path,
    syntax: UID = ExplicitVRLittleEndian,
    sop_class: str = "",
    *,
    is_packed: bool = False,
) -> Path:
    """Write elements in explicit VR little endian as a DICOM file, deflated where the syntax says so."""
    meta = _element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    group = _element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    if sop_class:
        uid = sop_class.encode() + b"\0" * (len(sop_class) % 2)
        elements = _element(0x00080016, b"UI", uid) + elements
    if syntax == DeflatedExplicitVRLittleEndian and not is_packed:
        packing = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        elements = packing.compress(elements) + packing.flush()
    path.write_bytes(b"\0" * 128 + b"DICM" + group + meta + elements)
    return path


def many_items(path: Path, n: int = 150_000, tag: int = 0x00283010, sop_class: str = "") -> Path:
    """Empty items of a sequence, deflated: 150,000 of them take 10 kB, and a gigabyte as objects."""
    items = (_ITEM + struct.pack("<I", 0)) * n
    closed = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return file_of(_sequence(tag, items + closed, 0xFFFFFFFF), path, DeflatedExplicitVRLittleEndian, sop_class)


def many_items_in_a_length(path: Path, n: int = 150_000, tag: int = 0x00283010, sop_class: str = "") -> Path:
    """The same in a sequence of a given length, which pydicom parses when somebody asks for it."""
    items = (_ITEM + struct.pack("<I", 0)) * n
    return file_of(_sequence(tag, items, len(items)), path, DeflatedExplicitVRLittleEndian, sop_class)


def deep_items(path: Path, depth: int = 200, tag: int = 0x0040A730, sop_class: str = _SR) -> Path:
    """Sequences in sequences."""
    inside = b""
    for _ in range(depth):
        item = _ITEM + struct.pack("<I", len(inside)) + inside
        inside = _sequence(tag, item, len(item))
    return file_of(inside, path, sop_class=sop_class)


def many_elements(path: Path, n: int = 150_000) -> Path:
    """Elements in the item of a sequence, each of another private tag; deflated."""
    elements = b"".join(_element(0x00090000 + (k >> 12 << 17) + 0x1000 + k % 4096, b"CS", b"") for k in range(n))
    item = _ITEM + struct.pack("<I", len(elements)) + elements
    return file_of(_sequence(0x00283010, item, len(item)), path, DeflatedExplicitVRLittleEndian)


def many_values(path: Path, n: int = 5_000_000) -> Path:
    """One number written so many times in the window of an image; deflated."""
    value = b"1\\" * n
    item = _element(0x00281051, b"UC", value)  # with the length of 32 bits that DS cannot have
    return file_of(item, path, DeflatedExplicitVRLittleEndian)


def marks_of_many_items(path: Path) -> Path:
    """A report whose content is empty items."""
    return many_items(path, tag=0x0040A730, sop_class=_SR)


def state_of_many_items(path: Path) -> Path:
    """A presentation state whose annotations are empty items."""
    return many_items_in_a_length(path, tag=0x00700001, sop_class=_GSPS)


def deflated_marks(path: Path, n_bytes: int = 128 * 2**20) -> Path:
    """A report that unpacks to twice what is allowed."""
    packing = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    whole = packing.compress(_element(0x00420011, b"OB", b"")[:-4] + struct.pack("<I", n_bytes - 2**20))
    zeros = bytes(2**20)
    whole += b"".join(packing.compress(zeros) for _ in range(n_bytes // 2**20)) + packing.flush()
    return file_of(whole, path, DeflatedExplicitVRLittleEndian, is_packed=True)


def decoy_jp2(path: Path, side: int = 30_000) -> Path:
    """JPEG 2000 of the header's size in a `uuid` box, and of another size where the decoder looks."""
    shown, other = (32, 32), (side, side)
    decoy = _box(b"uuid", bytes(16) + j2k(*shown))
    header = _box(b"jp2h", _box(b"ihdr", struct.pack(">IIH4B", side, side, 1, 7, 7, 0, 0)))
    signature = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return _compressed(path, signature + decoy + header + _box(b"jp2c", j2k(*other)), shown, JPEG2000Lossless)


def tiny_precincts(path: Path, side: int = 9_000) -> Path:
    """JPEG 2000 of an honest size in precincts of one pixel, each of which costs the decoder memory."""
    return _compressed(path, j2k(side, side, precincts=True), (side, side), JPEG2000Lossless)


def two_frames(path: Path) -> Path:
    """JPEG whose first SOF is the header's, and whose second one is not."""
    return _compressed(path, _two_sizes(), (64, 64), JPEGBaseline8Bit)


def picture_of_two_sizes(path: Path) -> Path:
    """The same as a plain picture."""
    path.write_bytes(_two_sizes())
    return path


def _two_sizes() -> bytes:
    good = _jpeg(64, 64)
    place = good.index(b"\xff\xc0")
    length = struct.unpack_from(">H", good, place + 2)[0]
    second = bytearray(good[place : place + 2 + length])
    struct.pack_into(">HH", second, 5, 9_000, 9_000)
    return good[: place + 2 + length] + bytes(second) + good[place + 2 + length :]


def many_scans(path: Path, n: int = 3_000, side: int = 2_000) -> Path:
    """Progressive JPEG, a plain picture, whose last scan comes again and again."""
    whole = _jpeg(side, side, progressive=True)
    last = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:-2] + whole[last:-2] * n + b"\xff\xd9")
    return path


def many_directories(path: Path, n: int = 16_001) -> Path:
    """TIFF of so many pages of one pixel, which are all the same bytes."""
    one = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(one, "TIFF")
    whole = one.getvalue()
    (start,) = struct.unpack_from("<I", whole, 4)
    (n_entries,) = struct.unpack_from("<H", whole, start)
    directory = whole[start : start + 2 + 12 * n_entries]
    pages, place = [], len(whole)
    for k in range(n):
        following = place + len(directory) + 4 if k < n - 1 else 0
        pages.append(directory + struct.pack("<I", following))
        place += len(directory) + 4
    first = struct.pack("<I", len(whole))
    path.write_bytes(whole[:4] + first + whole[8:] + b"".join(pages))
    return path


def many_columns(path: Path, n: int = 20_000) -> Path:
    """A table of so many columns."""
    path.write_text("image,patient_id,label," + ",".join(f"c{k}" for k in range(n)) + "\na.png,1,benign\n")
    return path


def many_cells(path: Path, n_rows: int = 20_000) -> Path:
    """A table of 500 columns and empty cells."""
    path.write_text("image,patient_id,label" + "".join(f",c{k}" for k in range(497)) + "\n")
    with path.open("a") as file:
        file.write(("x" + "," * 499 + "\n") * n_rows)
    return path


def pipe(path: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(path)
    return path


def j2k(width: int, height: int, *, precincts: bool = False) -> bytes:
    """A code stream of one empty tile."""
    siz = struct.pack(">HH8IH3B", 41, 0, width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    sizes = b"\0" + b"\x11" * 5 if precincts else b""  # 1 and 2 pixels a side: T.800, A.6.1
    cod = struct.pack(">HBBHBBBBBB", 12 + len(sizes), int(precincts), 0, 1, 0, 5, 4, 4, 0, 1) + sizes
    qcd = struct.pack(">HB", 3 + 16, 0x40) + bytes([8 << 3] * 16)
    tile = struct.pack(">HHIBB", 10, 0, 0, 0, 1)
    return b"\xff\x4f\xff\x51" + siz + b"\xff\x52" + cod + b"\xff\x5c" + qcd + b"\xff\x90" + tile + b"\xff\x93\xff\xd9"


def _compressed(path: Path, frame: bytes, shape: tuple[int, int], syntax: UID) -> Path:
    """Write a mammogram of 8 bits whose one frame is these bytes."""
    write_dicom(path, np.zeros((4, 4), np.uint8), Rows=shape[0], Columns=shape[1], PixelData=b"\0\0")
    whole = path.read_bytes()
    plain = struct.pack("<HH", 0x7FE0, 0x0010)
    frame += b"\0" * (len(frame) % 2)
    pixels = plain + b"OB\0\0" + b"\xff\xff\xff\xff" + _ITEM + bytes(4) + _ITEM + struct.pack("<I", len(frame)) + frame
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    body = whole[whole.index(struct.pack("<HH", 0x0008, 0x0016)) : whole.rindex(plain)]
    return file_of(body + pixels, path, syntax)


def _jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(written, "JPEG", progressive=progressive)
    return written.getvalue()


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    is_long = vr in (b"OB", b"OW", b"SQ", b"UC", b"UN", b"UT")
    return head + (struct.pack("<HI", 0, len(value)) if is_long else struct.pack("<H", len(value))) + value


def _sequence(tag: int, items: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, length) + items
