"""One DICOM file -> a mammogram as a viewer shows it: the whole display chain, every step recorded."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from diagnet.arrays import Image
from diagnet.data.lut import displayed_values, modality_values, numbers
from diagnet.data.quiet import quiet
from diagnet.errors import DataError, DiagNetError, MissingExtraError, RefusedInputError

MAX_PIXELS = 100_000_000  # the largest mammograms have about 40 million

# Reading these alone keeps names and dates out of memory, and makes a header cheap.
_TAGS = [
    "SOPClassUID", "Modality", "PresentationIntentType", "ImageLaterality", "Laterality", "ViewPosition",
    "ViewCodeSequence", "PatientOrientation", "LossyImageCompression", "PixelSpacing", "ImagerPixelSpacing",
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "PresentationLUTShape", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip

# PS3.16, CID 4014, in SNOMED CT and in the older SNOMED RT codes; the names are those of ViewPosition.
_VIEW_CODES = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO", "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM", "399099002": "LMO", "R-10230": "LMO", "399196006": "FB", "R-10244": "FB",
    "399192008": "XCCL", "R-1024A": "XCCL", "399101009": "XCCM", "R-1024B": "XCCM",
    "399188001": "SIO", "R-102D0": "SIO", "441555000": "ISO", "R-40AAA": "ISO",
}  # fmt: skip
# PS3.16, CID 4015: views whose scale or compression differs from what a model is trained on.
_VIEW_MODIFIERS = {
    "399163009": "magnification", "R-102D6": "magnification",
    "399055006": "spot compression", "R-102D7": "spot compression",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a DICOM header says about the pixels: width and height, (row, column) size in millimetres or None."""

    width: int
    height: int
    spacing_mm: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Mammogram:
    """A mammogram as it is displayed.

    Attributes:
        pixels: grey values in [0, 1]; air is dark.
        steps: what was done to the stored values, in order.
        warnings: what a reader of the result should know.
        spacing_mm: (row, column) size of a pixel in millimetres, None where the file does not say.
        laterality: "L", "R" or "".
        view: "CC", "MLO", "ML", ... or "".
        intent: "FOR PRESENTATION", "FOR PROCESSING" or "".
    """

    pixels: Image
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    spacing_mm: tuple[float, float] | None
    laterality: str
    view: str
    intent: str


def read_mammogram(path: Path, *, allow_for_processing: bool = False) -> Mammogram:
    """Read a DICOM mammogram through the display chain of PS3.4, N.2.

    decode -> modality LUT or rescale -> VOI LUT or window (without one: the whole range of the values) ->
    inversion, once -> padding to background.

    Args:
        path: the file.
        allow_for_processing: read raw detector data too, which no viewer shows as it is.

    Raises:
        DataError: the file is no DICOM image, or it is broken or cut short.
        RefusedInputError: raw detector data, tomosynthesis, several frames, color, or too many pixels.
        MissingExtraError: the compression needs the extra `dicom`.
    """
    with quiet():
        try:
            dataset, has_preamble = _read(path)
            return _displayed(dataset, path, has_preamble, allow_for_processing)
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise _broken(path, error) from None  # its text may quote a patient's data


def read_geometry(path: Path) -> Geometry:
    """Read size and spacing from a DICOM file's header.

    Raises:
        DataError: the file is no DICOM image, or it is broken.
        RefusedInputError: it has too many pixels.
    """
    with quiet():
        try:
            dataset, _ = _read(path, header_only=True)
            return Geometry(dataset.Columns, dataset.Rows, _spacing(dataset)[0])
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise _broken(path, error) from None  # its text may quote a patient's data


