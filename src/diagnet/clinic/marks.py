"""Marks that a reader made: outlines in a structured report or a presentation state -> boxes for each image."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from diagnet.clinic.privacy import silenced
from diagnet.data.box import Box
from diagnet.errors import DataError, DiagNetError, RefusedInputError

MAX_MARKS = 1000
MAX_BYTES = 64_000_000  # a report of marks has a few thousand
_MAX_DEPTH = 50
_OUTLINES = ("POLYLINE", "CIRCLE", "ELLIPSE", "INTERPOLATED")  # a point or several have no extent
_TAGS = ["SOPClassUID", "Modality", "ContentSequence", "GraphicAnnotationSequence", "ReferencedSeriesSequence"]


def read_marks(sr: Path) -> dict[str, list[Box]]:
    """Read the outlined masses of each image.

    Every outline with spatial coordinates of an image counts, whoever drew it: SCOORD items of any report (TID 1500 and
    others), graphic objects of a presentation state in pixels. A box spans its outline; points are passed over.

    Args:
        sr: the DICOM file.

    Returns:
        SOP Instance UID of an image -> boxes in pixels of it, in the file's order, each once.

    Raises:
        DataError: the file is no DICOM file of marks, is broken, or holds no outline.
        RefusedInputError: outlines on later frames of an image, or too many of them.
    """
    with silenced():
        try:
            found = _read(sr)
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "a broken or other file"
            raise DataError(f"`marks` must be a DICOM report of outlined masses, got {reason}: {sr}.") from None
    if not found:
        raise DataError(f"`marks` must hold outlines of masses, got none in {sr}.")
    return found


def _read(path: Path) -> dict[str, list[Box]]:
    if path.stat().st_size > MAX_BYTES:
        raise RefusedInputError(f"`marks` must have at most {MAX_BYTES // 1_000_000} MB, got more in {path}.")
    found: dict[str, list[Box]] = {}
    outlines = _outlines(dcmread(path, force=True, specific_tags=list(_TAGS)), path)
    for number, (image, box) in enumerate(outlines):
        if number == MAX_MARKS:
            raise RefusedInputError(f"`marks` must hold at most {MAX_MARKS} outlines, got more in {path}.")
        boxes = found.setdefault(image, [])
        if box not in boxes:
            boxes.append(box)
    return found


def _outlines(dataset: Dataset, path: Path) -> Iterator[tuple[str, Box]]:
    """Yield each outline's image and box."""
    if "GraphicAnnotationSequence" in dataset:
        yield from _graphics(dataset, path)
    yield from _coordinates(dataset, path, 0)


def _coordinates(item: Dataset, path: Path, depth: int) -> Iterator[tuple[str, Box]]:
    """Walk a content tree: PS3.3, C.17.3 and C.18.6."""
    if depth > _MAX_DEPTH:
        raise RefusedInputError(f"`marks` must be nested at most {_MAX_DEPTH} deep, got more in {path}.")
    for child in item.get("ContentSequence") or []:
        if child.get("ValueType") == "SCOORD" and child.get("GraphicType") in _OUTLINES:
            box = _box(child.GraphicType, child.GraphicData, path)
            for selected in child.get("ContentSequence") or []:
                for image in selected.get("ReferencedSOPSequence") or []:
                    yield _image(image, path), box
        else:
            yield from _coordinates(child, path, depth + 1)


def _graphics(dataset: Dataset, path: Path) -> Iterator[tuple[str, Box]]:
    """Walk a presentation state's annotations: PS3.3, C.10.5; without a reference they belong to all its images."""
    everywhere = [
        image
        for series in dataset.get("ReferencedSeriesSequence") or []
        for image in series.get("ReferencedImageSequence") or []
    ]
    for annotation in dataset.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence") or []:
            if graphic.get("GraphicAnnotationUnits") == "PIXEL" and graphic.get("GraphicType") in _OUTLINES:
                box = _box(graphic.GraphicType, graphic.GraphicData, path)
                for image in annotation.get("ReferencedImageSequence") or everywhere:
                    yield _image(image, path), box


def _image(reference: Dataset, path: Path) -> str:
    frames = np.atleast_1d(reference.get("ReferencedFrameNumber") or 1)
    if any(int(frame) != 1 for frame in frames):
        raise RefusedInputError(f"`marks` must be on images of one frame, got a later frame in {path}.")
    return str(reference.ReferencedSOPInstanceUID)


def _box(graphic_type: str, data: Sequence[float], path: Path) -> Box:
    """Span an outline; an ellipse is given by the ends of its axes, a circle by its center and a point of it."""
    points = np.asarray(data, dtype=np.float64).reshape(-1, 2)
    if graphic_type == "CIRCLE" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        low, high = points[0] - radius, points[0] + radius
    elif graphic_type == "ELLIPSE" and len(points) == 4:
        center = (points[0] + points[1]) / 2
        reach = np.hypot((points[1] - points[0]) / 2, (points[3] - points[2]) / 2)
        low, high = center - reach, center + reach
    else:
        low, high = points.min(axis=0), points.max(axis=0)
    box = Box(*low.tolist(), *high.tolist())
    if not (box.is_finite and box.has_area):
        raise DataError(f"`marks` must be outlines with an area, got one without in {path}.")
    return box
