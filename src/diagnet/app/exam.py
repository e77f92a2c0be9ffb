"""Whose breast an image shows, and in which study: what two views must share to stand side by side."""

from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diagnet.clinic.privacy import Pseudonyms
from diagnet.data.dicom_objects import parsed
from diagnet.data.image import is_dicom
from diagnet.data.marked import Marked
from diagnet.data.quiet import quiet
from diagnet.data.reading_process import apart
from diagnet.data.view import one_of, view
from diagnet.errors import DiagNetError

_TAGS = [
    "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "ImageLaterality", "Laterality", "ViewPosition",
    "ViewCodeSequence", "PatientOrientation",
]  # fmt: skip
_PACKED = (DeflatedExplicitVRLittleEndian,)  # unpacked as a whole to be read, so it is not, for its header alone


@dataclass(frozen=True, slots=True)
class Exam:
    """What a file, or the table that lists it, says of the examination an image belongs to.

    Attributes:
        patient: keyed hash, "" where it is not known.
        study: keyed hash, "" where it is not known.
        laterality: "L", "R" or "".
        view: "CC", "MLO", ... or "".
        unpaired: why no other view can be found for this image, "" where one can.
        by_patient_alone: whether no study is told, so that a patient's images in the table count as one.
    """

    patient: str = ""
    study: str = ""
    laterality: str = ""
    view: str = ""
    unpaired: str = ""
    by_patient_alone: bool = False


def exam_of(image: Path, names: Pseudonyms, listed: Marked | None = None) -> Exam:
    """Read from a file's header, and from its row in a table, whose image it is.

    The table decides about patient and study where it names them: released files often have a patient for each image.
    Both identifiers leave this function only as keyed hashes.

    Args:
        image: the file.
        names: makes the hashes.
        listed: the file's row in the table of `--images`.
    """
    header = _header(image)
    row = listed or Marked(image)
    sides, views = {header.side, row.laterality} - {""}, {header.view, row.view} - {""}
    # Hashes of a table's names and of files' never agree: "1" here and "1" there may be two women.
    patient = names.of(row.patient_id, "table") or names.of(header.patient, f"file {header.issuer}")
    study = names.of(row.study, "study of a table") or names.of(header.study, "study of a file")
    by_patient_alone = bool(row.patient_id) and not study
    if len(sides) > 1:
        unpaired = "the file and the table name different sides"
    elif len(views) > 1:
        unpaired = "the file and the table name different views"
    else:
        missing = [
            name
            for name, is_known in (
                ("patient", patient), ("study", study or by_patient_alone), ("side", sides), ("view", views)
            )
            if not is_known
        ]  # fmt: skip
        known_not = f"its {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given by"
        unpaired = f"{known_not} the file or the table of --images" if missing else ""
    return Exam(
        patient=patient,
        study=study,
        laterality=sides.pop() if len(sides) == 1 else "",
        view=views.pop() if len(views) == 1 else "",
        unpaired=unpaired,
        by_patient_alone=by_patient_alone,
    )


@dataclass(frozen=True, slots=True)
class _Header:
    patient: str = ""
    issuer: str = ""
    study: str = ""
    side: str = ""
    view: str = ""


def _header(image: Path) -> _Header:
    """The few elements needed, none where the file is no DICOM file that can be read."""
    try:
        return _read_header(image)
    except DiagNetError:  # whoever reads the image is told why
        return _Header()


@apart(_Header)
def _read_header(image: Path) -> _Header:
    with quiet():
        try:
            if not is_dicom(image) or read_file_meta_info(image).get("TransferSyntaxUID") in _PACKED:
                return _Header()
            header, _ = parsed(image, _TAGS, header_only=True)
            patient, issuer, study = (str(header.get(keyword) or "").strip() for keyword in _TAGS[:3])
            return _Header(
                patient, issuer, study, one_of(("L", "R"), header, "ImageLaterality", "Laterality"), view(header)
            )
        except Exception:  # pydicom raises whatever a broken file makes it meet; whoever reads the image is told why
            return _Header()