def check_pixel_count(width: int, height: int, path: Path) -> None:
    """Refuse an image that would fill the memory.

    Raises:
        RefusedInputError: there are more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise RefusedInputError(
            f"`image` must have at most {MAX_PIXELS // 1_000_000} million pixels, got {width} x {height} in {path}."
        )


def _read(path: Path, *, header_only: bool = False) -> tuple[Dataset, bool]:
    """Parse a file into the elements needed here; tell whether it has the preamble of PS3.10."""
    with path.open("rb") as file:
        has_preamble = file.read(132)[128:] == b"DICM"
    dataset = dcmread(path, force=True, specific_tags=_TAGS, stop_before_pixels=header_only)
    if not (dataset.get("Rows") and dataset.get("Columns") and (header_only or dataset.get("PixelData"))):
        raise DataError(f"`image` must be a DICOM file with whole pixel data, got none in {path}.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    check_pixel_count(dataset.Columns, dataset.Rows, path)
    return dataset, has_preamble


def _displayed(dataset: Dataset, path: Path, has_preamble: bool, allow_for_processing: bool) -> Mammogram:
    intent = _one_of(("FOR PRESENTATION", "FOR PROCESSING"), dataset, "PresentationIntentType")
    if dataset.get("SOPClassUID") == DigitalMammographyXRayImageStorageForProcessing:
        intent = "FOR PROCESSING"
    _check_policy(dataset, path, intent, allow_for_processing)
    stored = _decoded(dataset, path)
    steps = [f"decode: {dataset.file_meta.TransferSyntaxUID.name}, {dataset.BitsStored} bits stored"]
    padding = _padding(stored, dataset)
    values, step = modality_values(stored, dataset, path)
    steps.append(f"modality: {step}")
    pixels, step = displayed_values(values, dataset, padding, path)
    steps.append(f"voi: {step}")
    reasons = [
        name
        for name, is_so in (
            ("MONOCHROME1", dataset.PhotometricInterpretation == "MONOCHROME1"),
            ("PresentationLUTShape INVERSE", _one_of(("INVERSE",), dataset, "PresentationLUTShape")),
        )
        if is_so
    ]
    if reasons:  # both say the same thing: once, and after VOI
        np.subtract(1, pixels, out=pixels)
    steps.append(f"inversion: {' and '.join(reasons) or 'none'}")
    n_padding = 0 if padding is None else int(padding.sum())
    if padding is not None:
        pixels[padding] = 0
    steps.append(f"padding: {n_padding} pixels set to background" if n_padding else "padding: none")
    spacing, source = _spacing(dataset)
    steps.append(f"spacing: {source}")
    return Mammogram(
        pixels=pixels,
        steps=tuple(steps),
        warnings=tuple(_warnings(dataset, intent, has_preamble)),
        spacing_mm=spacing,
        laterality=_one_of(("L", "R"), dataset, "ImageLaterality", "Laterality"),
        view=_view(dataset),
        intent=intent,
    )


def _check_policy(dataset: Dataset, path: Path, intent: str, allow_for_processing: bool) -> None:
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    if n_frames > 1 or dataset.get("SOPClassUID") == BreastTomosynthesisImageStorage:
        raise RefusedInputError(f"`image` must be one mammogram, got tomosynthesis or {n_frames} frames in {path}.")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedInputError(
            f"`PhotometricInterpretation` must be MONOCHROME1 or MONOCHROME2, got another value in {path}."
        )
    if intent == "FOR PROCESSING" and not allow_for_processing:
        raise RefusedInputError(
            f"`image` must be FOR PRESENTATION, got raw data FOR PROCESSING in {path}."
            " Fix: send the processed image, or allow raw data by name."
        )


def _decoded(dataset: Dataset, path: Path) -> Integer[np.ndarray, "height width"]:
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(f"`image` must have a transfer syntax of images, got another one in {path}.") from None
    if not decoder.is_available:
        package = "pyjpegls" if "JPEG-LS" in syntax.name else "python-gdcm"
        raise MissingExtraError("pylibjpeg-openjpeg" if "2000" in syntax.name else package, "dicom")
    return np.asarray(pixel_array(dataset))


def _padding(stored: Integer[np.ndarray, "height width"], dataset: Dataset) -> Bool[np.ndarray, "height width"] | None:
    """Find the pixels that were never exposed: PS3.3, C.7.5.1.1.2."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    lower, upper = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= lower) & (stored <= upper))


def _spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return the (row, column) size of a pixel in millimetres, and which element said so."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):  # in the breast's plane before the detector's
        sizes = numbers(dataset, keyword)
        if len(sizes) == 2 and np.isfinite(sizes).all() and min(sizes) > 0:
            return (sizes[0], sizes[1]), f"{sizes[0]:g} x {sizes[1]:g} mm, {keyword}"
    return None, "unknown"


def _view(dataset: Dataset) -> str:
    """Return the view by its code, else by name; digitized film has the name in PatientOrientation."""
    for code in dataset.get("ViewCodeSequence") or []:
        if code.get("CodeValue") in _VIEW_CODES:
            return _VIEW_CODES[code.CodeValue]
    return _one_of(_VIEW_CODES.values(), dataset, "ViewPosition", "PatientOrientation")


def _warnings(dataset: Dataset, intent: str, has_preamble: bool) -> list[str]:
    found = []
    if not has_preamble:
        found.append("the file has no DICOM preamble")
    if not intent:
        found.append("PresentationIntentType is absent: the pixels are taken as FOR PRESENTATION")
    if intent == "FOR PROCESSING":
        found.append("raw data FOR PROCESSING")
    if not _one_of(("MG",), dataset, "Modality"):
        found.append("Modality is not MG: this may be no mammogram")
    if _one_of(("01",), dataset, "LossyImageCompression"):
        found.append("the pixels went through lossy compression")
    for view in dataset.get("ViewCodeSequence") or []:
        for modifier in view.get("ViewModifierCodeSequence") or []:
            if modifier.get("CodeValue") in _VIEW_MODIFIERS:
                found.append(f"{_VIEW_MODIFIERS[modifier.CodeValue]} view")
    return found


def _one_of(known: Collection[str], dataset: Dataset, *keywords: str) -> str:
    """Return the first of the elements whose text is a known one, in capitals; free text never leaves the file."""
    for keyword in keywords:
        value = dataset.get(keyword)
        if isinstance(value, str) and value.strip().upper() in known:
            return value.strip().upper()
    return ""


def _broken(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "a broken or truncated file"
    return DataError(f"`image` must be a DICOM image that can be decoded, got {reason}: {path}.")
