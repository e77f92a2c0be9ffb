"""A picture any viewer shows: the mammogram with its masses framed, their scores and the notice burned in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import UInt8
from PIL import ImageDraw, ImageFont
from pydicom.uid import UID, ExplicitVRLittleEndian

from diagnet.arrays import Image
from diagnet.atomic import atomic_path
from diagnet.clinic.identifiers import result_uid, series_of
from diagnet.clinic.privacy import without_path
from diagnet.clinic.source import read_source, writing_about
from diagnet.data.box import Box
from diagnet.data.dicom import read_mammogram
from diagnet.inference.assessment import Assessment
from diagnet.notice import NOTICE

Picture = UInt8[np.ndarray, "row column 3"]

_HEIGHT = 2048  # of the mammogram in the picture; enough to find the mass, and 20 MB at most
_SERIES_NUMBER = 9002
_COLORS = {
    "malignant": (255, 96, 96),
    "benign": (96, 200, 255),
    "abstained": (255, 214, 64),
    "refused": (190, 190, 190),
}


def write_secondary_capture(
    assessments: Sequence[Assessment], source: Path, out: Path, *, allow_for_processing: bool = False
) -> UID:
    """Write the picture of `drawn` as a secondary capture image in the image's study.

    Args:
        assessments: of masses of one image.
        source: the DICOM image; its patient and study are copied.
        out: file to write; whole or not at all.
        allow_for_processing: show raw detector data too.

    Returns:
        The picture's SOP Instance UID, see `identifiers.result_uid`.

    Raises:
        DataError: `source` is no DICOM image, or broken.
        RefusedInputError: `source` must not be shown, or lacks the UIDs a result refers to.
        MissingExtraError: the extra `pacs`, or `dicom` for its compression, is not installed.
        ValueError: there are no assessments.

    Source: PS3.3, A.8.1 and C.8.6.1.
    """
    header = read_source(source)
    uid = result_uid("picture", header.SOPInstanceUID, assessments)
    picture = drawn(read_mammogram(source, allow_for_processing=allow_for_processing).pixels, assessments)
    with writing_about(source):
        from highdicom import CoordinateSystemNames, PhotometricInterpretationValues
        from highdicom.sc import SCImage

        image = SCImage.from_ref_dataset(
            ref_dataset=header,
            pixel_array=picture,
            photometric_interpretation=PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=CoordinateSystemNames.PATIENT,
            **series_of(uid, _SERIES_NUMBER, assessments[0].notice),
            patient_orientation=("A", "F"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        image.copy_patient_and_study_information(header)
        image.PatientOrientation = []  # empty: type 2C, and what the source says may be no orientation
        image.BurnedInAnnotation = "YES"  # scores and the notice, no identifiers; what the film shows stays
        image.ImageComments = assessments[0].notice
        image.Laterality = assessments[0].laterality
        with atomic_path(out) as temporary:
            image.save_as(temporary, enforce_file_format=True)
    return uid


def drawn(pixels: Image, assessments: Sequence[Assessment]) -> Picture:
    """Draw the mammogram with a frame and a line of text for each mass, between two lines of notice.

    Args:
        pixels: grey values in [0, 1].
        assessments: what to draw; boxes in pixels of the image.
    """
    scale = min(1.0, _HEIGHT / pixels.shape[0])
    size = (max(round(pixels.shape[1] * scale), 320), round(pixels.shape[0] * scale))
    grey = PIL.Image.fromarray((255 * np.clip(pixels, 0, 1) + 0.5).astype(np.uint8))
    breast = grey.resize((max(round(pixels.shape[1] * scale), 1), size[1]), PIL.Image.Resampling.BOX)
    text_height = max(14, size[1] // 70)
    font = ImageFont.load_default(text_height)
    bar = 2 * text_height
    rows = [_line(number, found) for number, found in enumerate(assessments, start=1)]
    canvas = PIL.Image.new("RGB", (size[0], size[1] + 2 * bar + text_height * 3 // 2 * len(rows)))
    canvas.paste(breast.convert("RGB"), (0, bar))
    draw = ImageDraw.Draw(canvas)
    notice = assessments[0].notice if assessments else NOTICE
    for top in (text_height // 2, canvas.height - bar + text_height // 2):
        draw.text((size[0] / 2, top), notice, font=_fitting(notice, size[0], text_height), fill="white", anchor="ma")
    for number, found in enumerate(assessments, start=1):
        _frame(draw, found.box, scale, bar, number, _COLORS[found.decision], font, size)
        line = rows[number - 1]
        top = bar + size[1] + text_height * 3 // 2 * (number - 1) + text_height // 4
        fitting = _fitting(line, size[0] - text_height, text_height)
        draw.text((text_height // 2, top), line, font=fitting, fill=_COLORS[found.decision])
    return np.asarray(canvas)


def score_text(found: Assessment) -> str:
    """What stands beside a mass: its decision and score."""
    if found.malignancy is None:
        return found.decision
    stamp = "SYNTHETIC MODEL: " if found.is_synthetic else ""
    return f"{stamp}{found.decision}, probability {100 * found.malignancy:.1f} %"


def _line(number: int, found: Assessment) -> str:
    line = f"{number}: {score_text(found)} (malignant from {100 * found.threshold:.1f} %)"
    return f"{line}: {without_path(found.reason, found.image)}" if found.reason else line


def _fitting(text: str, width: int, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The default font, small enough for a line."""
    font = ImageFont.load_default(height)
    length = font.getlength(text)
    return font if length <= width else ImageFont.load_default(max(8, int(height * width / length)))


def _frame(
    draw: ImageDraw.ImageDraw,
    box: Box,
    scale: float,
    top: int,
    number: int,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Draw a frame around a box, outside its pixels, with a dark seam so that it stands out on white, and a number."""
    width = max(2, size[1] // 700)
    x0, y0, x1, y1 = map(round, box.scaled(scale, scale))
    outer = (x0 - 2 * width, y0 + top - 2 * width, x1 + 2 * width, y1 + top + 2 * width)
    draw.rectangle(outer, outline="black", width=width)
    inner = (outer[0] + width, outer[1] + width, outer[2] - width, outer[3] - width)
    draw.rectangle(inner, outline=color, width=width)
    beside = outer[2] + 2 * width
    is_left = beside + font.getlength(str(number)) > size[0]
    place, anchor = ((outer[0] - 2 * width, outer[1]), "ra") if is_left else ((beside, outer[1]), "la")
    draw.text(place, str(number), font=font, fill=color, stroke_width=width, stroke_fill="black", anchor=anchor)
