"""How a region comes to the network, as one value with a hash: stored with a model, checked when it is loaded."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diagnet.data.roi import RoiSettings
from diagnet.errors import RunFolderError

# A change of code that changes what a network sees raises the number beside it; tests/data/test_preprocessing.py pins
# the grey values that each number stands for.
DISPLAY_CHAIN = 1  # stored values to displayed ones: diagnet.data.dicom, diagnet.data.lut
INTENSITY = 1  # grey values to [0, 1] over the breast: diagnet.data.mammogram
RESAMPLING = 1  # a region to its size: diagnet.data.roi
REGION_RANGE = 1  # a region's grey values to its own range, where settings say so: diagnet.data.grey_range


class Preprocessing(BaseModel):
    """Everything between a file and the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    display_chain: int = Field(DISPLAY_CHAIN, description="Version of the display chain of DICOM files.")
    intensity: int = Field(INTENSITY, description="Version of the scaling of grey values over the breast.")
    resampling: int = Field(RESAMPLING, description="Version of the resizing of a region.")
    region_range: int = Field(REGION_RANGE, description="Version of the scaling of grey values over the region.")
    roi: RoiSettings = RoiSettings()

    @property
    def sha256(self) -> str:
        """Of the values, in the order of the fields; of the image's range, as before there was any other."""
        left_out: Any = {}
        if self.roi.grey_range == "image":
            left_out = {"region_range": True, "roi": {"grey_range"}}
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()

    def differences(self, other: "Preprocessing") -> list[str]:
        """Name what differs: `intensity 1, here 2`."""
        mine, others = _flat(self.model_dump()), _flat(other.model_dump())
        return [f"{name} {value}, here {others[name]}" for name, value in mine.items() if value != others[name]]


def stored_preprocessing(facts: Mapping[str, Any], where: object) -> Preprocessing:
    """Read the preprocessing that was stored with a model, and check that this version of diagnet does the same.

    Models from before the preprocessing was stored have their ROI settings only. All of them were trained with the
    first version of everything else, and load as such.

    Args:
        facts: what describes the model; `roi`, `preprocessing` and `preprocessing_sha256` are read.
        where: the file, for the message.

    Raises:
        RunFolderError: it was edited, or belongs to another chain than this version's; the message names what differs.
    """
    try:
        first = {"display_chain": 1, "intensity": 1, "resampling": 1, "roi": facts.get("roi")}
        stored = dict(facts.get("preprocessing", first))
        stored["roi"] = RoiSettings.stored(stored["roi"])
        found = Preprocessing.model_validate(stored)
        is_whole = facts.get("preprocessing_sha256", found.sha256) == found.sha256
        is_whole &= "roi" not in facts or RoiSettings.stored(facts["roi"]) == found.roi
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise RunFolderError(
            f"`preprocessing` must be one that this version of diagnet knows, got another one in {where}."
            " Fix: use the version of diagnet that trained the run, or train again."
        ) from error
    if not is_whole:
        raise RunFolderError(f"`preprocessing` must be as training stored it, got an edited one in {where}")
    if differences := found.differences(Preprocessing(roi=found.roi)):
        raise RunFolderError(
            f"`preprocessing` must be the one the model was trained with, got {'; '.join(differences)} in {where}."
            " Fix: use the version of diagnet that trained the run, or train again."
        )
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
