"""A page that people read: the mammogram, each mass with its score and what it means, as a PDF (in a DICOM file)."""

import importlib.util
import io
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from pydicom.dataset import Dataset
from pydicom.uid import UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian

from diagnet.arrays import Image
from diagnet.atomic import atomic_path
from diagnet.clinic.identifiers import MANUFACTURER, MODEL_NAME, mass_uid, result_uid, series_of
from diagnet.clinic.picture import score_text
from diagnet.clinic.privacy import without_path
from diagnet.clinic.source import read_source, writing_about
from diagnet.data.box import Box
from diagnet.data.dicom import read_mammogram
from diagnet.errors import DataError, MissingExtraError, RefusedInputError, printable
from diagnet.inference.assessment import Assessment
from diagnet.notice import NO_DEVICE, SYNTHETIC_FLAG
from diagnet.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES_NUMBER = 9005
_WIDTH, _HEIGHT, _EDGE = 595.0, 842.0, 40.0  # A4 in points
_OVERVIEW = 230.0  # longer side of the mammogram in points
_LEADING = 1.35  # from line to line, times the size of letters
_CROP = (118.0, 200.0)  # least and largest side of a mass' picture in points
_FOOT = 62.0  # points that the foot takes
_SHARP = 4  # pixels of a picture for a point
_AROUND = 2.0  # times a mass' longer side that its picture shows
_INK = {"malignant": "#b00020", "benign": "#00558b", "abstained": "#7a5200", "refused": "#4a4a4a"}
_FONT = "DejaVu Sans"
_STYLE: Any = {  # matplotlib's type of this lists every setting there is
    "pdf.fonttype": 42,  # text that can be searched and copied
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": _FONT,  # comes with matplotlib, so that a page is the same everywhere
}


def write_result_page(
    assessments: Sequence[Assessment],
    source: Path,
    out: Path,
    meanings: Sequence[str] = (),
    *,
    allow_for_processing: bool = False,
) -> UID:
    """Write `page` of one image as an encapsulated PDF in the image's study.

    It has the facts of the structured report and what the scores mean, and no name or identifier of the patient. Where
    the image must not be shown there is no picture. The PDF depends on its input alone: it holds no date but the
    study's.

    Args:
        assessments: of masses of one image.
        source: the DICOM image; its patient and study are copied into the DICOM file.
        out: file to write; whole or not at all. One that ends in `.pdf` is the bare PDF, any other a DICOM file.
        meanings: what each mass' score means, as `predictive_value.Meaning.text` has it; "" where that is not known.
        allow_for_processing: show raw detector data too.

    Returns:
        The document's SOP Instance UID, see `identifiers.result_uid`.

    Raises:
        DataError: `source` is no DICOM image.
        RefusedInputError: `source` lacks the UIDs a result refers to.
        MissingExtraError: the extra `pacs` or `report` is not installed.
        ValueError: there are no assessments.

    Source: PS3.3, A.45.1 and C.24.2.
    """
    require_report()
    header = read_source(source)
    uid = result_uid("page", header.SOPInstanceUID, assessments, meanings)
    try:
        pixels = read_mammogram(source, allow_for_processing=allow_for_processing).pixels
    except (DataError, RefusedInputError):  # the reason stands beside its masses
        pixels = None
    with writing_about(source):
        content = page(assessments, header, pixels, meanings)
        with atomic_path(out) as temporary:
            if out.suffix.lower() == ".pdf":
                temporary.write_bytes(content)
            else:
                _enclosed(content, uid, header, assessments[0]).save_as(temporary, enforce_file_format=True)
    return uid


