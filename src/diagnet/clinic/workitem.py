"""What a workitem of a worklist says, and what we say in it: PS3.3, B.26, in the DICOM JSON model (PS3.18, F)."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from diagnet.clinic.identifiers import MODEL_NAME
from diagnet.errors import DataError
from diagnet.notice import NOTICE

MAX_INPUTS = 64  # instances of one workitem; a study of mammograms and its marks has five
_MAX_CODES = 16

_UID = r"^[0-9]+(\.[0-9]+)*$"  # of strangers; pydicom's own check logs what it refuses
_Uid = Annotated[str, StringConstraints(pattern=_UID, max_length=64)]
_Text = Annotated[str, StringConstraints(max_length=1024)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Plain):
    """A coded term: PS3.3, 8.8."""

    value: _Text
    scheme: _Text = ""
    meaning: _Text = ""

    @classmethod
    def parse(cls, text: str) -> "Code":
        """Read VALUE or VALUE^SCHEME."""
        value, _, scheme = text.partition("^")
        return cls(value=value.strip(), scheme=scheme.strip())

    def is_in(self, codes: Iterable["Code"]) -> bool:
        """Tell whether one of the codes is this one; a scheme counts where this one has it."""
        return any(self.value == each.value and self.scheme in ("", each.scheme) for each in codes)

    def dataset(self) -> Dataset:
        """As an item of a code sequence."""
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = self.value, self.scheme, self.meaning
        return item


OUR_STATION = Code(value=MODEL_NAME.upper(), scheme="99DIAGNET", meaning=MODEL_NAME)
NOT_COMPLETE = Code(value="110523", scheme="DCM", meaning="Object Set incomplete")  # PS3.16, CID 9300
NOT_USABLE = Code(value="110521", scheme="DCM", meaning="Objects incorrectly formatted")
NOT_SCORED = Code(value="110513", scheme="DCM", meaning="Discontinued for unspecified reason")
TOO_LATE = Code(value="110533", scheme="DCM", meaning="Workitem expired")


class Input(_Plain):
    """An instance that a workitem is about; `url` is "" where none by WADO-RS is given."""

    uid: _Uid
    sop_class: _Uid
    study: _Uid
    series: _Uid
    url: _Text = ""


class Output(_Plain):
    """An instance that was made."""

    uid: _Uid
    sop_class: _Uid
    study: _Uid
    series: _Uid


class Workitem(_Plain):
    """What of a workitem counts for who is to do it."""

    uid: _Uid
    state: _Text
    is_ready: bool
    codes: tuple[Code, ...]
    stations: tuple[Code, ...]
    inputs: tuple[Input, ...]


class Outcome(_Plain):
    """How the work on a workitem ended: with outputs, or with the reason why it is canceled."""

    outputs: tuple[Output, ...] = ()
    said: _Text = ""
    reason: Code | None = None  # None where it is completed

    @property
    def state(self) -> str:
        """Procedure Step State (0074,1000) that it leads to."""
        return "COMPLETED" if self.reason is None else "CANCELED"


def uid_of(item: Any) -> str:
    """Read which workitem this is, as an item of a search names it; "" where it does not say."""
    return _text(item, "SOPInstanceUID")


def is_uid(text: str) -> bool:
    """Tell whether a text can be a UID, and part of an address."""
    return len(text) <= 64 and re.fullmatch(_UID, text) is not None


def read_workitem(item: Any, uid: str) -> Workitem:
    """Read a workitem as a server retrieves it.

    Args:
        item: one item of the DICOM JSON model, of whoever made it.
        uid: of the workitem that was asked for.

    Raises:
        DataError: an input has no UID, or one that is none, or there are too many inputs.
    """
    inputs = [
        {
            "uid": _text(each, "ReferencedSOPInstanceUID"),
            "sop_class": _text(each, "ReferencedSOPClassUID"),
            "study": _text(group, "StudyInstanceUID"),
            "series": _text(group, "SeriesInstanceUID"),
            "url": next((_text(way, "RetrieveURL") for way in _items(group, "WADORSRetrievalSequence")), ""),
        }
        for group in _items(item, "InputInformationSequence")
        for each in _items(group, "ReferencedSOPSequence")
    ]
    if len(inputs) > MAX_INPUTS:
        raise DataError(f"`workitem` must have at most {MAX_INPUTS} inputs, got {len(inputs)}.")
    try:
        return Workitem(
            uid=uid,
            state=_text(item, "ProcedureStepState"),
            is_ready=_text(item, "InputReadinessState") == "READY",
            codes=_codes(item, "ScheduledWorkitemCodeSequence"),
            stations=_codes(item, "ScheduledStationNameCodeSequence"),
            inputs=tuple(Input(**each) for each in inputs),
        )
    except ValidationError:  # its text quotes the values
        raise DataError("`workitem` must name its inputs by UIDs, got another value.") from None


def claim(transaction: str, state: str = "IN PROGRESS") -> Dataset:
    """Say that a workitem changes its state: PS3.4, table CC.2.1-1."""
    action = Dataset()
    action.TransactionUID, action.ProcedureStepState = transaction, state
    return action


def progress(transaction: str, percent: int, said: str) -> Dataset:
    """Say how far the work is."""
    update, item = Dataset(), Dataset()
    update.TransactionUID = transaction
    item.ProcedureStepProgress, item.ProcedureStepProgressDescription = str(percent), said
    update.ProcedureStepProgressInformationSequence = [item]
    return update


def ending(transaction: str, item: Workitem, outcome: Outcome, begun: float, where: str) -> Dataset:
    """Say what was made, or why nothing: the final state requirements of PS3.4, table CC.2.5-3.

    Args:
        transaction: UID by which the workitem was claimed.
        item: the workitem.
        outcome: how the work ended.
        begun: when it was claimed, in seconds since the epoch.
        where: the archive that outputs were sent to: the address of its web service, or its AE title.
    """
    said = outcome.said or NOTICE
    update = progress(transaction, 100 if outcome.reason is None else 0, said)
    (now,) = update.ProcedureStepProgressInformationSequence
    if outcome.reason is not None:
        now.ProcedureStepCancellationDateTime = _time()
        now.ReasonForCancellation = said
        now.ProcedureStepDiscontinuationReasonCodeSequence = [outcome.reason.dataset()]
    done = Dataset()
    done.PerformedStationNameCodeSequence = [each.dataset() for each in item.stations[:1] or [OUR_STATION]]
    done.PerformedWorkitemCodeSequence = [each.dataset() for each in item.codes[:1]]
    done.PerformedProcedureStepStartDateTime, done.PerformedProcedureStepEndDateTime = _time(begun), _time()
    done.OutputInformationSequence = [_reference(each, where) for each in outcome.outputs]
    update.UnifiedProcedureStepPerformedProcedureSequence = [done]
    return update


def _reference(output: Output, where: str) -> Dataset:
    """Refer to an instance: PS3.3, table 10-3b."""
    item, instance, way = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = output.sop_class, output.uid
    item.TypeOfInstances = "DICOM"
    item.StudyInstanceUID, item.SeriesInstanceUID = output.study, output.series
    item.ReferencedSOPSequence = [instance]
    if "://" in where:
        way.RetrieveURL = f"{where}/studies/{output.study}/series/{output.series}/instances/{output.uid}"
        item.WADORSRetrievalSequence = [way]
    else:
        way.RetrieveAETitle = where
        item.DICOMRetrievalSequence = [way]
    return item


def _time(seconds: float | None = None) -> str:
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.strftime("%Y%m%d%H%M%S+0000")


def _values(item: Any, keyword: str) -> Sequence[Any]:
    """Values of an element; none where the item is not what the model asks for."""
    element = item.get(f"{tag_for_keyword(keyword):08X}") if isinstance(item, dict) else None
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else []


def _text(item: Any, keyword: str) -> str:
    return next((each for each in _values(item, keyword) if isinstance(each, str)), "")


def _items(item: Any, keyword: str) -> list[dict[str, Any]]:
    return [each for each in _values(item, keyword) if isinstance(each, dict)]


def _codes(item: Any, keyword: str) -> tuple[Code, ...]:
    return tuple(
        Code(
            value=_text(each, "CodeValue"),
            scheme=_text(each, "CodingSchemeDesignator"),
            meaning=_text(each, "CodeMeaning"),
        )
        for each in _items(item, keyword)[:_MAX_CODES]
    )
