"""One DICOM file -> the elements and stored pixels needed here, within bounds of memory."""

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from diagnet.data.codestream import MAX_SCANS, codestream_bits, codestream_size, jpeg_frame, rle_size, without_boxes
from diagnet.data.dicom_objects import parsed
from diagnet.data.elements import check_required, leave_out_malformed
from diagnet.data.regular_file import regular_size
from diagnet.errors import DataError, MissingExtraError, RefusedInputError

MAX_PIXELS = 100_000_000  # the largest mammograms have about 40 million
MAX_BYTES = 512 * 2**20  # of a file
_PACKAGES = {"pyjpegls": "pyjpegls", "pylibjpeg": "pylibjpeg-openjpeg", "gdcm": "python-gdcm"}
_MAX_FRAGMENTS = 100_000  # of the one frame
_SURE_BYTES = 2**30  # what unpacks to no more is not counted first

_SIZE = {"Rows", "Columns", "BitsAllocated"}  # what has none of them is no image

# Reading these alone keeps names and dates out of memory, and makes a header cheap.
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesDescription",
    "AcquisitionDeviceProcessingDescription", "PresentationIntentType", "ImageLaterality", "Laterality",
    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "LossyImageCompression", "BurnedInAnnotation",
    "PixelSpacing", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "BreastImplantPresent",
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "PresentationLUTShape", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip


