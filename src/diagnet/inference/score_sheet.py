"""Assessments as people and programs read them: a table, JSON, CSV, and the NYU metarepository's columns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diagnet.atomic import legible
from diagnet.data.box import Box
from diagnet.data.mass import MALIGNANT
from diagnet.data.table import table_text
from diagnet.errors import printable
from diagnet.inference.assessment import Assessment
from diagnet.inference.model import Model

COLUMNS = (
    "image", "x0", "y0", "x1", "y1", "malignancy", "raw_malignancy", "threshold", "decision", "reason", "flags",
    "laterality", "view", "row_spacing_mm", "column_spacing_mm", "input_sha256", "model_sha256", "latency_ms", "notice",
    "sop_instance_uid", "training_source", "lesion_malignancy", "lesion_masses",
)  # fmt: skip
METAREPO = ("image_index", "malignant_pred", "malignant_label", "notice")


def as_object(assessment: Assessment) -> dict[str, Any]:
    """Return an assessment as a JSON object, with the notice; what is no finite number of a box is null."""
    found = asdict(assessment) | {"image": str(assessment.image), "notice": assessment.notice}
    return found | {"box": [side if math.isfinite(side) else None for side in assessment.box]}


def as_csv(assessments: Sequence[Assessment]) -> str:
    """Return a row for each mass, refused ones among them; several flags are parted by `; `."""
    rows = []
    for each in assessments:
        spacing = each.spacing_mm or ("", "")
        rows.append(
            (
                each.image, *each.box, _number(each.malignancy), _number(each.raw_malignancy), _number(each.threshold),
                each.decision, each.reason, "; ".join(each.flags), each.laterality, each.view, *spacing,
                each.input_sha256, each.model_sha256, f"{each.latency_ms:.1f}", each.notice,
                each.sop_instance_uid, each.training_source, _number(each.lesion_malignancy), each.lesion_masses,
            )
        )  # fmt: skip
    return _csv(COLUMNS, rows)


def as_metarepo(assessments: Sequence[Assessment], labels: Sequence[str]) -> str:
    """Return a row for each image that was scored, as the metarepository's `score.py` reads it.

    An image scores as its most suspicious mass and is labeled by its most severe one (reading 15); 1 is malignant, 0
    any other label, empty not known. Masses that were refused have no part.

    Args:
        assessments: of masses.
        labels: of each of them, "" where it is not known.
    """
    scores: dict[str, float] = {}
    known: dict[str, set[str]] = {}
    notices: dict[str, str] = {}
    for each, label in zip(assessments, labels, strict=True):
        if each.malignancy is not None:
            image = str(each.image)
            scores[image] = max(each.malignancy, scores.get(image, 0.0))
            known.setdefault(image, set()).add(label)
            notices[image] = each.notice
    rows = []
    for image, score in scores.items():
        label = "1" if MALIGNANT in known[image] else "" if "" in known[image] else "0"
        rows.append((image, _number(score), label, notices[image]))
    return _csv(METAREPO, rows)


def as_table(assessments: Sequence[Assessment], model: Model) -> str:
    """Return lines for a terminal: each mass with its call, and below it why, and what to know."""
    names = [printable(each.image) for each in assessments]
    boxes = [_shown_box(each.box) for each in assessments]
    wide, wider = max(map(len, ["image", *names])), max(map(len, ["box", *boxes]))
    lines = [model.notice, f"{'image':<{wide}}  {'box':<{wider}}  malignancy     raw  decision"]
    for name, box, each in zip(names, boxes, assessments, strict=True):
        scores = [f"{'-' if score is None else f'{score:.3f}'}" for score in (each.malignancy, each.raw_malignancy)]
        lines.append(f"{name:<{wide}}  {box:<{wider}}  {scores[0]:>10}  {scores[1]:>6}  {each.decision}")
        if each.reason:
            lines.append(f"    {each.decision}: {each.reason}")
        if each.lesion_malignancy is not None:
            lines.append(f"    lesion: {each.lesion_malignancy:.3f}, the mean log-odds of {each.lesion_masses} masses")
        lines += [f"    note: {flag}" for flag in each.flags]
    half = model.abstention.half_width
    low, high = max(model.threshold - half, 0.0), min(model.threshold + half, 1.0)
    lines.append(f"malignant from {model.threshold:.3f}; between {low:.3f} and {high:.3f} no call is made")
    return "\n".join([*lines, model.notice])


def summary(assessments: Sequence[Assessment]) -> Mapping[str, int]:
    """Count how often each decision was made."""
    decisions = [each.decision for each in assessments]
    return {name: decisions.count(name) for name in ("malignant", "benign", "abstained", "refused")}


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return legible(table_text(columns, rows))  # a file's name may be no text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _shown_box(box: Box) -> str:
    return box.shown(",") if any(box) else "whole image"
