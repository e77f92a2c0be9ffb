"""Marks that a reader made: outlines in a structured report or a presentation state -> boxes for each image."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydicom.dataset import Dataset

from diagnet.clinic.privacy import silenced
from diagnet.data.box import Box
from diagnet.data.dicom_objects import parsed
from diagnet.data.reading_process import apart
from diagnet.data.regular_file import regular_size
from diagnet.errors import DataError, DiagNetError, RefusedInputError

MAX_MARKS = 1000
MAX_BYTES = 64_000_000  # a report of marks has a few thousand
_MAX_DEPTH = 50
_OUTLINES = ("POLYLINE", "CIRCLE", "ELLIPSE", "INTERPOLATED")  # a point or several have no extent
_NEARLY_CLOSED = 8  # points from which a line may be closed though its ends are a little apart
_LEAST_WIDTH = 0.5  # pixels: what is thinner is a line, there and back
_MAX_POINTS = 10_000  # of an outline that is kept; one of more is its box
_N_OF_ELLIPSE = 256  # points that stand for a circle or an ellipse
_EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")  # PS3.3, C.17.2.3
_TAGS = [
    "SOPClassUID", "Modality", "ContentSequence", "GraphicAnnotationSequence", "ReferencedSeriesSequence",
    "PatientID", "IssuerOfPatientID", "StudyInstanceUID", *_EVIDENCE,
]  # fmt: skip


Outline = Float64[np.ndarray, "point 2"]  # the last point is joined to the first


class Marks(dict[str, list[Box]]):
    """SOP Instance UID of an image -> boxes in pixels of it, in the file's order, each once.

    Attributes:
        n_passed: marks that outline no mass, or cannot be used.
        patient: identifier and issuer of the patient that they are of.
        study: UID of the study that they are in.
        studies: UID of an image -> UIDs of the studies that they say it is in.
        outlines: UID of an image -> box -> (column, row) of the outline that it spans, where that is no box itself.
    """

    n_passed = 0
    patient = "", ""
    study = ""
    studies: dict[str, set[str]]
    outlines: dict[str, dict[Box, Outline]]

    def require_same(self, image: Dataset) -> None:
        """Check that these marks are of the same patient and study as an image that they name.

        A UID alone does not tell: one that was given twice would put a patient's marks on another's image.

        Args:
            image: its header.

        Raises:
            RefusedInputError: they are not.
        """
        identifier, issuer = _patient(image)
        if identifier != self.patient[0] or (issuer and self.patient[1] and issuer != self.patient[1]):
            raise RefusedInputError("`marks` must be of the patient of their image, got another patient's.")
        said = self.studies.get(str(image.get("SOPInstanceUID", "")), {self.study})
        if str(image.get("StudyInstanceUID", "")) not in said:
            raise RefusedInputError("`marks` must be of the study of their image, got another study's.")


def read_marks(sr: Path) -> Marks:
    """Read the outlined masses of each image.

    Every closed outline with an area and spatial coordinates of an image counts, whoever drew it: SCOORD items of any
    report (TID 1500 and others), graphic objects of a presentation state in pixels. A box spans its outline. Points,
    lines, angles, arrows, axes, and items that are malformed or on later frames are passed over and counted.

    Args:
        sr: the DICOM file.

    Raises:
        DataError: the file is no DICOM file of marks, is broken, or holds no outline.
        RefusedInputError: it is nested too deep, too large, or holds too many outlines; or none but on later frames.
    """
    found = Marks()
    boxes, found.n_passed, found.patient, found.study, studies, outlines = _found(sr)
    found.studies = {image: set(named) for image, named in studies}
    found.outlines = {}
    for image, box, points in outlines:
        found.outlines.setdefault(image, {})[box] = points
    found.update(boxes)
    return found


@apart(Box, name="marks")
def _found(
    sr: Path,
) -> tuple[
    dict[str, list[Box]], int, tuple[str, str], str, list[tuple[str, list[str]]], list[tuple[str, Box, Outline]]
]:
    with silenced():
        try:
            found, error = _read(sr)
        except DiagNetError:
            raise
        except Exception as error:  # pydicom raises whatever a broken file makes it meet
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "a broken or other file"
            raise DataError(f"`marks` must be a DICOM report of outlined masses, got {reason}: {sr}.") from None
    if not found:
        raise error or DataError(f"`marks` must hold outlines of masses, got none in {sr}.")
    studies = [(image, sorted(named)) for image, named in found.studies.items()]
    outlines = [(image, box, points) for image, each in found.outlines.items() for box, points in each.items()]
    return dict(found), found.n_passed, found.patient, found.study, studies, outlines


def _read(path: Path) -> tuple[Marks, DiagNetError | None]:
    """Read marks, and what is wrong with the first one that is."""
    if regular_size(path, "marks") > MAX_BYTES:
        raise RefusedInputError(f"`marks` must have at most {MAX_BYTES // 1_000_000} MB, got more in {path}.")
    dataset, _ = parsed(path, _TAGS, name="marks", max_inflated=MAX_BYTES)
    found, first = Marks(), None
    n_outlines, found.outlines = 0, {}
    found.patient, found.study, found.studies = _patient(dataset), _text(dataset, "StudyInstanceUID"), _studies(dataset)
    for references, graphic in _drawn(dataset, path):
        try:
            images = [_image(reference, path) for reference in references()]
            outlined = _outlined(graphic, path)
        except Exception as error:  # pydicom raises whatever a broken item makes it meet; the others stand
            first = first or (error if isinstance(error, DiagNetError) else None)
            outlined, images = None, []
        if outlined is None or not images:
            found.n_passed += 1
            continue
        box, points = outlined
        for image in images:
            n_outlines += 1
            if n_outlines > MAX_MARKS:
                raise RefusedInputError(f"`marks` must hold at most {MAX_MARKS} outlines, got more in {path}.")
            boxes = found.setdefault(image, [])
            if box not in boxes:
                boxes.append(box)
                if points is not None:
                    found.outlines.setdefault(image, {})[box] = points
    return found, first


def _text(dataset: Dataset, keyword: str) -> str:
    """An element as text; "" where it is absent or broken."""
    try:
        return str(dataset.get(keyword) or "").strip()
    except Exception:  # pydicom raises whatever a malformed value makes it meet
        return ""


def _patient(dataset: Dataset) -> tuple[str, str]:
    return _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")


def _studies(dataset: Dataset) -> dict[str, set[str]]:
    """Read from a report's evidence which study each of its images is in."""
    found: dict[str, set[str]] = {}
    for keyword in _EVIDENCE:
        for study in _items(dataset, keyword):
            for series in _items(study, "ReferencedSeriesSequence"):
                for image in _items(series, "ReferencedSOPSequence"):
                    uid = _text(image, "ReferencedSOPInstanceUID")
                    found.setdefault(uid, set()).add(_text(study, "StudyInstanceUID"))
    return found


