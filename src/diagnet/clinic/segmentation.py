"""What was marked, pixel by pixel: a binary segmentation of the mammogram, one segment a mass."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from pydicom.uid import UID

from diagnet.atomic import atomic_path
from diagnet.clinic.identifiers import mass_uid, result_uid, series_of, stable_uid
from diagnet.clinic.marks import Outline
from diagnet.clinic.report import corners, side_code
from diagnet.clinic.source import read_source, writing_about
from diagnet.data.box import Box
from diagnet.errors import RefusedInputError
from diagnet.inference.assessment import Assessment
from diagnet.version import __version__

MAX_PIXELS = 512_000_000  # of all segments together: 30 masses on a mammogram of 4096 x 3328 pixels
_SERIES_NUMBER = 9004


def write_segmentation(
    assessments: Sequence[Assessment], source: Path, out: Path, outlines: Mapping[Box, Outline] | None = None
) -> UID:
    """Write which pixels were marked as a segmentation in the image's study.

    A segment has the number, the name and the tracking UID that its mass has in the structured report. It holds what a
    reader marked, not what the model found, so its algorithm type is MANUAL. A mark without a pixel of the image has a
    segment without a frame.

    Args:
        assessments: of masses of one image that could be read.
        source: the DICOM image, of one frame; its patient and study are copied.
        out: file to write; whole or not at all.
        outlines: of masses that were marked by more than a box, by their boxes, as (column, row) in pixels.

    Returns:
        The segmentation's SOP Instance UID, see `identifiers.result_uid`.

    Raises:
        DataError: `source` is no DICOM image.
        RefusedInputError: the image could not be read, no pixel of it is marked, too many are, or `source` lacks the
            UIDs a result refers to.
        MissingExtraError: the extra `pacs` is not installed.
        ValueError: there are no assessments.

    Source: PS3.3, A.51 and C.8.20.
    """
    header = read_source(source)
    shapes = [(outlines or {}).get(found.box, corners(found.box)) for found in assessments]
    drawn = [shape.tobytes() for found, shape in zip(assessments, shapes, strict=True) if found.box in (outlines or {})]
    uid = result_uid("segmentation", header.SOPInstanceUID, assessments, drawn)
    if not all(found.input_sha256 for found in assessments):  # neither its size nor its frames can be believed
        raise RefusedInputError(
            f"`source` must be an image that can be read for a segmentation, got another: {source}."
        )
    height, width = int(header.Rows), int(header.Columns)
    if height * width * len(shapes) > MAX_PIXELS:
        most = MAX_PIXELS // (height * width)
        raise RefusedInputError(f"`assessments` must be at most {most} for this image's size, got {len(shapes)}.")
    masks = np.stack([pixels_inside(shape, height, width) for shape in shapes], axis=-1)
    if not masks.any():
        raise RefusedInputError("`box` must hold a pixel of its image for a segmentation, got none that does.")
    header.pop("PixelSpacing", None)  # the image's own; highdicom reads no spacing back that has no slice thickness
    with writing_about(source):
        from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
        from highdicom.sr import CodedConcept
        from pydicom.sr.codedict import codes

        segments = []
        for number, found in enumerate(assessments, start=1):
            segment = SegmentDescription(
                segment_number=number,
                segment_label=f"Mass {number}",
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=codes.SCT.MammographicBreastMass,
                algorithm_type="MANUAL",
                tracking_uid=mass_uid(header.SOPInstanceUID, found.box),
                tracking_id=f"Mass {number}",
                anatomic_regions=[codes.SCT.Breast],
            )
            side = side_code(found)
            if side is not None:
                segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [CodedConcept(*side[:3])]
            segments.append(segment)
        image = Segmentation(
            source_images=[header],
            pixel_array=masks[None].view(np.uint8),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            **series_of(uid, _SERIES_NUMBER, assessments[0].notice),
            device_serial_number=__version__,
            content_label="DIAGNET",
            content_description=assessments[0].notice,
        )
        image.PatientOrientation = []  # empty: type 2C, and what the source says may be no orientation
        dimensions = stable_uid("dimensions", uid)  # highdicom's is another one each time
        for each in (*image.DimensionOrganizationSequence, *image.DimensionIndexSequence):
            each.DimensionOrganizationUID = dimensions
        with atomic_path(out) as temporary:
            image.save_as(temporary, enforce_file_format=True)
    return uid


def pixels_inside(outline: Outline, height: int, width: int) -> Bool[np.ndarray, "row column"]:
    """Find the pixels whose centers lie inside a closed outline; where it crosses itself, by the even-odd rule.

    Args:
        outline: (column, row) of its points; (0, 0) is the outer corner of the first pixel. The last point is joined to
            the first.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    if not np.isfinite(outline).all():
        return mask
    begin, end = outline, np.roll(outline, -1, axis=0)
    rows = outline[:, 1].clip(0, height)
    for row in range(*np.ceil([rows.min() - 0.5, rows.max() - 0.5]).astype(int)):
        center = row + 0.5
        crosses = (begin[:, 1] <= center) != (end[:, 1] <= center)
        (x0, y0), (x1, y1) = begin[crosses].T, end[crosses].T
        columns = np.sort(x0 + (center - y0) / (y1 - y0) * (x1 - x0))
        for left, right in np.ceil(columns.clip(0, width) - 0.5).astype(int).reshape(-1, 2):
            mask[row, left:right] = True
    return mask
