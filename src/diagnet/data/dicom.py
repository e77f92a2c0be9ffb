"""One DICOM file -> a mammogram as a viewer shows it: the whole display chain, every step recorded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer
from pydicom.dataset import Dataset
from pydicom.uid import UID, BreastTomosynthesisImageStorage, DigitalMammographyXRayImageStorageForProcessing

from diagnet.arrays import Image
from diagnet.data.breast import Breast, find_breast
from diagnet.data.dicom_file import broken, decoded, read_elements
from diagnet.data.dicom_objects import parsed
from diagnet.data.elements import numbers
from diagnet.data.lut import displayed_values, modality_values
from diagnet.data.mammogram import NEGATIVE, SCALED, Mammogram, linear_ends, looks_negative, scaled_over_breast
from diagnet.data.quiet import quiet
from diagnet.data.reading_process import apart
from diagnet.data.view import one_of, side, view, warnings
from diagnet.errors import DiagNetError, RefusedInputError
from diagnet.notice import NOTICE

_OTHERS = ("Media Storage Directory", " SR ", "Presentation State", "Key Object", "Encapsulated", "Segmentation")


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a DICOM header says about the pixels: width and height, (row, column) size in millimetres or None."""

    width: int
    height: int
    spacing_mm: tuple[float, float] | None


@apart(Mammogram, Breast)
def read_mammogram(
    path: Path, *, allow_for_processing: bool = False, require_preamble: bool = False, is_scaled: bool = False
) -> Mammogram:
    """Read a DICOM mammogram through the display chain of PS3.4, N.2.

    decode -> modality LUT or rescale -> VOI LUT or window (without one: the whole range of the values) ->
    inversion, once -> padding to background -> the side is checked -> spacing. A change of the pixels raises
    `diagnet.data.preprocessing.DISPLAY_CHAIN`.

    Args:
        path: the file.
        allow_for_processing: read raw detector data too, which no viewer shows as it is.
        require_preamble: refuse a file that lacks the preamble of PS3.10; else it is read and warned of.
        is_scaled: scale the displayed values over the breast too, as networks see them.

    Raises:
        DataError: the file is no DICOM image, or it is broken or cut short.
        RefusedInputError: raw detector data, tomosynthesis, several frames, color, too many pixels or bytes, no
            preamble.
        MissingExtraError: the compression needs the extra `dicom`.
    """
    with quiet():
        try:
            dataset, has_preamble, malformed = read_elements(path)
            _check_preamble(path, has_preamble, require_preamble)
            return _apply_display_chain(dataset, path, has_preamble, malformed, allow_for_processing, is_scaled)
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise broken(path, error) from None  # its text may quote a patient's data


@apart(Geometry)
def read_geometry(path: Path) -> Geometry:
    """Read size and spacing from a DICOM file's header.

    Raises:
        DataError: the file is no DICOM image, or it is broken.
        RefusedInputError: it has too many pixels.
    """
    with quiet():
        try:
            dataset, _, malformed = read_elements(path, header_only=True)
            return Geometry(dataset.Columns, dataset.Rows, _spacing(dataset, malformed)[0])
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise broken(path, error) from None  # its text may quote a patient's data


