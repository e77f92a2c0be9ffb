"""The image that results belong to: its header, completed so that results can stand in the same study."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from diagnet.clinic.privacy import silenced
from diagnet.data.dicom_objects import parsed
from diagnet.data.elements import leave_out_malformed
from diagnet.data.reading_process import apart
from diagnet.errors import DataError, DiagNetError, MissingExtraError, RefusedInputError

# Type 2 in the Patient and General Study modules (PS3.3, C.7.1.1, C.7.2.1): they must be there, and may be empty.
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TAGS = [
    "SpecificCharacterSet", *_UIDS, *_MAY_BE_EMPTY, "IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved",
    "DeidentificationMethod", "StudyDescription", "Modality", "Laterality", "ImageLaterality", "PatientOrientation",
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PixelSpacing",
    "ImagerPixelSpacing", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "PresentationLUTShape",
]  # fmt: skip


def read_source(path: Path) -> Dataset:
    """Read the header that results need from a DICOM image, and complete it.

    Real files lack elements that the standard requires; those that may be empty are added empty. Names and identifiers
    stay as they are, even too long ones: archives match results by them. The patient's name
    and identifier are in what is returned: it must go nowhere but into results of the same study.

    Raises:
        DataError: the file is no DICOM file, or broken.
        RefusedInputError: it lacks the UIDs that a result must refer to.
        MissingExtraError: the extra `pacs` is not installed.
    """
    require_pacs()
    _parse_apart(path)
    with silenced():
        try:
            header, _ = parsed(path, _TAGS, header_only=True, name="source")
            leave_out_malformed(header)
            missing = [keyword for keyword in _UIDS if not UID(str(header.get(keyword) or "")).is_valid]
            for keyword in _MAY_BE_EMPTY:
                if keyword not in header or not _is_usable(header, keyword):
                    header.pop(keyword, None)  # with its representation, which may be another than the standard's
                    setattr(header, keyword, "")
            if not re.fullmatch(r"\d{3}[DWMY]", str(header.get("PatientAge", ""))):
                header.pop("PatientAge", None)
            _complete_display(header)
            header.decode()
            header.SpecificCharacterSet = "ISO_IR 192"  # any source's letters, whatever code they were written in
        except DiagNetError:
            raise
        except Exception:  # pydicom raises whatever a broken file makes it meet, with the file's text in it
            raise DataError(f"`source` must be a DICOM image, got a broken or other file: {path}.") from None
    if missing:
        raise RefusedInputError(f"`{missing[0]}` must be a UID that a result can refer to, got none in {path}.")
    return header


@apart(name="source")
def _parse_apart(path: Path) -> None:
    """Parse a header where that may cost much; what is parsed there without harm is parsed here again."""
    with silenced(), suppress(Exception):  # what is wrong with it is told when it is read here
        parsed(path, _TAGS, header_only=True, name="source")


@contextmanager
def writing_about(source: Path) -> Iterator[None]:
    """Silence the DICOM libraries, and tell in one line what they cannot write; their own text quotes the header.

    Raises:
        DataError: the source's header holds what no result can repeat.
    """
    with silenced():
        try:
            yield
        except (ValueError, TypeError, AttributeError, KeyError):
            raise DataError(f"`source` must have a header that a result can repeat, got another: {source}.") from None


def require_pacs() -> None:
    """Check that the extra `pacs` is there.

    Raises:
        MissingExtraError: it is not.
    """
    for package in ("highdicom", "pynetdicom", "dicomweb_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "pacs")


def _complete_display(header: Dataset) -> None:
    """Bring windows and look-up tables into the one form in which highdicom copies them."""
    centers, widths = (np.atleast_1d(header.get(keyword) or []) for keyword in ("WindowCenter", "WindowWidth"))
    if len(centers) != len(widths) or not (widths.astype(np.float64) > 0).all():
        for keyword in ("WindowCenter", "WindowWidth"):
            header.pop(keyword, None)
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in header.get(sequence) or []:
            if not isinstance(item.LUTData, bytes):  # VR US instead of OW: PS3.3, C.11.1 allows both
                item.add_new("LUTData", "OW", np.asarray(item.LUTData, dtype="<u2").tobytes())


def _is_usable(header: Dataset, keyword: str) -> bool:
    """Tell whether a value can be written again; another one would make a result invalid."""
    try:
        if dictionary_VR(keyword) != header[keyword].VR:
            return False
        value = str(header.get(keyword) or "")
        if keyword.endswith("Date"):
            DA(value)
        elif keyword.endswith("Time"):
            TM(value)
    except Exception:  # pydicom raises whatever a malformed value makes it meet
        return False
    return keyword != "PatientSex" or value in ("M", "F", "O", "")
