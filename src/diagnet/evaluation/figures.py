"""How good the scores are: AUC and its companions by mass, image and patient, with intervals by patient."""

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import BaseModel, Field
from sklearn.metrics import confusion_matrix, roc_curve

from diagnet.data.mass import MALIGNANT
from diagnet.evaluation.bootstrap import (
    Counts,
    Interval,
    Resampled,
    Weights,
    draw_patients,
    interval,
    proportion,
    weighted_auc,
    weighted_net_benefit,
    weighted_sensitivity,
)
from diagnet.evaluation.calibration import OperatingPoint, PointScores
from diagnet.evaluation.predictions import Groups, Predictions, deciding

SCHEMA_VERSION = 1

_CONFIDENCE = 0.95  # of the intervals
_N_BINS = 10  # of the calibration plot, at most
_PER_BIN = 8  # points a bin holds, at least
_BLOCK = 1_000_000  # weights held at once: 8 MB
_FALSE_ALARMS = np.linspace(0, 1, 101)  # rates at which the band around the ROC curve is given
_THRESHOLDS = np.arange(1, 50) / 50  # of the decision curve


class EvaluationSettings(BaseModel, frozen=True, extra="forbid"):
    """How results are measured: folds, operating point, confidence and resamples."""

    folds: int = Field(1, ge=1, description="1: one split; k > 1: k-fold cross-validation, each mass tested once")
    n_resamples: int = Field(2000, ge=0, description="bootstrap resamples of the patients; 0 gives no intervals")
    operating_point: OperatingPoint = Field(
        "youden",
        description="how validation masses choose the threshold: `youden` maximizes sensitivity + specificity,"
        " `sensitivity90` is the highest threshold that still finds 90 % of the malignant masses",
    )


class Roc(TypedDict):
    """A ROC curve; the first threshold is None (above every score). The band is over `grid`, for each rate."""

    fpr: list[float]
    tpr: list[float]
    thresholds: list[float | None]
    grid: list[float]
    low: list[float]
    high: list[float]


class DecisionCurve(TypedDict):
    """Net benefit of calling masses from each threshold on, its interval, and that of calling all; none is 0."""

    thresholds: list[float]
    net_benefit: list[float]
    low: list[float]
    high: list[float]
    call_all: list[float]


class CalibrationBin(TypedDict):
    """Points of like scores: the mean score, and the fraction of them that is malignant."""

    n: int
    mean_score: float
    observed: Interval


class Unit(TypedDict):
    """Figures of one unit (mass, image or patient)."""

    n: int
    n_patients: int
    n_per_class: dict[str, int]
    auc: Interval
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    brier: Interval
    calibration_error: float | None
    n_resamples_dropped: int  # they lacked a class, so that no AUC is defined
    confusion: list[list[int]]  # rows: label; columns: decision
    roc: Roc | None
    decision_curve: DecisionCurve | None
    calibration: list[CalibrationBin]


class Units(TypedDict):
    """The same masses counted three ways (reading 15)."""

    mass: Unit
    image: Unit
    patient: Unit


class Evaluation(TypedDict):
    """What `evaluate` returns; JSON can hold it as it is."""

    schema_version: int
    classes: list[str]
    n_resamples: int
    confidence: float
    units: Units


class SourceFigures(TypedDict):
    """Figures of the masses of one source."""

    n: int
    n_patients: int
    auc: Interval


class Spread(TypedDict):
    """Mean, standard deviation and standard error over folds (reading 20)."""

    n: int
    mean: float | None
    sd: float | None
    se: float | None


def point_auc(predictions: Predictions) -> float | None:
    """Area under the ROC curve; None where a class is missing. Macro one-vs-rest for more than two classes."""
    area = float(_auc(predictions, np.ones((1, len(predictions.labels))))[0])
    return None if np.isnan(area) else area


