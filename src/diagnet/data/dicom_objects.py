"""One DICOM file -> pydicom's objects: no more of them, nor larger ones, than a mammogram or its marks need.

pydicom makes about 670 bytes of objects of an item of 8 bytes. So what it reads is counted while it reads, by the file
that it reads from: a second parser of our own might count other things than pydicom then makes.
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble, read_sequence
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diagnet.errors import RefusedInputError

MAX_ITEMS = 10_000  # of sequences: a report of 1,000 outlined masses has about 6,000
MAX_ELEMENTS = 50_000
MAX_DEPTH = 50  # of sequences in sequences
MAX_VALUE_BYTES = 2**18  # of an element that becomes objects: a table of 65,536 entries has half as much
MAX_INFLATED = 256 * 10**6  # bytes that a deflated file may unpack to: more than 100 million pixels of 16 bits
_MAX_NESTED_BYTES = 128 * 2**20  # read in all sequences: pydicom copies what lies in several of them for each
_BEGINNING = 2**20  # bytes
_HEADER = 8  # bytes that begin each element and item, and that pydicom reads at once
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # Item in both orders of bytes: PS3.5, 7.5
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_AS_THEY_ARE = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "LT", "ST", "UR", "UT"))  # one object, however long


class _Count:
    """What was read of one file so far."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._n_items = self._n_elements = self._n_nested = 0
        self.refusal: RefusedInputError | None = None  # pydicom makes an OSError of some of them

    def beginning(self, found: bytes) -> None:
        """Count what looks like items at the beginning of a file, which costs less than to parse thousands of them."""
        n_items = max(found.count(item, 0, _BEGINNING) for item in _ITEMS)
        self.check(n_items <= MAX_ITEMS, f"hold at most {MAX_ITEMS} items of sequences")

    def header(self, found: bytes) -> None:
        """Count an element or item by its first bytes."""
        if found[:4] in _ITEMS:
            self._n_items += 1
            self.check(self._n_items <= MAX_ITEMS, f"hold at most {MAX_ITEMS} items of sequences")
        else:
            self._n_elements += 1
            self.check(self._n_elements <= MAX_ELEMENTS, f"hold at most {MAX_ELEMENTS} elements")

    def nested(self, n_bytes: int, depth: int) -> None:
        """Count a sequence that lies in so many others."""
        self._n_nested += n_bytes
        self.check(depth <= MAX_DEPTH, f"be nested at most {MAX_DEPTH} deep")
        self.check(
            self._n_nested <= _MAX_NESTED_BYTES, f"hold at most {_MAX_NESTED_BYTES // 2**20} MB of nested sequences"
        )

    def check(self, is_so: bool, rule: str) -> None:
        if not is_so:
            self.refusal = RefusedInputError(f"`{self._name}` must {rule}, got more in {self._path}.")
            raise self.refusal


class _Counted(io.BufferedReader):
    """A file that counts what is read, and is never asked for more than it has: a length that lies costs no memory."""

    def __init__(self, raw: io.RawIOBase, n_bytes: int, count: _Count) -> None:
        super().__init__(raw, _BEGINNING)
        self._end, self._count = n_bytes, count

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._end - self.tell(), 0)
        found = super().read(left if size is None or size < 0 else min(size, left))
        if size == _HEADER:
            self._count.header(found)
        return found


class _Bytes(io.BytesIO):
    """Bytes in memory that count what is read."""

    def __init__(self, content: bytes, count: _Count) -> None:
        super().__init__(content)
        self._count = count

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size == _HEADER:
            self._count.header(found)
        return found


def parsed(
    path: Path,
    keywords: Sequence[str],
    *,
    header_only: bool = False,
    name: str = "image",
    max_inflated: int = MAX_INFLATED,
) -> tuple[Dataset, bool]:
    """Parse some elements of a file, with or without the preamble of PS3.10; their sequences are parsed wholly.

    Args:
        path: a regular file.
        keywords: of the elements; others are passed over.
        header_only: stop before the pixels.
        name: of the file in an error.
        max_inflated: bytes that a deflated file may unpack to.

    Returns:
        The elements, and whether the file has the preamble.

    Raises:
        RefusedInputError: it holds more than the limits above allow, or unpacks to more.
        Exception: whatever a broken file makes pydicom meet.
    """
    count = _Count(path, name)
    try:
        return _parsed(path, keywords, header_only, count, max_inflated)
    except Exception:
        if count.refusal is not None:
            raise count.refusal from None
        raise


def _parsed(
    path: Path, keywords: Sequence[str], header_only: bool, count: _Count, max_inflated: int
) -> tuple[Dataset, bool]:
    with _Counted(io.FileIO(path), path.stat().st_size, count) as file:
        count.beginning(file.peek(_BEGINNING))
        has_preamble = read_preamble(file, force=True) is not None
        meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2))
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            content = _inflated(file.read(), count, max_inflated)
            count.beginning(content)
            inflated = _Bytes(content, count)
            tags: list[BaseTag | int] = [BaseTag(tag_for_keyword(keyword) or 0) for keyword in keywords]
            stop = (lambda tag, *_: tag in _PIXELS) if header_only else None
            dataset = read_dataset(inflated, False, True, stop_when=stop, specific_tags=tags)
            dataset.file_meta = meta
        else:
            file.seek(0)
            dataset = dcmread(file, force=True, specific_tags=list(keywords), stop_before_pixels=header_only)
    _parse_nested(dataset, count, 0)
    return dataset, has_preamble


def _parse_nested(dataset: Dataset, count: _Count, depth: int) -> None:
    """Parse all sequences now, as pydicom does when they are asked for, so that they are counted; check lengths."""
    for tag, element in list(dataset.items()):
        if isinstance(element, RawDataElement):
            vr, value = _representation(element), element.value or b""
            if vr != "SQ":
                is_short = len(value) <= MAX_VALUE_BYTES or vr in _AS_THEY_ARE or tag in _PIXELS
                count.check(is_short, f"have elements of at most {MAX_VALUE_BYTES // 2**10} kB")
                continue
            count.nested(len(value), depth + 1)
            order = element.is_implicit_VR, element.is_little_endian
            try:
                items = read_sequence(_Bytes(value, count), *order, len(value), dataset.original_character_set)
            except Exception:  # malformed: whoever asks for it meets the same
                if count.refusal is not None:
                    raise
                items = None
            if items is not None:
                dataset[tag] = DataElement(tag, "SQ", items, element.value_tell)
        elif element.VR == "SQ":
            count.nested(0, depth + 1)
            items = element.value
        else:
            items = None
        for item in items or ():
            _parse_nested(item, count, depth + 1)


def _representation(element: RawDataElement) -> str:
    """The value representation that pydicom will read an element by."""
    if element.VR not in (None, "UN"):
        return str(element.VR)
    try:
        return str(dictionary_VR(element.tag))
    except KeyError:
        return "OB"  # nobody asks for what has no name


def _inflated(deflated: bytes, count: _Count, max_bytes: int) -> bytes:
    """Unpack a deflated dataset (PS3.5, A.5), as far as memory allows."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = unpacking.decompress(deflated, max_bytes)
    count.check(not unpacking.unconsumed_tail, f"unpack to at most {max_bytes // 10**6} MB")
    return inflated
