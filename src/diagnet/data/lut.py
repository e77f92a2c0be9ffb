"""Stored values -> displayed grey values: modality LUT, VOI LUT, windows (DICOM PS3.3, C.11)."""

from pathlib import Path

import numpy as np
import scipy.special
from jaxtyping import Bool, Float32, Integer, Shaped
from pydicom.dataset import Dataset

from diagnet.arrays import Image
from diagnet.data.elements import numbers
from diagnet.errors import DataError

# pydicom's own functions are right but for LUTs of 8-bit output with more than 256 entries, whose index wraps, and
# compute in float64, which is four times the work here; the tests compare with them.

LARGEST = 1e20  # of a slope, center or width: float32 neither overflows nor vanishes


def modality_values(
    stored: Integer[np.ndarray, "height width"], dataset: Dataset, path: Path
) -> tuple[Float32[np.ndarray, "height width"], str]:
    """Apply the modality LUT, else the rescale: C.11.1. Return the values and what was done."""
    if dataset.get("ModalityLUTSequence"):
        is_signed = dataset.PixelRepresentation == 1
        table, first, _ = _lookup_table(dataset.ModalityLUTSequence[0], dataset, is_signed, path)
        return _looked_up(stored, table, first), "LUT"
    values = stored.astype(np.float32)
    slopes, intercepts = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if not slopes or not intercepts:
        return values, "none"
    slope, intercept = slopes[0], intercepts[0]
    if not (1 / LARGEST <= abs(slope) <= LARGEST and abs(intercept) <= LARGEST):
        raise DataError(
            f"`RescaleSlope` must be a number other than 0, got {slope:g} with intercept {intercept:g} in {path}."
        )
    if slope != 1:
        values *= np.float32(slope)
    if intercept != 0:
        values += np.float32(intercept)
    return values, f"value x {slope:g} + {intercept:g}"


def displayed_values(
    values: Float32[np.ndarray, "height width"],
    dataset: Dataset,
    padding: Bool[np.ndarray, "height width"] | None,
    path: Path,
) -> tuple[Image, str]:
    """Apply the VOI LUT, else the window, else the whole range: C.11.2. Return [0, 1] and what was done.

    Of several alternatives the first is taken, as a viewer does. Padding has no part in the whole range.
    """
    if dataset.get("VOILUTSequence"):
        tables = dataset.VOILUTSequence
        table, first, bits = _lookup_table(tables[0], dataset, _has_signed_output(dataset), path)
        return np.clip(_looked_up(values, table, first) / np.float32(2**bits - 1), 0, 1), f"LUT 1 of {len(tables)}"
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if centers and widths:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
        step = f"window 1 of {len(centers)}, {function}, center {centers[0]:g}, width {widths[0]:g}"
        return _windowed(values, centers[0], widths[0], function, path), step
    seen = values if padding is None else values[~padding]
    lowest, highest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    pixels = _clipped((values - np.float32(lowest)) / np.float32(highest - lowest or 1))
    return pixels, f"none, whole range {lowest:g} to {highest:g}"


def _windowed(
    values: Float32[np.ndarray, "height width"], center: float, width: float, function: str, path: Path
) -> Image:
    """Map a window to [0, 1]: C.11.2.1.2.1 (LINEAR), C.11.2.1.3."""
    least = 1.0 if function == "LINEAR" else 1 / LARGEST
    if not (least <= width <= LARGEST and abs(center) <= LARGEST):
        raise DataError(f"`WindowWidth` must be at least {least:g}, got {width:g} with center {center:g} in {path}.")
    if function == "SIGMOID":
        return np.asarray(scipy.special.expit(4 * (values - np.float32(center)) / np.float32(width)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise DataError(f"`VOILUTFunction` must be LINEAR, LINEAR_EXACT or SIGMOID, got another value in {path}.")
    if width == 0:
        return (values > center).astype(np.float32)
    return _clipped((values - np.float32(center)) / np.float32(width) + np.float32(0.5))


def _has_signed_output(dataset: Dataset) -> bool:
    """Tell whether the modality step can give values below 0: then VOI LUTs begin at a signed value, C.11.2.1.1."""
    if dataset.get("ModalityLUTSequence"):
        return False
    n_bits, is_signed = int(dataset.BitsStored), int(dataset.PixelRepresentation == 1)
    ends = -is_signed * 2.0 ** (n_bits - 1), 2.0 ** (n_bits - is_signed) - 1
    slopes, intercepts = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    slope, intercept = (slopes[0], intercepts[0]) if slopes and intercepts else (1.0, 0.0)
    return min(slope * end + intercept for end in ends) < 0


def _lookup_table(
    item: Dataset, dataset: Dataset, is_signed: bool, path: Path
) -> tuple[Float32[np.ndarray, "entry"], int, int]:
    """Return a table's entries, the value that the first one stands for, and the bits of an entry: C.11.1.1.

    The VR of the descriptor follows PixelRepresentation, or whoever wrote the file; the words alone are taken from it.
    """
    n_entries, first, bits = (int(number) % 2**16 for number in item.LUTDescriptor)
    first -= 2**16 * (is_signed and first >= 2**15)
    n_entries = n_entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):  # OW: 16-bit words, or packed 8-bit entries
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * n_entries else "u1")
    table = np.atleast_1d(np.asarray(data, dtype=np.float32))[:n_entries]
    if not len(table) or not 1 <= bits <= 16:
        raise DataError(f"`LUTData` must hold entries of 1 to 16 bits, got {len(table)} of {bits} bits in {path}.")
    return table, first, bits


def _looked_up(
    values: Shaped[np.ndarray, "height width"], table: Float32[np.ndarray, "entry"], first: int
) -> Float32[np.ndarray, "height width"]:
    """Look values up; below the table its first entry counts, above it its last."""
    indices = np.rint(values).astype(np.int32)
    indices -= first
    return np.asarray(table.take(indices, mode="clip"))


def _clipped(pixels: Float32[np.ndarray, "height width"]) -> Image:
    return np.clip(pixels, 0, 1, out=pixels)