def require_report() -> None:
    """Check that the extra `report` is there.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")


def page(
    assessments: Sequence[Assessment], header: Dataset, pixels: Image | None, meanings: Sequence[str] = ()
) -> bytes:
    """Draw one A4 page: notice, mammogram and model, then as many masses as fit, the others in a line each.

    Args:
        assessments: of masses of one image.
        header: of the image.
        pixels: grey values in [0, 1]; None where there is nothing to show.
        meanings: what each mass' score means; "" where that is not known.

    Returns:
        The PDF.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        sheet = _Sheet(Figure(figsize=(_WIDTH / 72, _HEIGHT / 72)))
        _head(sheet, assessments[0])
        _image_and_model(sheet, assessments, header, pixels)
        said = [*meanings, *[""] * (len(assessments) - len(meanings))]
        _masses(sheet, assessments, header, pixels, said)
        _foot(sheet, assessments[0])
        file = io.BytesIO()
        title = f"{MODEL_NAME}: result of {len(assessments)} marked masses. {assessments[0].notice}"
        sheet.figure.savefig(file, format="pdf", metadata={"Title": title, "CreationDate": None})
    return file.getvalue()


class _Sheet:
    """A page that is filled from above; places are points from its upper left corner."""

    def __init__(self, figure: "Figure") -> None:
        self.figure, self.top = figure, _EDGE

    @property
    def room(self) -> float:
        """What is left above the foot, in points."""
        return _HEIGHT - _EDGE - _FOOT - self.top

    def write(self, text: str, left: float, top: float, size: float = 8.5, **how: Any) -> None:
        """Write a line whose upper end is at `top`."""
        place = left / _WIDTH, 1 - (top + 0.93 * size) / _HEIGHT
        self.figure.text(*place, _shown(text), fontsize=size, va="baseline", **how)

    def fill(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Paint a rectangle."""
        from matplotlib.patches import Rectangle

        corner = left / _WIDTH, 1 - (top + height) / _HEIGHT
        painted = Rectangle(corner, width / _WIDTH, height / _HEIGHT, color=color, lw=0, zorder=-1)
        self.figure.add_artist(painted)

    def show(self, pixels: Image, part: Box, left: float, top: float, side: float) -> tuple[Any, float, float]:
        """Show a part of an image inside a square; returns what more is drawn on, in pixels, and its size in points."""
        x0, y0, x1, y1 = map(round, part)
        scale = side / max(x1 - x0, y1 - y0)
        width, height = (x1 - x0) * scale, (y1 - y0) * scale
        grey = PIL.Image.fromarray((255 * np.clip(pixels[y0:y1, x0:x1], 0, 1) + 0.5).astype(np.uint8))
        if max(grey.size) > _SHARP * side:
            grey = grey.resize((round(_SHARP * width), round(_SHARP * height)), PIL.Image.Resampling.BOX)
        place = left / _WIDTH, 1 - (top + height) / _HEIGHT, width / _WIDTH, height / _HEIGHT
        axes = self.figure.add_axes(place, xticks=[], yticks=[], frame_on=False)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(x0, x1, y1, y0), aspect="auto", interpolation="none")
        return axes, width, height


def _head(sheet: _Sheet, first: Assessment) -> None:
    """The notice, and what no reader may overlook."""
    lines = [first.notice, NO_DEVICE, *([SYNTHETIC_FLAG] if first.is_synthetic else [])]
    height = 16.0 + 13 * len(lines)
    sheet.fill(0.0, 0.0, _WIDTH, height, "#b00020" if first.is_synthetic else "#20303c")
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        sheet.write(line, _EDGE, 10.0 + 13 * number, 10.0 if number == 0 else 8.5, color="white", weight=weight)
    sheet.top = height + 14
    sheet.write("Marked masses and their scores", _EDGE, sheet.top, 15.0, weight="bold")
    sheet.top += 28


def _image_and_model(sheet: _Sheet, assessments: Sequence[Assessment], header: Dataset, pixels: Image | None) -> None:
    """The mammogram with its masses, beside what is known of it and of what scored it."""
    first, width = assessments[0], 0.0
    bottom = sheet.top
    if pixels is not None:
        whole = Box.whole(pixels.shape[1], pixels.shape[0])
        axes, width, height = sheet.show(pixels, whole, _EDGE, sheet.top, _OVERVIEW)
        for number, found in enumerate(assessments, start=1):
            _framed(axes, found, whole, number)
        axes.set(xlim=(0, whole.x1), ylim=(whole.y1, 0))
        bottom += height
    left = _EDGE + (width + 18 if width else 0)
    counts = {name: sum(found.decision == name for found in assessments) for name in _INK}
    study = str(header.StudyDate)
    facts = {
        "Image": ", ".join(filter(None, ({"L": "left", "R": "right"}.get(first.laterality), first.view)))
        or "not known",
        "Study of": f"{study[:4]}-{study[4:6]}-{study[6:]}" if study else "not known",
        "SOP Instance UID": str(header.SOPInstanceUID),
        "Masses": ", ".join(f"{count} {name}" for name, count in counts.items() if count),
        "Score": "calibrated probability of cancer of a marked mass",
        "Operating point": f"malignant from {100 * first.threshold:.4g} %",
        "Algorithm": f"{MODEL_NAME} {__version__}, by {MANUFACTURER}",
        "Model (SHA-256)": first.model_sha256,
        "State": "preliminary, not verified by a reader",
    }
    top = sheet.top
    for name, value in facts.items():
        sheet.write(name, left, top, 7.0, color="#5a6770")
        for line in _wrapped(value, _WIDTH - _EDGE - left, 8.5):
            sheet.write(line, left, top + 9)
            top += 11
        top += 13
    sheet.top = max(bottom, top) + 12


def _masses(
    sheet: _Sheet,
    assessments: Sequence[Assessment],
    header: Dataset,
    pixels: Image | None,
    meanings: Sequence[str],
) -> None:
    """A block for each mass while there is room, then a line each, then how many are left."""
    line, shown = 12.0, 0
    side = min(max(sheet.room / len(assessments) - 14, _CROP[0]), _CROP[1])
    for number, (found, meaning) in enumerate(zip(assessments, meanings, strict=True), start=1):
        picture = _surroundings(found.box, pixels)
        left = _EDGE + (side + 14 if picture else 0)
        lines = [
            (size, color, part)
            for size, color, text in _said(number, found, meaning, header)
            for part in _wrapped(text, _WIDTH - _EDGE - left, size)
        ]
        height = max(side if picture else 0, sum(_LEADING * size for size, _, _ in lines)) + 12
        if height + min(line * (len(assessments) - number), 3 * line) > sheet.room:
            break
        sheet.fill(_EDGE, sheet.top - 6, _WIDTH - 2 * _EDGE, 0.6, "#c4ccd2")
        if picture and pixels is not None:
            axes, _, _ = sheet.show(pixels, picture, _EDGE, sheet.top, side)
            _framed(axes, found, picture)
            axes.set(xlim=(picture.x0, picture.x1), ylim=(picture.y1, picture.y0))
        top = sheet.top
        for size, color, text in lines:
            sheet.write(text, left, top, size, color=color)
            top += _LEADING * size
        sheet.top += height
        shown = number
    rest = list(enumerate(assessments, start=1))[shown:]
    while rest and sheet.room > line * (1 if len(rest) == 1 else 2):
        number, found = rest.pop(0)
        text = f"Mass {number}: {score_text(found)}. Box {found.box.shown()}"
        sheet.write(text, _EDGE, sheet.top, color=_INK[found.decision])
        sheet.top += line
    if rest:
        sheet.write(f"and {len(rest)} more masses: the structured report has them", _EDGE, sheet.top)


def _said(number: int, found: Assessment, meaning: str, header: Dataset) -> Iterator[tuple[float, str, str]]:
    """What is said of a mass: size, color and text of each paragraph."""
    yield 12.0, _INK[found.decision], f"Mass {number}: {score_text(found)}"
    if found.reason:
        yield 8.5, "black", f"Reason: {without_path(found.reason, found.image)}"
    if meaning:
        yield 8.5, "black", f"What such a score means: {meaning}"
    for flag in found.flags:
        if flag != SYNTHETIC_FLAG:  # stands above
            yield 8.5, "#7a5200", f"Note: {flag}"
    size = ""
    if found.spacing_mm is not None:
        row, column = found.spacing_mm
        size = f", {found.box.width * column:.3g} x {found.box.height * row:.3g} mm"
    yield 7.0, "#3f4a52", f"Marked box in pixels: {found.box.shown()}{size}"
    if found.steps:
        yield 7.0, "#3f4a52", f"Steps: {'; '.join(found.steps)}"
    yield 6.0, "#3f4a52", f"Tracking UID {mass_uid(header.SOPInstanceUID, found.box)}"
    yield 6.0, "#3f4a52", f"Input SHA-256 {found.input_sha256 or 'none: not read'}"


def _foot(sheet: _Sheet, first: Assessment) -> None:
    top = _HEIGHT - _EDGE - _FOOT + 26
    sheet.fill(_EDGE, top, _WIDTH - 2 * _EDGE, 0.6, "#c4ccd2")
    for number, line in enumerate(
        (
            first.notice,
            NO_DEVICE,
            "Boxes were marked, not found. Whose image this is stands in the study that holds this page.",
        )
    ):
        sheet.write(line, _EDGE, top + 6 + 11 * number, 7.5, color="#3f4a52")


def _framed(axes: Any, found: Assessment, part: Box, number: int | None = None) -> None:
    """Frame a mass in a picture, with a dark seam so that the frame stands out on white."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    if not (found.box.is_finite and found.box.has_area):
        return
    x0, y0, x1, y1 = found.box
    color = {"malignant": "#ff6060", "benign": "#60c8ff", "abstained": "#ffd640", "refused": "#bebebe"}[found.decision]
    seam = [Stroke(linewidth=2.4, foreground="black"), Normal()]
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, lw=1.0, ec=color, path_effects=seam))
    if number is not None:
        beside = x1 < part.x0 + 0.9 * part.width
        how: Any = {"ha": "left" if beside else "right", "va": "top", "fontsize": 8, "path_effects": seam}
        axes.text(x1 if beside else x0, y0, f" {number} ", color=color, clip_on=True, **how)


