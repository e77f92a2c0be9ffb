"""The rows a study leaves, read back: scores by repeat and mass, and what is resampled from them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from diagnet.data.mass import MassSet, malignant_class
from diagnet.evaluation.bootstrap import Interval, Resampled, Weights, draw_patients, weighted_auc
from diagnet.study.jobs import folds_of
from diagnet.study.results.row_files import Row, read_jobs

N_RESAMPLES = 2000
RECORD = "study.json"

Measure = Callable[[Float[np.ndarray, "point"], Bool[np.ndarray, "point"], Weights], Resampled]


@dataclass(frozen=True, slots=True)
class Scores:
    """What an arm's networks say of the masses they were tested on.

    Attributes:
        name: of the arm.
        values: score of each mass in each repeat; NaN where that job is not done.
        seconds: of each job done; NaN where it was not noted.
    """

    name: str
    values: Float[np.ndarray, "repeat mass"]
    seconds: Float[np.ndarray, "job"]

    def of(self, rows: Bool[np.ndarray, "mass"]) -> "Scores":
        """Return what it says of some of the masses."""
        return replace(self, values=self.values[:, rows])


@dataclass(frozen=True, slots=True)
class Truth:
    """What scores are measured against.

    Attributes:
        targets: which masses are malignant.
        patients: of each mass, as a number.
        folds: the fold each mass is tested in.
    """

    targets: Bool[np.ndarray, "mass"]
    patients: Int[np.ndarray, "mass"]
    folds: Int[np.ndarray, "mass"]


def truth_of(mass_set: MassSet, n_folds: int) -> Truth:
    """Labels, patients and folds of a study's masses."""
    folds = np.zeros(len(mass_set.labels), np.int64)
    for fold, test in enumerate(folds_of(mass_set, n_folds)):
        folds[test] = fold
    return Truth(mass_set.labels == malignant_class(mass_set.classes), mass_set.patient_numbers, folds)


def restricted_to(truth: Truth, rows: Bool[np.ndarray, "mass"]) -> tuple[Truth, Bool[np.ndarray, "mass"]]:
    """Some of the masses, of the folds in which they have both classes: elsewhere an AUC is not defined.

    Returns:
        their truth, and which they are.
    """
    whole = [
        fold for fold in np.unique(truth.folds) if len(np.unique(truth.targets[rows & (truth.folds == fold)])) == 2
    ]
    here = rows & np.isin(truth.folds, whole)
    folds = np.searchsorted(whole, truth.folds[here])
    return Truth(truth.targets[here], truth.patients[here], folds.astype(np.int64)), here