def read_elements(path: Path, *, header_only: bool = False) -> tuple[Dataset, bool, list[str]]:
    """Parse a file into the elements needed here.

    Returns:
        The elements; whether the file has the preamble of PS3.10; and the optional elements that are malformed, which
        are left out.

    Raises:
        DataError: it is no DICOM image, or lacks a required element.
        RefusedInputError: it has too many pixels or bytes.
    """
    check_file(path)
    dataset, has_preamble = parsed(path, _TAGS, header_only=header_only)
    if not (_SIZE.intersection(dataset.dir()) and (header_only or dataset.get("PixelData"))):
        raise DataError(f"`image` must be a DICOM file with whole pixel data, got none in {path}.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    check_required(dataset, path, header_only=header_only)
    check_pixel_count(dataset.Columns, dataset.Rows, path)
    return dataset, has_preamble, leave_out_malformed(dataset)


def decoded(dataset: Dataset, path: Path) -> Integer[np.ndarray, "height width"]:
    """Decode the one frame of a file, and take each stored value out of its word.

    Raises:
        DataError: the pixel data are not as many or not where the header says, or of no known transfer syntax.
        MissingExtraError: the compression needs the extra `dicom`.
    """
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(f"`image` must have a transfer syntax of images, got another one in {path}.") from None
    if syntax == JPEGExtended12Bit and dataset.BitsStored != 8:
        raise DataError(
            f"`image` must be compressed as a permissively licensed decoder reads it, got {syntax.name} of"
            f" {dataset.BitsStored} bits in {path}. Fix: store it lossless."
        )
    frame = _check_length(dataset, syntax, path)
    if not syntax.is_encapsulated:
        dataset.PixelData = dataset.PixelData[: dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8]
        return _stored_values(pixel_array(dataset, correct_unused_bits=False), dataset, path)
    plugin = next((name for name in _plugins(syntax) if name in decoder.available_plugins), None)
    if plugin is None:
        raise MissingExtraError(_PACKAGES[_plugins(syntax)[0]], "dicom")
    options: dict[str, Any] = {}
    if plugin == "gdcm":  # it drops what lies above the bits that it is told of
        options = {"bits_stored": codestream_bits(frame) or dataset.BitsStored}
    dataset.PixelData = encapsulate([frame], has_bot=False)  # what was checked, and nothing else, is decoded
    dataset.pop("ExtendedOffsetTable", None)
    words = pixel_array(dataset, decoding_plugin=plugin, correct_unused_bits=False, **options)
    return _stored_values(words, dataset, path)


def _stored_values(
    words: Integer[np.ndarray, "height width"], dataset: Dataset, path: Path
) -> Integer[np.ndarray, "height width"]:
    """Take BitsStored bits, the highest of them HighBit, out of each word: PS3.5, 8.1.1.

    Bits above may hold an overlay or anything else, and are dropped; pydicom keeps those of JPEG-LS and JPEG 2000, and
    knows no HighBit. Bits below must be 0: else the pixels are not where the header says.
    """
    n_bits, high_bit = int(dataset.BitsStored), int(dataset.HighBit)
    below = high_bit + 1 - n_bits
    if below < 0 or high_bit >= int(dataset.BitsAllocated):
        raise DataError(
            f"`HighBit` must be at least BitsStored - 1 and below BitsAllocated, got {high_bit} of {n_bits} bits stored"
            f" in {path}."
        )
    if below and np.bitwise_and(words, (1 << below) - 1).any():
        raise DataError(
            f"`HighBit` must be that of the pixels, got {high_bit} of {n_bits} bits stored and pixels with bits below"
            f" bit {below} in {path}."
        )
    above = 8 * words.itemsize - 1 - high_bit
    values = words.astype(words.dtype.newbyteorder("="))
    if above:
        np.left_shift(values, above, out=values)
    if above + below:  # of signed words it repeats the sign
        np.right_shift(values, above + below, out=values)
    return values


def decoders() -> dict[str, str]:
    """Name what decodes each transfer syntax here; "" where nothing does, though pydicom knows what could."""
    found = {}
    for syntax in AllTransferSyntaxes:
        with suppress(NotImplementedError):
            available = get_decoder(syntax).available_plugins
            installed = next((name for name in _plugins(syntax) if name in available), "")
            found[syntax.name] = installed if syntax.is_encapsulated else "pydicom"
    return found


def _plugins(syntax: UID) -> tuple[str, ...]:
    """Name pydicom's plugins for a compression, the best first; one alone is asked.

    Left to itself, pydicom hands what one of them calls broken to the next: pylibjpeg-rle then panics in a way that no
    `except Exception` sees, and others write to the terminal.
    """
    if syntax == RLELossless:
        return ("pydicom",)
    if syntax in JPEGLSTransferSyntaxes:
        return ("pyjpegls", "gdcm")
    if "2000" in syntax.name:  # and those of high throughput
        return ("pylibjpeg", "gdcm", "pillow")
    return ("gdcm", "pillow")  # never pylibjpeg, whose decoder of these is GPL


def _check_length(dataset: Dataset, syntax: UID, path: Path) -> bytes:
    """Refuse pixel data that are not as many as the header says, before anything is decoded; return the one frame."""
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    if bits not in (8, 16, 32) or not 1 <= int(dataset.BitsStored) <= bits:
        raise DataError(f"`BitsAllocated` must be 8, 16 or 32 and hold BitsStored, got another number in {path}.")
    n_expected, pixel_data = rows * columns * bits // 8, dataset.PixelData
    if not syntax.is_encapsulated:
        n_excess = len(pixel_data) - n_expected
        row, column = columns * bits // 8, rows * bits // 8
        # PS3.5, 8.1.1 allows bytes after the pixels; a whole row or column more is a header that lies.
        if n_excess < 0 or any(n_excess >= side and n_excess % side <= 1 for side in (row, column)):
            raise DataError(
                f"`PixelData` must hold {columns} x {rows} pixels of {bits} bits, {n_expected} bytes,"
                f" got {len(pixel_data)} in {path}."
            )
        return bytes(pixel_data)
    frame = without_boxes(_frame(dataset, path))
    if syntax == RLELossless and frame is not None:
        if 64 * len(frame) > _SURE_BYTES and rle_size(frame, 2 * n_expected) > 2 * n_expected:
            raise DataError(f"`PixelData` must unpack to {n_expected} bytes, got more in {path}.")
        return frame
    size = None if frame is None else codestream_size(frame)
    if frame is None or size != (columns, rows, 1):
        got = "a frame that does not say its size" if size is None else "{} x {} of {}".format(*size)
        raise DataError(f"`PixelData` must hold {columns} x {rows} pixels of 1 sample, got {got} in {path}.")
    if not frame.startswith(b"\xff\x4f"):
        check_jpeg(frame, (columns, rows), path)
    return frame


def _frame(dataset: Dataset, path: Path) -> bytes:
    n_fragments = sum(1 for _ in islice(generate_fragments(dataset.PixelData), _MAX_FRAGMENTS + 1))
    if n_fragments > _MAX_FRAGMENTS:
        raise RefusedInputError(f"`PixelData` must have at most {_MAX_FRAGMENTS} fragments, got more in {path}.")
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    extended = None if None in offsets else (offsets[0], offsets[1])
    return get_frame(dataset.PixelData, 0, number_of_frames=1, extended_offsets=extended)


def check_jpeg(stream: bytes, size: tuple[int, int], path: Path) -> None:
    """Refuse a JPEG that may be of another size, or of so many scans that decoding it would take minutes.

    Args:
        stream: the JPEG.
        size: (width, height) that it should have.
        path: of the file, for an error.

    Raises:
        DataError: its structure is not that of one picture of this size.
        RefusedInputError: it has more than `diagnet.data.codestream.MAX_SCANS`.
    """
    found = jpeg_frame(stream)
    if found is None or (found.width, found.height) != size:
        got = "another one" if found is None else f"{found.width} x {found.height}"
        raise DataError(f"`image` must be one JPEG picture of {size[0]} x {size[1]} pixels, got {got} in {path}.")
    if found.n_scans > MAX_SCANS:
        raise RefusedInputError(f"`image` must have at most {MAX_SCANS} scans, got {found.n_scans} in {path}.")


def check_file(path: Path) -> None:
    """Refuse what is no regular file, such as a pipe, which could keep the reader waiting, and what is too large.

    Raises:
        DataError: it is no file, or cannot be read.
        RefusedInputError: it has more than `MAX_BYTES` bytes.
    """
    n_bytes = regular_size(path, "image")
    if n_bytes > MAX_BYTES:
        raise RefusedInputError(f"`image` must have at most {MAX_BYTES // 2**20} MB, got {n_bytes} bytes in {path}.")


def check_pixel_count(width: int, height: int, path: Path) -> None:
    """Refuse an image that would fill the memory.

    Raises:
        RefusedInputError: there are more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise RefusedInputError(
            f"`image` must have at most {MAX_PIXELS // 1_000_000} million pixels, got {width} x {height} in {path}."
        )


def broken(path: Path, error: Exception) -> DataError:
    """Say that a file is broken, without its own words, which may quote a patient's data."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "a broken or truncated file"
    return DataError(f"`image` must be a DICOM image that can be decoded, got {reason}: {path}.")
