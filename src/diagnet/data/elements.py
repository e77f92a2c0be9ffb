"""What of a DICOM header can be used: a required element must be there, a malformed optional one is left out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from diagnet.errors import DataError

_SIZE = ("Rows", "Columns")
_PIXELS = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")  # PS3.3, C.7.6.3: type 1


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return an element's numbers, none when it is absent or empty.

    Raises:
        ValueError: it holds something else; so do TypeError and the like.
    """
    value = dataset.get(keyword)
    if value is None or value == "" or value == b"":
        return []
    found = [_number(each) for each in (value if isinstance(value, list | MultiValue) else [value])]
    if not np.isfinite(found).all():
        raise ValueError("`numbers` must be finite")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bytes) and len(value) == 2 and not value.isdigit():  # a word under an unknown VR
        return float(int.from_bytes(value, "little"))
    return float(value)


def leave_out_malformed(dataset: Dataset) -> list[str]:
    """Take out of a dataset the optional elements that cannot be used, and name them.

    Elements that only make sense together are left out together.
    """
    found: list[str] = []
    for keywords, is_usable in _OPTIONAL:
        try:
            usable = all(is_usable(dataset, keyword) for keyword in keywords)
        except Exception:  # pydicom raises whatever a malformed value makes it meet
            usable = False
        if not usable:
            found += [keyword for keyword in keywords if keyword in dataset]
            for keyword in keywords:
                dataset.pop(keyword, None)
    return found


def check_required(dataset: Dataset, path: Path, *, header_only: bool) -> None:
    """Ask for the elements without which pixels have no meaning, and make numbers of them.

    Raises:
        DataError: one is absent, empty or malformed; the message names it.
    """
    for keyword in _SIZE if header_only else (*_SIZE, *_PIXELS):
        try:
            found = numbers(dataset, keyword)
            is_usable = len(found) <= 1 and all(number.is_integer() and 0 <= number < 2**16 for number in found)
        except Exception:  # pydicom raises whatever a malformed value makes it meet
            is_usable = False
        if not is_usable or not found:
            got = "none" if is_usable else "a malformed one"
            raise DataError(f"`{keyword}` must be a whole number in the header of an image, got {got} in {path}.")
        dataset.add_new(keyword, "US", int(found[0]))
    if not header_only and not isinstance(dataset.get("PhotometricInterpretation") or None, str):
        raise DataError(f"`PhotometricInterpretation` must be in the header of an image, got none in {path}.")


def _is_numbers(dataset: Dataset, keyword: str) -> bool:
    numbers(dataset, keyword)
    return True


def _is_one_number(dataset: Dataset, keyword: str) -> bool:
    return len(numbers(dataset, keyword)) <= 1


def _is_size(dataset: Dataset, keyword: str) -> bool:
    sizes = numbers(dataset, keyword)
    return not sizes or (len(sizes) == 2 and min(sizes) > 0)


def _is_text(dataset: Dataset, keyword: str) -> bool:
    value = dataset.get(keyword)
    return value is None or isinstance(value, str | MultiValue)


def _is_codes(dataset: Dataset, keyword: str) -> bool:
    """Tell whether a sequence holds codes, and their modifiers are codes too."""
    value = dataset.get(keyword)
    if value is None:
        return True
    return isinstance(value, Items) and all(
        isinstance(code.get("CodeValue") or "", str) and _is_codes(code, "ViewModifierCodeSequence") for code in value
    )


def _is_table(dataset: Dataset, keyword: str) -> bool:
    """Tell whether a sequence of look-up tables has none, or one that can be used first."""
    value = dataset.get(keyword)
    if value is None or (isinstance(value, Items) and not value):
        return True
    item = value[0]
    words = [int(number) for number in item.LUTDescriptor]
    has_data = bool(item.LUTData) and (isinstance(item.LUTData, bytes) or bool(numbers(item, "LUTData")))
    return len(words) == 3 and 1 <= words[2] % 2**16 <= 16 and has_data


_OPTIONAL: Sequence[tuple[tuple[str, ...], Callable[[Dataset, str], bool]]] = [
    (("NumberOfFrames",), _is_one_number),
    (("PixelPaddingValue", "PixelPaddingRangeLimit"), _is_one_number),
    (("RescaleSlope", "RescaleIntercept"), _is_one_number),
    (("WindowCenter", "WindowWidth"), _is_numbers),
    (("ModalityLUTSequence",), _is_table),
    (("VOILUTSequence",), _is_table),
    (("ViewCodeSequence",), _is_codes),
    (("PixelSpacing",), _is_size),
    (("ImagerPixelSpacing",), _is_size),
    (("EstimatedRadiographicMagnificationFactor",), _is_numbers),
    *(
        ((keyword,), _is_text)
        for keyword in (
            "SOPClassUID", "SOPInstanceUID", "Modality", "PresentationIntentType", "ImageLaterality", "Laterality",
            "ViewPosition", "PatientOrientation", "LossyImageCompression", "VOILUTFunction", "PresentationLUTShape",
            "BreastImplantPresent", "ImageType", "BurnedInAnnotation", "SeriesDescription",
            "AcquisitionDeviceProcessingDescription",
        )
    ),
]  # fmt: skip