def identity(mass_set: MassSet) -> str:
    """Hash of what masses a study is on: images' names, patients and labels."""
    parts = [mass_set.image_names, mass_set.patients, mass_set.labels.tolist()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_scores(folder: Path, n_masses: int, repeats: int, part: str = "test") -> Scores:
    """Read what an arm says of the masses it was tested on, as they are or (`part`) as a perturbation left them.

    Raises:
        DataError: a file is not a job's.
    """
    return scores_of(folder.name, read_jobs(folder, repeats), n_masses, repeats, part)


def scores_of(
    name: str, jobs: Mapping[tuple[int, int], list[Row]], n_masses: int, repeats: int, part: str, n_folds: int = 0
) -> Scores:
    """Scores of one part of an arm's rows.

    Args:
        name: of the arm.
        jobs: its rows by (fold, repeat).
        n_masses: that may be scored.
        repeats: of the study.
        part: of the rows.
        n_folds: of the study, where every job scores all of the masses: each job is then a repeat of its own.
    """
    values = np.full((repeats * max(n_folds, 1), n_masses), np.nan)
    for (fold, repeat), rows in jobs.items():
        index, scores = part_of(rows, part)
        values[repeat * n_folds + fold if n_folds else repeat, index] = scores
    return Scores(name, values, np.array([float(rows[0]["seconds"] or "nan") for rows in jobs.values()]))


def seconds_of(folder: Path, repeats: int) -> list[float]:
    """How long each job of an arm took, of those where it was noted."""
    return [float(rows[0]["seconds"]) for rows in read_jobs(folder, repeats).values() if rows[0]["seconds"]]


def part_of(rows: list[Row], part: str) -> tuple[Int[np.ndarray, "score"], Float[np.ndarray, "score"]]:
    """Masses and scores of one part of a job's rows."""
    chosen = [row for row in rows if row["part"] == part]
    return (
        np.array([int(row["index"]) for row in chosen], dtype=np.int64),
        np.array([float(row["score"]) for row in chosen]),
    )


def weighted_accuracy(
    scores: Float[np.ndarray, "point"], targets: Bool[np.ndarray, "point"], weights: Weights
) -> Resampled:
    """Fraction of the points whose more probable class is their own: log-odds of at least 0 where malignant."""
    return np.asarray((weights @ ((scores >= 0) == targets)) / weights.sum(axis=1))


def figures_by_fold(
    scores: Scores,
    truth: Truth,
    *,
    against: Scores | None = None,
    jobs: Bool[np.ndarray, "fold repeat"] | None = None,
    measure: Measure = weighted_auc,
    n_resamples: int = N_RESAMPLES,
) -> list[Float[np.ndarray, "resample done"]]:
    """A figure of each job done, fold by fold: first as it is, then in each resample of patients.

    The draws are the same for every arm: differences of two results are paired.

    Args:
        scores: of an arm.
        truth: of the same masses.
        against: an arm whose figure is subtracted, repeat by repeat.
        jobs: which folds and repeats count, those that are done by default.
        measure: the figure of weighted points.
        n_resamples: of the patients.
    """
    draws, _ = _drawn(int(truth.patients.max()) + 1, n_resamples)
    weights = np.concatenate([np.ones((1, len(truth.targets))), draws[:, truth.patients]]).astype(np.float64)
    done = jobs_done(scores, truth) if jobs is None else jobs
    figures = []
    for fold, repeats in enumerate(done):
        here = truth.folds == fold
        per_repeat = [
            measure(scores.values[r, here], truth.targets[here], weights[:, here])
            - (0 if against is None else measure(against.values[r, here], truth.targets[here], weights[:, here]))
            for r in np.flatnonzero(repeats)
        ]
        if per_repeat:
            figures.append(np.stack(per_repeat, axis=1))
    return figures


def resampled(
    scores: Scores,
    truth: Truth,
    *,
    against: Scores | None = None,
    measure: Measure = weighted_auc,
    n_resamples: int = N_RESAMPLES,
    jobs: Bool[np.ndarray, "fold repeat"] | None = None,
    seed_variance: float = 0.0,
) -> Float[np.ndarray, "resample"]:
    """Mean of a figure over folds and repeats: first as it is, then in each resample of patients.

    The luck of the trainings' seeds is added to each resample as a normal draw, so that an interval holds it whether
    a fold has one repeat or more.

    Args:
        scores: of an arm.
        truth: of the same masses.
        against: an arm whose figure is subtracted, repeat by repeat.
        measure: the figure of weighted points.
        n_resamples: of the patients.
        jobs: which folds and repeats count, those that are done by default.
        seed_variance: of the figure of one training in one fold, by its seed alone (`seed_luck.SeedLuck`).
    """
    figures = figures_by_fold(scores, truth, against=against, jobs=jobs, measure=measure, n_resamples=n_resamples)
    if not figures:
        return np.full(n_resamples + 1, np.nan)
    mean = np.mean([each.mean(axis=1) for each in figures], axis=0)
    rng = np.random.default_rng()
    rng.bit_generator.state = _drawn(int(truth.patients.max()) + 1, n_resamples)[1]
    spread = (seed_variance * shares_of_seeds([each.shape[1] for each in figures])) ** 0.5
    mean[1:] += spread * rng.standard_normal(n_resamples)
    return np.asarray(mean)


def shares_of_seeds(repeats: Sequence[int]) -> float:
    """Variance of a mean over folds, then over folds' repeats, for a variance of 1 of each training."""
    return sum(1 / n for n in repeats) / len(repeats) ** 2


@lru_cache(maxsize=2)
def _drawn(n_patients: int, n_resamples: int) -> tuple[Int[np.ndarray, "resample patient"], dict[str, Any]]:
    """Resamples of patients, the same for every arm, and the generator's state after them."""
    rng = np.random.default_rng(0)
    return draw_patients(n_patients, n_resamples, rng=rng), dict(rng.bit_generator.state)


def resampled_mean_score(scores: Scores, truth: Truth) -> Float[np.ndarray, "resample"]:
    """AUC of each mass's mean score over all repeats, as `resampled` gives it; the trainings are not drawn again."""
    together = Scores(scores.name, scores.values.mean(axis=0, keepdims=True), scores.seconds)
    if len(scores.values) < 2 or not jobs_done(together, truth).all():
        return np.full(N_RESAMPLES + 1, np.nan)
    return resampled(together, truth)


def per_job(scores: Scores, truth: Truth, measure: Measure = weighted_auc) -> list[float]:
    """Return the measure (AUC by default) of each finished job: one fold, one repeat."""
    return [
        float(measure(scores.values[repeat, here], truth.targets[here], np.ones((1, here.sum())))[0])
        for fold, repeat in zip(*np.nonzero(jobs_done(scores, truth)), strict=True)
        for here in [truth.folds == fold]
    ]


def jobs_done(scores: Scores, truth: Truth) -> Bool[np.ndarray, "fold repeat"]:
    """Which jobs have scores of all their masses."""
    n_folds = int(truth.folds.max()) + 1
    return np.stack([~np.isnan(scores.values[:, truth.folds == fold]).any(axis=1) for fold in range(n_folds)])


def percentiles(figures: Float[np.ndarray, "resample"]) -> Interval:
    """Figure and percentile interval of what `resampled` gives; a flawless AUC has no width here."""
    if np.isnan(figures[0]):
        return {"value": None, "low": None, "high": None}
    low, high = np.nanquantile(figures[1:], [0.025, 0.975])
    return {"value": float(figures[0]), "low": float(low), "high": float(high)}
