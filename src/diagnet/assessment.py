"""One marked mass on one file -> what the model says of it, with its reasons; or why it says nothing."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from diagnet.abstention import reason_to_abstain
from diagnet.arrays import Image
from diagnet.data.dicom import Mammogram, read_mammogram
from diagnet.data.image import _is_dicom, read_image, scaled_over_breast
from diagnet.data.mass import Box, Mass
from diagnet.data.roi import cut_roi
from diagnet.errors import DiagNetError, RunFolderError
from diagnet.inference import Model


class Policy(BaseModel, frozen=True, extra="forbid"):
    """Which files and boxes may be scored."""

    allow_for_processing: bool = Field(False, description="Score raw detector data, which no viewer shows as it is.")
    force: bool = Field(False, description="Read DICOM files that lack the preamble of PS3.10.")


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the model says of one marked mass, with its reasons.

    Attributes:
        image: as the user gave it.
        box: (x0, y0, x1, y1) in pixels of the file, x1 and y1 exclusive.
        malignancy: calibrated, in [0, 1]; None where refused.
        raw_malignancy: before calibration.
        threshold: malignancy from which a mass is called malignant.
        decision: "abstained" has a score and no call, "refused" has neither.
        reason: why abstained or refused, else "".
        flags: what a reader of the score should know.
        steps: display chain, in order.
        laterality: "L", "R" or "".
        view: "CC", "MLO", "ML", ... or "".
        spacing_mm: (row, column) size of a pixel, None where it is not known.
        input_sha256: of the pixels as displayed and the box; "" where there are no pixels.
        model_sha256: of the weights, the calibration and the preprocessing.
        latency_ms: from opening the file to the score of its boxes.
    """

    image: Path
    box: Box
    malignancy: float | None
    raw_malignancy: float | None
    threshold: float
    decision: Literal["malignant", "benign", "abstained", "refused"]
    reason: str
    flags: tuple[str, ...]
    steps: tuple[str, ...]
    laterality: str
    view: str
    spacing_mm: tuple[float, float] | None
    input_sha256: str
    model_sha256: str
    latency_ms: float


def assess(model: Model, image: Path, boxes: Sequence[Box], policy: Policy = Policy()) -> list[Assessment]:  # noqa: B008 -- frozen, so sharing it is safe
    """Score the marked masses of one file; a file or box that must not be scored is refused with the reason.

    Args:
        model: from `load_model`.
        image: a DICOM, PNG, JPEG or TIFF file.
        boxes: one for each mass, in pixels of the file.
        policy: which files and boxes may be scored.

    Returns:
        One assessment a box, in their order.

    Raises:
        RunFolderError: the model knows no class `malignant`.
    """
    if "malignant" not in model.classes:
        raise RunFolderError(f"`RUN` must know the class malignant, got the classes {', '.join(model.classes)}")
    began = time.perf_counter()
    try:
        mammogram = _read(image, policy)
    except DiagNetError as error:
        return [_refused(model, image, box, str(error), began) for box in boxes]
    return [_assessed(model, image, mammogram, box, began) for box in boxes]


def _read(image: Path, policy: Policy) -> Mammogram:
    if _is_dicom(image):
        shown = read_mammogram(image, allow_for_processing=policy.allow_for_processing)
        return Mammogram(
            scaled_over_breast(shown.pixels),
            shown.steps,
            shown.warnings,
            shown.spacing_mm,
            shown.laterality,
            shown.view,
            shown.intent,
        )
    return Mammogram(read_image(image), (), (), None, "", "", "")


def _assessed(model: Model, image: Path, mammogram: Mammogram, box: Box, began: float) -> Assessment:
    try:
        region = cut_roi(mammogram.pixels, Mass(image, box, None, ""), model.roi)[None]
    except DiagNetError as error:
        return _refused(model, image, box, str(error), began)
    column = model.classes.index("malignant")
    each = model.probabilities_each(region)[:, 0, column]
    malignancy = float(each.mean())
    raw = float(model.probabilities(region, calibrated=False)[0, column])
    reason = reason_to_abstain(malignancy, each, model.threshold, model.abstention)
    called: Literal["malignant", "benign"] = "malignant" if malignancy >= model.threshold else "benign"
    return Assessment(
        image=image,
        box=box,
        malignancy=malignancy,
        raw_malignancy=raw,
        threshold=model.threshold,
        decision="abstained" if reason else called,
        reason=reason,
        flags=mammogram.warnings,
        steps=mammogram.steps,
        laterality=mammogram.laterality,
        view=mammogram.view,
        spacing_mm=mammogram.spacing_mm,
        input_sha256=_input_sha256(mammogram.pixels, box),
        model_sha256=model.sha256,
        latency_ms=1000 * (time.perf_counter() - began),
    )


def _refused(model: Model, image: Path, box: Box, reason: str, began: float) -> Assessment:
    return Assessment(
        image=image,
        box=box,
        malignancy=None,
        raw_malignancy=None,
        threshold=model.threshold,
        decision="refused",
        reason=reason,
        flags=(),
        steps=(),
        laterality="",
        view="",
        spacing_mm=None,
        input_sha256="",
        model_sha256=model.sha256,
        latency_ms=1000 * (time.perf_counter() - began),
    )


def _input_sha256(pixels: Image, box: Box) -> str:
    """Hash of the displayed pixels in 16 bits and the box: alike for one image in any compression."""
    digest = hashlib.sha256(repr((pixels.shape, tuple(map(float, box)))).encode())
    digest.update(np.rint(pixels * np.float32(65535)).astype("<u2").data)
    return digest.hexdigest()