References = Callable[[], Sequence[Dataset]]  # read late, because what a broken file holds may be anything


def _drawn(dataset: Dataset, path: Path) -> Iterator[tuple[References, Dataset]]:
    """Yield all that was drawn, each with what refers to its images."""
    if "GraphicAnnotationSequence" in dataset:
        yield from _graphics(dataset)
    yield from _coordinates(dataset, path, 0)


def _coordinates(item: Dataset, path: Path, depth: int) -> Iterator[tuple[References, Dataset]]:
    """Walk a content tree: PS3.3, C.17.3 and C.18.6."""
    if depth > _MAX_DEPTH:
        raise RefusedInputError(f"`marks` must be nested at most {_MAX_DEPTH} deep, got more in {path}.")
    for child in _items(item, "ContentSequence"):
        if child.get("ValueType") in ("SCOORD", "SCOORD3D"):
            yield partial(_selected, child), child
        else:
            yield from _coordinates(child, path, depth + 1)


def _selected(item: Dataset) -> list[Dataset]:
    return [
        image for selected in item.get("ContentSequence") or [] for image in selected.get("ReferencedSOPSequence") or []
    ]


def _graphics(dataset: Dataset) -> Iterator[tuple[References, Dataset]]:
    """Walk a presentation state's annotations: PS3.3, C.10.5; without a reference they belong to all its images."""
    everywhere = [
        image
        for series in _items(dataset, "ReferencedSeriesSequence")
        for image in _items(series, "ReferencedImageSequence")
    ]
    for annotation in _items(dataset, "GraphicAnnotationSequence"):
        images = _items(annotation, "ReferencedImageSequence") or everywhere
        for keyword in ("GraphicObjectSequence", "CompoundGraphicSequence"):
            for graphic in _items(annotation, keyword):
                yield partial(list, images), graphic


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent, or malformed beside others that are not."""
    try:
        found = dataset.get(keyword) or []
        return [item for item in found if isinstance(item, Dataset)]
    except Exception:  # pydicom raises whatever a broken item makes it meet
        return []


def _image(reference: Dataset, path: Path) -> str:
    frames = np.atleast_1d(reference.get("ReferencedFrameNumber") or 1)
    if any(int(frame) != 1 for frame in frames):
        raise RefusedInputError(f"`marks` must be on images of one frame, got a later frame in {path}.")
    return str(reference.ReferencedSOPInstanceUID)


def _outlined(graphic: Dataset, path: Path) -> tuple[Box, Outline | None] | None:
    """Span a closed outline with an area, and keep it where it is not its box; None where it is something else.

    An ellipse is given by the ends of its axes, a circle by its center and a point of it.
    """
    kind = graphic.get("GraphicType")
    if kind not in _OUTLINES or graphic.get("ValueType") == "SCOORD3D":
        return None
    if graphic.get("GraphicAnnotationUnits", "PIXEL") != "PIXEL":
        return None
    points = np.asarray(graphic.GraphicData, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise DataError(f"`marks` must be at finite places, got others in {path}.")
    if kind == "CIRCLE" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        low, high, width = points[0] - radius, points[0] + radius, 2 * radius
        points = _ellipse(points[0], radius * np.eye(2))
    elif kind == "ELLIPSE" and len(points) == 4:
        axes = np.array([points[1] - points[0], points[3] - points[2]]) / 2
        center, reach = (points[0] + points[1]) / 2, np.hypot(*axes)
        low, high, width = center - reach, center + reach, 2 * float(np.hypot(*axes.T).min())
        points = _ellipse(center, axes)
    elif kind in ("CIRCLE", "ELLIPSE"):
        raise DataError(f"`marks` must have the points of their shape, got {len(points)} of a {kind} in {path}.")
    elif not _is_closed(points, is_filled=graphic.get("GraphicFilled") == "Y"):
        return None
    else:
        low, high, width = points.min(axis=0), points.max(axis=0), _width(points)
    if width < _LEAST_WIDTH:
        return None
    box = Box(*low.tolist(), *high.tolist())
    is_box = {*map(tuple, points.tolist())} == set(itertools.product((box.x0, box.x1), (box.y0, box.y1)))
    return box, None if is_box or len(points) > _MAX_POINTS else points


def _ellipse(center: Float64[np.ndarray, "2"], axes: Float64[np.ndarray, "2 2"]) -> Outline:
    """Place points on an ellipse of these half axes."""
    angles = np.linspace(0, 2 * np.pi, _N_OF_ELLIPSE, endpoint=False)
    return np.asarray(center + np.stack([np.cos(angles), np.sin(angles)], axis=1) @ axes)


def _is_closed(points: Float64[np.ndarray, "point 2"], *, is_filled: bool) -> bool:
    """Tell whether a line ends where it begins; one of many points may leave a gap as wide as two usual steps of it."""
    if len(points) < 3:
        return False
    step = float(np.median(np.hypot(*np.diff(points, axis=0).T)))
    gap = float(np.hypot(*(points[-1] - points[0])))
    return is_filled or gap <= _LEAST_WIDTH or (len(points) >= _NEARLY_CLOSED and gap <= 2 * step)


def _width(points: Float64[np.ndarray, "point 2"]) -> float:
    """How far points reach across the line that they lie along; 0 where they lie on one."""
    centered = points - points.mean(axis=0)
    across = np.linalg.svd(centered, full_matrices=False)[2][-1]
    return float(np.ptp(centered @ across))
