"""Intervals by patient bootstrap: whole patients are drawn, as two views of one lesion are one evidence."""

from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

Counts = Int[np.ndarray, "resample patient"]  # how often each resample holds each patient
Weights = Float64[np.ndarray, "resample point"]  # how often each resample holds each point
Resampled = Float64[np.ndarray, "resample"]  # a figure in each resample; NaN where it is not defined


class Interval(TypedDict):
    """A figure and its interval; None where not defined."""

    value: float | None
    low: float | None
    high: float | None


def draw_patients(n_patients: int, n_resamples: int, *, rng: np.random.Generator) -> Counts:
    """Draw `n_patients` patients with replacement, `n_resamples` times."""
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_resamples)


def interval(value: float | None, resampled: Resampled, confidence: float, n_patients: int) -> Interval:
    """Percentile interval of a figure; resamples in which it is not defined (NaN) do not count.

    Every resample of a flawless result is flawless, so that percentiles would claim certainty: a fraction or an AUC of
    exactly 1 (or 0) gets the exact (Clopper-Pearson) bound of that many successes among `n_patients` independent
    ones instead.

    Args:
        value: the figure itself, None where it is not defined.
        resampled: the figure in each resample.
        confidence: of the interval, in (0, 1).
        n_patients: independent pieces of evidence; below 2, no percentiles are given.

    Returns:
        An interval that holds `value`; its ends are None where nothing can be said.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993; Clopper and Pearson, Biometrika 1934.
    """
    known = resampled[~np.isnan(resampled)]
    if value is None or len(known) == 0:
        return {"value": value, "low": None, "high": None}
    tail = (1 - confidence) / 2
    if value in (0, 1) and n_patients > 0:
        bound = tail ** (1 / n_patients)
        return {"value": value, "low": bound if value else 0.0, "high": 1.0 if value else 1 - bound}
    if n_patients < 2:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(known, [tail, 1 - tail])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def proportion(
    part: Float[np.ndarray, "point"] | Bool[np.ndarray, "point"],
    whole: Bool[np.ndarray, "point"],
    patients: Int[np.ndarray, "point"],
    counts: Counts,
    confidence: float,
) -> Interval:
    """Sum of `part` over the number of points in `whole`, with its interval.

    Args:
        part: what is summed; 0 outside `whole`.
        whole: the points that count.
        patients: column of `counts` each point belongs to.
        counts: from `draw_patients`.
        confidence: of the interval.
    """
    n_patients = counts.shape[1]
    per_patient = np.stack([np.bincount(patients, each, n_patients) for each in (part, whole)], axis=1)
    sums = counts @ per_patient
    resampled = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    value = float(part.sum() / whole.sum()) if whole.any() else None
    return interval(value, resampled, confidence, int((per_patient[:, 1] > 0).sum()))


def weighted_auc(scores: Float[np.ndarray, "point"], targets: Bool[np.ndarray, "point"], weights: Weights) -> Resampled:
    """Area under the ROC curve, sum of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) over targets i and others j.

    Args:
        scores: higher means target.
        targets: which points are targets.
        weights: one row for each area wanted.

    Returns:
        Areas in [0, 1], over the sum of w_i w_j; NaN where that is 0.

    Source: Hanley and McNeil, Radiology 1982; O(n log n) by ranks.
    """
    at_score, others = _by_score(scores, targets, weights)
    below = others.cumsum(axis=1) - others
    pairs = at_score.sum(axis=1) * others.sum(axis=1)
    wins = (at_score * (below + others / 2)).sum(axis=1)
    return np.asarray(np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))


def weighted_sensitivity(
    scores: Float[np.ndarray, "point"],
    targets: Bool[np.ndarray, "point"],
    weights: Weights,
    false_alarms: Float64[np.ndarray, "rate"],
) -> Float64[np.ndarray, "resample rate"]:
    """Height of the ROC curve: the largest sensitivity with at most that rate of false alarms; NaN as above."""
    # From the highest score down, beginning above every score, where nothing is called.
    found, alarms = (
        np.pad(each[:, ::-1].cumsum(axis=1), ((0, 0), (1, 0))) for each in _by_score(scores, targets, weights)
    )
    heights = np.full((len(weights), len(false_alarms)), np.nan)
    for row in np.flatnonzero((found[:, -1] > 0) & (alarms[:, -1] > 0)):
        # Counts are whole numbers: a little slack keeps a rate such as 0.3 from missing 3 of 10.
        at = np.searchsorted(alarms[row], false_alarms * alarms[row, -1] + 1e-9, side="right") - 1
        heights[row] = found[row, at] / found[row, -1]
    return heights


def weighted_net_benefit(
    scores: Float[np.ndarray, "point"],
    targets: Bool[np.ndarray, "point"],
    weights: Weights,
    thresholds: Float64[np.ndarray, "threshold"],
) -> Float64[np.ndarray, "resample threshold"]:
    """Net benefit of calling scores of at least t: found / n - false alarms / n * t / (1 - t).

    Args:
        scores: probabilities; higher means target.
        targets: which points are targets.
        weights: one row for each net benefit wanted.
        thresholds: t, in (0, 1): a false alarm costs t / (1 - t) of what a target found is worth.

    Source: Vickers and Elkin, Medical Decision Making 2006.
    """
    worth = np.where(targets[:, None], 1.0, -thresholds / (1 - thresholds))
    return np.asarray(weights @ (worth * (scores[:, None] >= thresholds)) / weights.sum(axis=1, keepdims=True))


def _by_score(
    scores: Float[np.ndarray, "point"], targets: Bool[np.ndarray, "point"], weights: Weights
) -> tuple[Float64[np.ndarray, "resample score"], Float64[np.ndarray, "resample score"]]:
    """Weight of targets and of others at each distinct score, ascending."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ordered, ordered_targets = weights[:, order], targets[order]
    return (
        np.add.reduceat(ordered * ordered_targets, starts, axis=1),
        np.add.reduceat(ordered * ~ordered_targets, starts, axis=1),
    )
