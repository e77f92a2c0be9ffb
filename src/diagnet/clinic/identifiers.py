"""Identifiers of what is written: the same input, model and version give the same UIDs."""

import uuid
from collections.abc import Sequence
from typing import Any

from pydicom.uid import UID

from diagnet.clinic.privacy import without_path
from diagnet.data.box import BoxLike
from diagnet.inference.assessment import Assessment
from diagnet.notice import NOTICE
from diagnet.version import __version__

MANUFACTURER = "diagnet"
MODEL_NAME = "DiagNet"

_OURS = uuid.UUID("6f1b6f0c-52a6-5d2e-9a57-3a0f3f6d6f64")  # a namespace of our own, as RFC 9562 asks for


def stable_uid(*facts: object) -> UID:
    """Derive a UID from facts, as PS3.5, B.2 does from a UUID."""
    return UID(f"2.25.{uuid.uuid5(_OURS, chr(31).join(map(str, facts))).int}")


def result_uid(kind: str, source: str, assessments: Sequence[Assessment], more: Sequence[object] = ()) -> UID:
    """UID of one result.

    It hangs on the image, the marked pixels, the model and diagnet's version, which fix the score, and on what was
    decided; not on the time. So a result that is sent again replaces itself, in whatever archive it is.

    Args:
        kind: what is written, such as "report".
        source: SOP Instance UID of the image.
        assessments: what the result says.
        more: what else it says.

    Raises:
        ValueError: there are no assessments.
    """
    if not assessments:
        raise ValueError("`assessments` must hold at least one mass, got none")
    said = [
        (a.input_sha256, a.model_sha256, a.box, a.decision, without_path(a.reason, a.image), f"{a.threshold:.6f}")
        for a in assessments
    ]
    return stable_uid(kind, __version__, source, said, *more)


def mass_uid(source: str, box: BoxLike) -> UID:
    """Tracking UID of a mass: the same mark on the same image is the same mass, whatever model scores it."""
    return stable_uid("mass", source, tuple(map(float, box)))


def series_of(uid: UID, number: int, notice: str = NOTICE) -> dict[str, Any]:
    """What a result says of its series and its maker, as highdicom's arguments; each result is a series of its own."""
    return {
        "sop_instance_uid": uid,
        "instance_number": 1,
        "series_instance_uid": stable_uid("series", uid),
        "series_number": number,
        "series_description": notice,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": __version__,
    }