def across_folds(values: Sequence[float | None]) -> Spread:
    """Mean, standard deviation and standard error over folds; folds without a value (None) are left out."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    n = len(known)
    sd = float(known.std(ddof=1)) if n > 1 else None
    return {
        "n": n,
        "mean": float(known.mean()) if n else None,
        "sd": sd,
        "se": None if sd is None else sd / n**0.5,
    }


def evaluate(
    predictions: Predictions,
    threshold: float | PointScores,
    settings: EvaluationSettings = EvaluationSettings(),  # noqa: B008 -- frozen, so one instance serves all calls
    *,
    rng: np.random.Generator,
) -> Evaluation:
    """Measure predictions by mass, image and patient, each figure with a percentile interval by patient bootstrap.

    Patients are drawn with replacement, and all their masses come with them: two views of one lesion are not two
    pieces of evidence. The same draws serve all three units.

    Args:
        predictions: of test masses.
        threshold: malignancy from which a mass is called malignant; one for all, or one a mass (of its fold).
            With more than two classes the decision is the most probable class, and the threshold is used for
            sensitivity and specificity only.
        settings: how many resamples.
        rng: draws the patients.

    Returns:
        Figures that JSON can hold; None where one is not defined.
    """
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float64), predictions.labels.shape)
    counts = draw_patients(len(set(predictions.patients)), settings.n_resamples, rng=rng)

    def unit(merged: Predictions, groups: Groups) -> Unit:
        return _unit(merged, thresholds[deciding(predictions.malignancy, groups)], counts, _CONFIDENCE)

    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(predictions.classes),
        "n_resamples": settings.n_resamples,
        "confidence": _CONFIDENCE,
        "units": {
            "mass": _unit(predictions, thresholds, counts, _CONFIDENCE),
            "image": unit(predictions.per_image(), predictions.image_groups),
            "patient": unit(predictions.per_patient(), predictions.patient_groups),
        },
    }


def figures_by_source(
    predictions: Predictions,
    sources: Sequence[str],
    names: Sequence[str],
    settings: EvaluationSettings,
    *,
    seed: Sequence[int],
) -> dict[str, SourceFigures]:
    """Measure the masses of each source on their own, as `evaluate` would with `np.random.default_rng(seed)`.

    Args:
        predictions: of test masses.
        sources: name of the source of each.
        names: all sources, also those of no test mass.
        settings: how many resamples.
        seed: of the draws of each source's patients.

    Returns:
        Figures of each source, in the order of `names`; the AUC is None where a class is missing.
    """
    found: dict[str, SourceFigures] = {}
    for name in names:
        points = np.flatnonzero([source == name for source in sources])
        if not len(points):
            found[name] = {"n": 0, "n_patients": 0, "auc": {"value": None, "low": None, "high": None}}
            continue
        part = predictions.part(points)
        found[name] = {
            "n": len(points),
            "n_patients": len(set(part.patients)),
            "auc": auc_of(part, settings, seed=seed),
        }
    return found


def auc_of(predictions: Predictions, settings: EvaluationSettings, *, seed: Sequence[int]) -> Interval:
    """AUC with its interval by patient, as `evaluate` gives it with `np.random.default_rng(seed)`."""
    n_patients = len(set(predictions.patients))
    counts = draw_patients(n_patients, settings.n_resamples, rng=np.random.default_rng(seed))
    blocks = _weights(predictions.patient_groups, counts)
    areas = np.concatenate([np.zeros(0), *(_auc(predictions, weights) for weights in blocks)])
    return _auc_figure(predictions, areas, _CONFIDENCE)


def _unit(predictions: Predictions, thresholds: PointScores, counts: Counts, confidence: float) -> Unit:
    """Measure one unit; the columns of `counts` are the patients in order of appearance."""
    n_classes, labels, malignancy = len(predictions.classes), predictions.labels, predictions.malignancy
    patients = predictions.patient_groups
    malignant, called = predictions.malignant == 1, malignancy >= thresholds
    everywhere = np.ones(len(labels), dtype=bool)
    if n_classes == 2:
        decisions = np.where(called, predictions.malignant_class, 1 - predictions.malignant_class)
        squares = (malignancy - malignant) ** 2
    else:
        decisions = predictions.probabilities.argmax(axis=1)
        squares = ((predictions.probabilities - np.eye(n_classes)[labels]) ** 2).sum(axis=1)
    # Among many classes without one named "malignant", none is set against the rest.
    one_against_rest = n_classes == 2 or MALIGNANT in predictions.classes
    nothing: Interval = {"value": None, "low": None, "high": None}

    def of(part: Bool[np.ndarray, "point"] | PointScores, whole: Bool[np.ndarray, "point"]) -> Interval:
        return proportion(part, whole, patients, counts, confidence)

    calibration: list[CalibrationBin] = [
        {
            "n": int(inside.sum()),
            "mean_score": float(malignancy[inside].mean()),
            "observed": of(malignant & inside, inside),
        }
        for inside in (_bins(malignancy) if one_against_rest else [])
    ]
    gaps = [each["n"] * abs(each["mean_score"] - (each["observed"]["value"] or 0)) for each in calibration]
    areas, heights, benefits = _resampled(predictions, patients, counts)
    return {
        "n": len(labels),
        "n_patients": counts.shape[1],
        "n_per_class": {name: int((labels == label).sum()) for label, name in enumerate(predictions.classes)},
        "auc": _auc_figure(predictions, areas, confidence),
        "accuracy": of(decisions == labels, everywhere),
        "sensitivity": of(called & malignant, malignant) if one_against_rest else nothing,
        "specificity": of(~called & ~malignant, ~malignant) if one_against_rest else nothing,
        "ppv": of(called & malignant, called) if one_against_rest else nothing,
        "npv": of(~called & ~malignant, ~called) if one_against_rest else nothing,
        "brier": of(squares, everywhere),
        "calibration_error": sum(gaps) / len(labels) if calibration else None,
        "n_resamples_dropped": int(np.isnan(areas).sum()),
        "confusion": confusion_matrix(labels, decisions, labels=range(n_classes)).tolist(),
        "roc": _roc(malignant, malignancy, heights, confidence) if one_against_rest else None,
        "decision_curve": _decision_curve(malignant, malignancy, benefits, confidence) if one_against_rest else None,
        "calibration": calibration,
    }


def _auc_figure(predictions: Predictions, areas: Resampled, confidence: float) -> Interval:
    """AUC with its interval, as certain as the class of the fewest patients allows."""
    patients, labels = predictions.patient_groups, predictions.labels
    n_patients = min(len(np.unique(patients[labels == label])) for label in range(len(predictions.classes)))
    return interval(point_auc(predictions), areas, confidence, n_patients)


def _auc(predictions: Predictions, weights: Weights) -> Resampled:
    if len(predictions.classes) == 2:
        return weighted_auc(predictions.malignancy, predictions.malignant == 1, weights)
    areas = [
        weighted_auc(predictions.probabilities[:, label], predictions.labels == label, weights)
        for label in range(len(predictions.classes))
    ]
    return np.asarray(np.mean(areas, axis=0))


def _weights(patients: Groups, counts: Counts) -> Iterator[Weights]:
    """Weights of the points in each resample, some resamples at a time."""
    step = max(1, _BLOCK // len(patients))
    for start in range(0, len(counts), step):
        yield counts[start : start + step, patients].astype(np.float64)


def _resampled(
    predictions: Predictions, patients: Groups, counts: Counts
) -> tuple[Resampled, Float64[np.ndarray, "resample rate"], Float64[np.ndarray, "resample threshold"]]:
    """AUC, and of malignant against the rest the heights of the ROC curve and net benefits, in each resample."""
    areas, heights = [np.zeros(0)], [np.zeros((0, len(_FALSE_ALARMS)))]
    benefits = [np.zeros((0, len(_THRESHOLDS)))]
    scores, targets = predictions.malignancy, predictions.malignant == 1
    for weights in _weights(patients, counts):
        areas.append(_auc(predictions, weights))
        heights.append(weighted_sensitivity(scores, targets, weights, _FALSE_ALARMS))
        benefits.append(weighted_net_benefit(scores, targets, weights, _THRESHOLDS))
    return np.concatenate(areas), np.concatenate(heights), np.concatenate(benefits)


def _roc(
    malignant: Bool[np.ndarray, "point"],
    malignancy: PointScores,
    heights: Float64[np.ndarray, "resample rate"],
    confidence: float,
) -> Roc | None:
    """ROC curve and its band; None where a class is missing."""
    if malignant.all() or not malignant.any():
        return None
    false_alarms, sensitivity, thresholds = roc_curve(malignant, malignancy)
    heights = heights[~np.isnan(heights).any(axis=1)]
    low, high = np.quantile(heights, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0) if len(heights) else ([], [])
    return {
        "fpr": np.round(false_alarms, 6).tolist(),
        "tpr": np.round(sensitivity, 6).tolist(),
        "thresholds": [None, *np.round(thresholds[1:], 6).tolist()],
        "grid": _FALSE_ALARMS.tolist(),
        "low": np.round(low, 6).tolist(),
        "high": np.round(high, 6).tolist(),
    }


def _decision_curve(
    malignant: Bool[np.ndarray, "point"],
    malignancy: PointScores,
    benefits: Float64[np.ndarray, "resample threshold"],
    confidence: float,
) -> DecisionCurve:
    """Return net benefit by threshold probability, with its confidence band."""
    once = np.ones((1, len(malignant)))
    half = confidence / 2
    low, high = np.quantile(benefits, [0.5 - half, 0.5 + half], axis=0) if len(benefits) else ([], [])
    every = np.ones(len(malignancy))  # no threshold is above 1
    return {
        "thresholds": _THRESHOLDS.tolist(),
        "net_benefit": np.round(weighted_net_benefit(malignancy, malignant, once, _THRESHOLDS)[0], 6).tolist(),
        "low": np.round(low, 6).tolist(),
        "high": np.round(high, 6).tolist(),
        "call_all": np.round(weighted_net_benefit(every, malignant, once, _THRESHOLDS)[0], 6).tolist(),
    }


def _bins(scores: PointScores) -> list[Bool[np.ndarray, "point"]]:
    """Bins of about equal count; equal scores share a bin."""
    n_bins = max(1, min(_N_BINS, len(scores) // _PER_BIN))
    edges = np.quantile(scores, np.linspace(0, 1, n_bins + 1)[1:-1])
    bins = np.searchsorted(edges, scores, side="right")
    return [bins == each for each in np.unique(bins)]
