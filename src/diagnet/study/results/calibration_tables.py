"""Do an arm's probabilities mean what they say? Everything fitted on inner folds, measured on outer ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from diagnet.evaluation.bootstrap import Interval, draw_patients, proportion, weighted_net_benefit
from diagnet.evaluation.calibration import choose_threshold, fit_temperature
from diagnet.study.results.row_files import Row
from diagnet.study.results.scores import N_RESAMPLES, Truth, part_of

Jobs = Mapping[tuple[int, int], list[Row]]
PerCase = Float[np.ndarray, "case"]

_N_BINS = 10
_THRESHOLDS = (0.1, 0.2, 0.3, 0.5)  # of the decision curve
_COVERAGE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True, slots=True)
class _Tested:
    """Test masses of all jobs, one after the other; a mass is there once for each repeat."""

    raw: PerCase  # probability of malignancy before the temperature
    fitted: PerCase  # and after
    targets: Bool[np.ndarray, "case"]
    patients: Int[np.ndarray, "case"]
    called: Bool[np.ndarray, "case"]  # malignant, at 90 % sensitivity on the inner fold
    doubt: PerCase  # closeness to the threshold, as a rank within the job in [0, 1]; 1 is the closest


def calibration(name: str, jobs: Jobs, truth: Truth) -> list[dict[str, Any]]:
    """Measure an arm's calibration and its operating point.

    A job's temperature and threshold are fitted on the masses it held out of training. The expected calibration error
    is over ten bins of equal count. Resampling adds noise to it, so that percentiles lie too high: its interval is
    the basic bootstrap's, twice the figure minus the percentiles, cut at 0.

    Args:
        name: of the arm.
        jobs: its rows, by (fold, repeat).
        truth: of the masses.

    Source: Guo et al., ICML 2017; Davison and Hinkley, Bootstrap Methods, 1997, 5.2.
    """
    cases = _fit_and_test(jobs, truth)
    counts = draw_patients(int(truth.patients.max()) + 1, N_RESAMPLES, rng=np.random.default_rng(0))

    def of(part: PerCase | Bool[np.ndarray, "case"], whole: Bool[np.ndarray, "case"]) -> Interval:
        return proportion(part, whole, cases.patients, counts, 0.95)

    everywhere = np.ones(len(cases.targets), dtype=bool)
    weights = counts[:, cases.patients].astype(np.float64)
    figures = {
        "expected calibration error": _error_with_interval(cases.raw, cases.targets, weights),
        "expected calibration error, with temperature": _error_with_interval(cases.fitted, cases.targets, weights),
        "Brier score": of((cases.raw - cases.targets) ** 2, everywhere),
        "Brier score, with temperature": of((cases.fitted - cases.targets) ** 2, everywhere),
        "sensitivity where 90 % was asked for": of(cases.called & cases.targets, cases.targets),
        "specificity there": of(~cases.called & ~cases.targets, ~cases.targets),
    }
    for threshold in _THRESHOLDS:
        for rule, scores in (("net benefit", cases.fitted), ("net benefit of calling all", np.ones_like(cases.fitted))):
            figures[f"{rule} at {threshold:g}"] = _net_benefit(scores, cases.targets, weights, threshold)
    return [{"arm": name, "jobs": len(jobs), "figure": figure, "value": value} for figure, value in figures.items()]


def abstention(name: str, jobs: Jobs, truth: Truth) -> list[dict[str, Any]]:
    """Measure decisions when a job's doubtful masses, those nearest to its threshold, are left to the reader."""
    cases = _fit_and_test(jobs, truth)
    counts = draw_patients(int(truth.patients.max()) + 1, N_RESAMPLES, rng=np.random.default_rng(0))
    lines = []
    for coverage in _COVERAGE:
        kept = cases.doubt <= coverage
        figures = {
            "accuracy": ((cases.called == cases.targets) & kept, kept),
            "sensitivity": (cases.called & cases.targets & kept, cases.targets & kept),
            "specificity": (~cases.called & ~cases.targets & kept, ~cases.targets & kept),
        }
        intervals = {key: proportion(*parts, cases.patients, counts, 0.95) for key, parts in figures.items()}
        lines.append({"arm": name, "decided": coverage, **intervals})
    return lines


def calibration_error(
    probabilities: PerCase, targets: Bool[np.ndarray, "case"], weights: Float[np.ndarray, "resample case"]
) -> Float[np.ndarray, "resample"]:
    """Expected calibration error of weighted cases: mean gap between probability and proportion, over ten bins."""
    order = np.argsort(probabilities, kind="stable")
    edges = np.linspace(0, len(order), _N_BINS + 1).astype(np.int64)[:-1]
    ordered = weights[:, order]
    gaps = np.add.reduceat(ordered * (probabilities - targets)[order], edges, axis=1)
    return np.asarray(np.abs(gaps).sum(axis=1) / ordered.sum(axis=1))


def _net_benefit(
    probabilities: PerCase, targets: Bool[np.ndarray, "case"], weights: Float[np.ndarray, "resample case"], at: float
) -> Interval:
    every = np.concatenate([np.ones((1, len(targets))), weights])
    value, *drawn = weighted_net_benefit(probabilities, targets, every, np.array([at]))[:, 0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _error_with_interval(
    probabilities: PerCase, targets: Bool[np.ndarray, "case"], weights: Float[np.ndarray, "resample case"]
) -> Interval:
    value = float(calibration_error(probabilities, targets, np.ones((1, len(targets))))[0])
    low, high = np.quantile(calibration_error(probabilities, targets, weights), [0.025, 0.975])
    return {"value": value, "low": max(0.0, 2 * value - float(high)), "high": max(value, 2 * value - float(low))}


def _fit_and_test(jobs: Jobs, truth: Truth) -> _Tested:
    parts = []
    for rows in jobs.values():
        index, scores = part_of(rows, "validation")
        labels, logits = truth.targets[index].astype(np.int64), np.stack([np.zeros_like(scores), scores], axis=1)
        temperature = fit_temperature(labels, logits)
        threshold = choose_threshold(labels, expit(scores / temperature), "sensitivity90")
        index, scores = part_of(rows, "test")
        fitted = np.asarray(expit(scores / temperature))
        nearness = np.argsort(np.argsort(-np.abs(fitted - threshold), kind="stable"), kind="stable")
        parts.append(
            (
                np.asarray(expit(scores)),
                fitted,
                truth.targets[index],
                truth.patients[index],
                fitted >= threshold,
                (nearness + 1) / len(index),
            )
        )
    return _Tested(*(np.concatenate(each) for each in zip(*parts, strict=True)))