def _surroundings(box: Box, pixels: Image | None) -> Box | None:
    """The square about a mass that its picture shows; None where there is none."""
    if pixels is None or not box.is_finite or not box.overlaps(pixels.shape[1], pixels.shape[0]):
        return None
    side = max(_AROUND * max(box.width, box.height), 8.0)
    return box.clipped(pixels.shape[1], pixels.shape[0]).resized(side, side, pixels.shape[1], pixels.shape[0])


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """Break text into lines of at most so many points; a word that is longer is broken too."""
    lines, line = [], ""
    for word in _shown(text).split(" "):
        joined = f"{line} {word}" if line else word
        while _length(joined, size) > width and len(joined) > 1:
            if line:
                lines.append(line)
                joined = word
            else:
                n = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or _length(word[:n], size) <= width)
                lines.append(word[:n])
                joined = word = word[n:]
            line = ""
        line = joined
    return [*lines, line]


def _length(text: str, size: float) -> float:
    """How long a line is, in points."""
    return size * sum(map(_advance, text))


@cache
def _advance(letter: str) -> float:
    """How wide a letter is at a size of 1; 0 where the font has none."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(_FONT))
    if not font.get_char_index(ord(letter)):
        return 0.0
    font.set_size(100, 72)
    return float(font.load_char(ord(letter)).linearHoriAdvance / 65536 / 100)


def _shown(text: str) -> str:
    """Write text on one line, `?` for letters that the font lacks."""
    return "".join(letter if _advance(letter) else "?" for letter in printable(text))


def _enclosed(content: bytes, uid: UID, header: Dataset, first: Assessment) -> Dataset:
    """The DICOM object that holds a PDF."""
    from highdicom.base import SOPClass
    from pydicom.sr.codedict import codes

    document = SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=header.SpecificCharacterSet,
        **series_of(uid, _SERIES_NUMBER, first.notice),
    )
    document.copy_patient_and_study_information(header)
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"  # scores and the notice, no identifiers; what the film shows stays
    document.AcquisitionDateTime = ""
    document.DocumentTitle = first.notice
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = codes.DCM.ImagingMeasurementReport[:3]
    document.ConceptNameCodeSequence = [title]
    document.VerificationFlag = "UNVERIFIED"
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    document.SourceInstanceSequence = [image]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(content)
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return document