def _apply_display_chain(
    dataset: Dataset,
    path: Path,
    has_preamble: bool,
    malformed: list[str],
    allow_for_processing: bool,
    is_scaled: bool,
) -> Mammogram:
    intent = one_of(("FOR PRESENTATION", "FOR PROCESSING"), dataset, "PresentationIntentType")
    if dataset.get("SOPClassUID") == DigitalMammographyXRayImageStorageForProcessing:
        intent = "FOR PROCESSING"
    _check_policy(dataset, path, intent, allow_for_processing)
    stored = decoded(dataset, path)
    steps = [f"decode: {dataset.file_meta.TransferSyntaxUID.name}, {dataset.BitsStored} bits stored"]
    if dataset.HighBit != dataset.BitsStored - 1:
        steps[0] += f", the highest of them bit {dataset.HighBit}"
    padding = _padding(stored, dataset)
    values, step = modality_values(stored, dataset, path)
    steps.append(f"modality: {step}")
    pixels, step = displayed_values(values, dataset, padding, path)
    steps.append(f"voi: {step}")
    reasons = [
        name
        for name, is_so in (
            ("MONOCHROME1", dataset.PhotometricInterpretation == "MONOCHROME1"),
            ("PresentationLUTShape INVERSE", one_of(("INVERSE",), dataset, "PresentationLUTShape")),
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
    laterality = one_of(("L", "R"), dataset, "ImageLaterality", "Laterality")
    shown = scaled_over_breast(pixels) if is_scaled else pixels
    breast = find_breast(shown)
    # The side is that of the displayed values. Scaling moves the chest wall only where a window leaves the air grey.
    seen = breast if not is_scaled or _has_black(pixels, padding) else find_breast(pixels)
    step, doubts = side(dataset, laterality, seen.chest_wall)
    steps.append(f"side: {step}")
    spacing, source = _spacing(dataset, malformed)
    steps.append(f"spacing: {source}")
    if is_scaled:
        steps.append(SCALED)
    return Mammogram(
        pixels=shown,
        steps=tuple(steps),
        warnings=(
            *warnings(dataset, intent, has_preamble),
            *doubts,
            *([NEGATIVE] if looks_negative(shown) else []),
            *(_ignored(name) for name in malformed),
        ),
        spacing_mm=spacing,
        ends=linear_ends(values, shown),
        laterality=laterality,
        view=view(dataset),
        intent=intent,
        outline=breast,
    )


def _check_preamble(path: Path, has_preamble: bool, is_required: bool) -> None:
    if is_required and not has_preamble:
        raise RefusedInputError(
            f"`image` must have the preamble of a DICOM file (PS3.10, 7.1), got none in {path}."
            " Fix: --allow-missing-preamble, if you know where it comes from."
        )


def _check_policy(dataset: Dataset, path: Path, intent: str, allow_for_processing: bool) -> None:
    n_frames = int((numbers(dataset, "NumberOfFrames") or [1])[0]) or 1
    if dataset.get("SOPClassUID") == BreastTomosynthesisImageStorage:
        raise RefusedInputError(f"`image` must be one mammogram, got tomosynthesis of {n_frames} frames in {path}.")
    if n_frames != 1:
        raise RefusedInputError(f"`image` must be one mammogram, got {n_frames} frames in {path}.")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedInputError(
            f"`PhotometricInterpretation` must be MONOCHROME1 or MONOCHROME2, got another value in {path}."
        )
    if dataset.SamplesPerPixel != 1:
        raise RefusedInputError(f"`SamplesPerPixel` must be 1, got another number in {path}.")
    if intent == "FOR PROCESSING" and not allow_for_processing:
        raise RefusedInputError(
            f"`image` must be FOR PRESENTATION, got raw data FOR PROCESSING in {path}."
            " Fix: send the processed image, or allow raw data (--allow-for-processing)."
        )


def _padding(stored: Integer[np.ndarray, "height width"], dataset: Dataset) -> Bool[np.ndarray, "height width"] | None:
    """Find the pixels that were never exposed: PS3.3, C.7.5.1.1.2."""
    ends = [_as_stored(int(end), dataset) for end in numbers(dataset, "PixelPaddingValue")]
    if not ends:
        return None
    ends += [_as_stored(int(end), dataset) for end in numbers(dataset, "PixelPaddingRangeLimit")]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _as_stored(value: int, dataset: Dataset) -> int:
    """Read a value as pixels are read: its VR may be the other one of US and SS, whatever PixelRepresentation says."""
    for n_bits in (dataset.BitsAllocated, dataset.BitsStored):
        low, high = (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1)) if dataset.PixelRepresentation == 1 else (0, 2**n_bits)
        if not low <= value < high:
            value = (value - low) % 2**n_bits + low
        if dataset.PixelRepresentation == 0:
            break
    return value


def _has_black(pixels: Image, padding: Bool[np.ndarray, "height width"] | None) -> bool:
    """Tell whether a pixel that was exposed is displayed as black, as air is."""
    return bool((pixels.min() if padding is None else pixels.min(where=~padding, initial=1)) == 0)


def _ignored(keyword: str) -> str:
    return f"{keyword} is malformed and was ignored"


def _spacing(dataset: Dataset, malformed: list[str]) -> tuple[tuple[float, float] | None, str]:
    """Return the (row, column) size of a pixel in millimetres, and which element said so."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):  # in the breast's plane before the detector's
        if keyword in malformed:
            return None, f"unknown, {_ignored(keyword)}"
        sizes = numbers(dataset, keyword)
        if sizes:
            return (sizes[0], sizes[1]), f"{sizes[0]:g} x {sizes[1]:g} mm, {keyword}"
    return None, "unknown"


@apart()
def read_uid(path: Path) -> str:
    """Read SOPInstanceUID, "" where there is none: what other DICOM files call this one by.

    Raises:
        DataError: the file is no DICOM file, or it is broken.
    """
    with quiet():
        try:
            return str(read_elements(path, header_only=True)[0].get("SOPInstanceUID", ""))
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise broken(path, error) from None  # its text may quote a patient's data


@apart()
def read_identity(path: Path) -> tuple[str, str]:
    """Read SOPInstanceUID and SOPClassUID of any DICOM file with a preamble, "" where it has none.

    Raises:
        DataError: the file is no DICOM file, or it is broken.
        RefusedInputError: it holds too many items or elements.
    """
    with quiet():
        try:
            header, has_preamble = parsed(path, ["SOPInstanceUID", "SOPClassUID"], header_only=True)
            if has_preamble:
                return str(header.get("SOPInstanceUID", "")), str(header.get("SOPClassUID", ""))
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            raise broken(path, error) from None  # its text may quote a patient's data
    raise broken(path, ValueError("no preamble"))


def is_known_other(path: Path) -> bool:
    """Tell a DICOM file that is no mammogram by its SOP class: a directory, report, state, or a picture of our own."""
    try:
        return _is_known_other(path)
    except DiagNetError:  # told when it is scored
        return False


@apart()
def _is_known_other(path: Path) -> bool:
    with quiet():
        try:
            header, _ = parsed(path, ["SOPClassUID", "ImageComments"], header_only=True)
            sop_class = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))
            own = str(header.get("ImageComments", "")) == NOTICE  # clinic/picture.py writes it
        except Exception:  # whatever a broken file makes pydicom meet is told when it is scored
            return False
    return own or any(word in sop_class.name for word in _OTHERS)
