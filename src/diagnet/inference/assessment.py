"""One marked mass on one file -> what the model says of it, with its reasons; or why it says nothing."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, Field

from diagnet.arrays import Image
from diagnet.data.box import Box, BoxLike
from diagnet.data.dicom import read_uid
from diagnet.data.domain import Domain, Verdict, middle_verdict
from diagnet.data.image import is_dicom, read_picture
from diagnet.data.mammogram import Mammogram
from diagnet.data.mass import Mass
from diagnet.data.region_facts import PictureFacts, picture_facts
from diagnet.data.roi import RoiSettings, cut_and_measured
from diagnet.data.suitability import BoxLimits, check_box, clipped_box
from diagnet.errors import DiagNetError, RefusedInputError, printable
from diagnet.evaluation.abstention import reason_to_abstain
from diagnet.inference.model import Model
from diagnet.notice import SYNTHETIC_FLAG, notice_of

_ROWS = 256
UNKNOWN_BOX = Box(0.0, 0.0, 0.0, 0.0)  # of a whole image that could not be read


class Policy(BaseModel, frozen=True, extra="forbid"):
    """Which files and boxes may be scored."""

    allow_for_processing: bool = Field(False, description="Score raw detector data, which no viewer shows as it is.")
    allow_missing_preamble: bool = Field(False, description="Read DICOM files that lack the preamble of PS3.10.")
    allow_unlike: bool = Field(False, description="Score regions that are far from all training masses, flagged.")
    box: BoxLimits = BoxLimits()


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the model says of one marked mass, with its reasons.

    Attributes:
        image: as the user gave it.
        box: in pixels of the file.
        malignancy: calibrated, in [0, 1]; None where refused.
        raw_malignancy: before calibration.
        threshold: malignancy from which a mass is called malignant.
        decision: "abstained" has a score and no call, "refused" has neither.
        reason: why abstained or refused, in one line; else "".
        flags: what a reader of the score should know.
        steps: what was done to the stored values, in order.
        laterality: "L", "R" or "".
        view: "CC", "MLO", "ML", ... or "".
        spacing_mm: (row, column) size of a pixel, None where it is not known.
        input_sha256: of the displayed pixels and the box; "" where the file could not be read.
        model_sha256: of the weights, the calibration, the limits and the preprocessing.
        is_unlike: the region looks unlike the training masses, so that what its score means is not known.
        sop_instance_uid: of a DICOM file, by which the archive knows it; else "".
        training_source: of most of the training masses that look most similar; "" where all are of one source.
        lesion_malignancy: of the lesion that is marked on several images of `predict`: the mean log-odds of its masses.
        lesion_masses: how many masses of it were scored; 0 where it is not known to be marked again.
        is_synthetic: the model was trained on phantoms, so that its score says nothing about a patient.
        latency_ms: from opening the file to this score; several boxes of a file share its reading.
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
    is_unlike: bool = False
    training_source: str = ""
    lesion_malignancy: float | None = None
    lesion_masses: int = 0
    is_synthetic: bool = False
    sop_instance_uid: str = ""

    @property
    def notice(self) -> str:
        """What must stand beside the score."""
        return notice_of(self.is_synthetic)


def assess(
    model: Model,
    image: Path | str,
    boxes: Sequence[BoxLike | None],
    policy: Policy = Policy(),  # noqa: B008 -- frozen, so sharing it is safe
    *,
    original_size: tuple[float, float] | None = None,
    picture: Mammogram | None = None,
) -> list[Assessment]:
    """Score the marked masses of one file; a file or box that must not be scored is refused with the reason.

    Args:
        model: from `load_model`.
        image: a DICOM, PNG, JPEG, TIFF or PGM file.
        boxes: (x0, y0, x1, y1) of each mass in pixels of the file, x1 and y1 exclusive; None for the whole image,
            which must then be a crop.
        policy: which files and boxes may be scored.
        original_size: (width, height) of the image before somebody stretched it.
        picture: what `read_picture` made of the file by the same policy, where it is at hand; else the file is read.

    Returns:
        One assessment a box, in their order; one refusal where there is no box. Where the file cannot be read, the
        box of a whole image is all 0.

    Raises:
        RunFolderError: the model knows no class `malignant`.
    """
    image, marks = Path(image), [None if box is None else Box(*map(float, box)) for box in boxes]
    _ = model.malignant_class  # refused before the image is read
    model.prepare()
    began = time.perf_counter()
    unscored = _unscored(model, image)
    try:
        picture = picture or read_picture(
            image,
            allow_for_processing=policy.allow_for_processing,
            bare="any" if policy.allow_missing_preamble else "none",
        )
    except DiagNetError as error:
        taken = 1000 * (time.perf_counter() - began)
        return [
            replace(unscored, box=box or UNKNOWN_BOX, reason=printable(error), latency_ms=taken)
            for box in marks or (None,)
        ]
    unscored = replace(unscored, sop_instance_uid=_uid(image, policy))
    if not marks:
        return [
            replace(
                unscored,
                reason=printable(f"`box` must be given, got no mass marked on {image}."),
                flags=(*unscored.flags, *picture.warnings),
            )
        ]
    pixels, _ = _hashed(picture.pixels), picture.breast  # found now, so that its time is every box's
    around = picture_facts(picture.pixels)
    read = time.perf_counter() - began
    found = []
    for box in marks:
        began = time.perf_counter()
        height, width = picture.pixels.shape
        marked = box or Box.whole(width, height)
        digest = pixels.copy()
        digest.update(repr(tuple(marked)).encode())
        start = replace(
            unscored,
            box=marked,
            flags=(*unscored.flags, *picture.warnings),
            steps=picture.steps,
            laterality=picture.laterality,
            view=picture.view,
            spacing_mm=picture.spacing_mm,
            input_sha256=digest.hexdigest(),
        )
        try:
            assessment = _score_box(model, picture, around, start, policy, original_size)
        except DiagNetError as error:
            assessment = replace(start, reason=printable(error))
        found.append(replace(assessment, latency_ms=1000 * (read + time.perf_counter() - began)))
    return found


def _score_box(
    model: Model,
    picture: Mammogram,
    around: PictureFacts,
    start: Assessment,
    policy: Policy,
    original_size: tuple[float, float] | None,
) -> Assessment:
    height, width = picture.pixels.shape
    box = clipped_box(start.box, width, height)
    region, doubts, verdict = marked_region(
        picture, around, box, model.roi, model.domains, policy.box, original_size=original_size
    )
    if verdict.is_far and not policy.allow_unlike:
        return replace(start, reason=f"far from the training masses: {verdict.reason}", is_unlike=True)
    if verdict.is_unlike:
        doubts.append(f"unlike the training masses: {verdict.reason}")
    column = model.malignant_class
    logits = model.logits(region[None])
    each = model.chances(logits)[:, 0, column]
    malignancy = float(each.mean())
    reason = reason_to_abstain(malignancy, each, model.threshold, model.abstention)
    called: Literal["malignant", "benign"] = "malignant" if malignancy >= model.threshold else "benign"
    cut = f"region: box ({box.shown()}) grown {model.roi.padding_factor:g} times, {model.roi.size} x {model.roi.size}"
    return replace(
        start,
        malignancy=malignancy,
        raw_malignancy=float(model.chances(logits, calibrated=False)[:, 0, column].mean()),
        decision="abstained" if reason else called,
        reason=reason,
        flags=(*start.flags, *doubts),
        steps=(*start.steps, cut),
        is_unlike=verdict.is_unlike,
        training_source=verdict.source,
    )


def marked_region(
    picture: Mammogram,
    around: PictureFacts,
    box: Box,
    roi: RoiSettings,
    domains: Sequence[Domain],
    limits: BoxLimits,
    *,
    original_size: tuple[float, float] | None = None,
) -> tuple[Float32[np.ndarray, "size size"], list[str], Verdict]:
    """Cut the region of a mass as a network gets it; return what is doubtful about it, and whether it is like masses.

    Raises:
        RefusedInputError: the box or the region is none that may be scored.
    """
    doubts = check_box(box, picture, roi, limits)
    mass = Mass(Path(), box, None, "", spacing_mm=picture.spacing_mm, original_size=original_size)
    region, facts = cut_and_measured(picture.pixels, mass, roi, around)
    if np.ptp(region) == 0:
        raise RefusedInputError("`box` must mark a mass, got a region of one and the same grey.")
    return region, doubts, middle_verdict(domains, facts)


def _unscored(model: Model, image: Path) -> Assessment:
    return Assessment(
        image=image,
        box=UNKNOWN_BOX,
        malignancy=None,
        raw_malignancy=None,
        threshold=model.threshold,
        decision="refused",
        reason="",
        flags=(SYNTHETIC_FLAG,) if model.is_synthetic else (),
        steps=(),
        laterality="",
        view="",
        spacing_mm=None,
        input_sha256="",
        model_sha256=model.sha256,
        latency_ms=0.0,
        is_synthetic=model.is_synthetic,
    )


def _uid(image: Path, policy: Policy) -> str:
    """SOP Instance UID of a file that was read, "" where it is no DICOM file."""
    try:
        return read_uid(image) if policy.allow_missing_preamble or is_dicom(image) else ""
    except DiagNetError:
        return ""


def _hashed(pixels: Image) -> "hashlib._Hash":
    """Hash displayed pixels in 16 bits behind their shape: alike for one image in any lossless compression."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    for top in range(0, len(pixels), _ROWS):  # a whole mammogram of these would be a copy more
        digest.update(np.rint(pixels[top : top + _ROWS] * np.float32(65535)).astype("<u2").data)
    return digest
