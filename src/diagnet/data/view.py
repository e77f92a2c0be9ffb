"""What a DICOM header says of the picture: its view, its side, and what a reader of a score should know."""

import re
from collections.abc import Collection

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import HTJ2K, JPEG2000, JPEG2000MC, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from diagnet.data.elements import numbers

_MAGNIFIED = 1.3  # contact views reach about 1.1, magnification views begin at about 1.5

# PS3.16, CID 4014, in SNOMED CT and in the older SNOMED RT codes; the names are those of ViewPosition.
_VIEW_CODES = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO", "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM", "399099002": "LMO", "R-10230": "LMO", "399196006": "FB", "R-10244": "FB",
    "399192008": "XCCL", "R-1024A": "XCCL", "399101009": "XCCM", "R-1024B": "XCCM",
    "399188001": "SIO", "R-102D0": "SIO", "441555000": "ISO", "R-40AAA": "ISO",
}  # fmt: skip
# PS3.16, CID 4015: views whose scale or compression differs from what a model is trained on.
_VIEW_MODIFIERS = {
    "399163009": "magnification", "R-102D6": "magnification",
    "399055006": "spot compression", "R-102D7": "spot compression",
}  # fmt: skip


_TEXTS = ("SeriesDescription", "AcquisitionDeviceProcessingDescription")
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)  # whatever LossyImageCompression says
_PERHAPS_LOSSY = (JPEG2000, JPEG2000MC, HTJ2K)  # they may be reversible
# How files say that a picture was computed from tomosynthesis: PS3.3, C.8.11.7.1.4 (GENERATED_2D); makers' names.
_GENERATED = re.compile(
    r"GENERATED[ _-]?2D|TOMO|\b[CS][ _-]?VIEW|V[ _-]?PREVIEW|(INSIGHT|INTELLIGENT|SYNTH\w*)[ _-]?2D|2D[ _-]?SYNTH", re.I
)


def view(dataset: Dataset) -> str:
    """Return the view by its code, else by name; digitized film has the name in PatientOrientation."""
    for code in dataset.get("ViewCodeSequence") or []:
        if code.get("CodeValue") in _VIEW_CODES:
            return _VIEW_CODES[code.CodeValue]
    return one_of(_VIEW_CODES.values(), dataset, "ViewPosition", "PatientOrientation")


def side(dataset: Dataset, laterality: str, chest_wall: str) -> tuple[str, list[str]]:
    """Compare the side that the file names with the one where the breast lies: PS3.3, C.7.6.1.1.1, C.8.11.7.

    By convention a left breast has its chest wall on the left of the picture; PatientOrientation overrides it: rows
    that run to the front of the body (A) begin at the chest wall.
    """
    rows = dataset.get("PatientOrientation")
    along = rows[0][:1] if isinstance(rows, MultiValue) and len(rows) == 2 and isinstance(rows[0], str) else ""
    expected = {"A": "left", "P": "right"}.get(along) or {"L": "left", "R": "right"}.get(laterality, "")
    name = laterality or "not told"
    if not chest_wall:
        return f"{name}, no chest wall seen in the picture", []
    if not expected:
        return f"{name}, chest wall on the {chest_wall} of the picture", []
    if expected == chest_wall:
        return f"{name}, chest wall on the {chest_wall} of the picture, as expected", []
    doubt = (
        f"the chest wall is on the {chest_wall} of the picture, but belongs on the {expected} by"
        f" {'PatientOrientation' if along in ('A', 'P') else 'the laterality'}: mirrored, or labeled wrongly"
    )
    return f"{name}, chest wall on the {chest_wall} of the picture, expected on the {expected}", [doubt]


def warnings(dataset: Dataset, intent: str, has_preamble: bool) -> list[str]:
    """Say what a reader of a score should know, in words of our own."""
    found = []
    if not has_preamble:
        found.append("the file has no DICOM preamble")
    if not intent:
        found.append("PresentationIntentType is absent: the pixels are taken as FOR PRESENTATION")
    if intent == "FOR PROCESSING":
        found.append("raw data FOR PROCESSING")
    if not one_of(("MG",), dataset, "Modality"):
        found.append("Modality is not MG: this may be no mammogram")
    syntax = dataset.file_meta.TransferSyntaxUID
    if one_of(("01",), dataset, "LossyImageCompression") or syntax in _LOSSY:
        found.append("the pixels went through lossy compression")
    elif syntax in _PERHAPS_LOSSY:
        found.append("the pixels may have gone through lossy compression")
    if _is_generated(dataset):
        found.append("a picture computed from tomosynthesis: models are trained on exposed ones")
    if one_of(("YES",), dataset, "BurnedInAnnotation"):
        found.append("text is burned into the picture")
    for code in dataset.get("ViewCodeSequence") or []:
        for modifier in code.get("ViewModifierCodeSequence") or []:
            if modifier.get("CodeValue") in _VIEW_MODIFIERS:
                found.append(f"{_VIEW_MODIFIERS[modifier.CodeValue]} view")
    factors = numbers(dataset, "EstimatedRadiographicMagnificationFactor")
    if factors and factors[0] > _MAGNIFIED and "magnification view" not in found:
        found.append("magnification view")
    if (name := view(dataset)) not in ("CC", "MLO", ""):
        found.append(f"view {name}: models are trained on CC and MLO")
    if one_of(("YES",), dataset, "BreastImplantPresent"):
        found.append("breast implant")
    return found


def _is_generated(dataset: Dataset) -> bool:
    values = dataset.get("ImageType") or ""
    kinds = "\\".join(map(str, values)) if isinstance(values, MultiValue) else str(values)
    texts = (str(dataset.get(keyword) or "") for keyword in _TEXTS)
    return any(_GENERATED.search(text) for text in (kinds, *texts))


def one_of(known: Collection[str], dataset: Dataset, *keywords: str) -> str:
    """Return the first of the elements whose text is a known one, in capitals; free text never leaves the file."""
    for keyword in keywords:
        value = dataset.get(keyword)
        if isinstance(value, str) and value.strip().upper() in known:
            return value.strip().upper()
    return ""
