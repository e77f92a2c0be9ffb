"""From the rows of a study to its tables: figures with intervals, paired differences, all by patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diagnet.data.mass import MassSet
from diagnet.evaluation.bootstrap import Interval
from diagnet.evaluation.figures import Spread, across_folds
from diagnet.run.folder import read_json, write_table
from diagnet.study.calibration import abstention, calibration
from diagnet.study.choice import choice
from diagnet.study.differences import Difference, differences, pairs_of
from diagnet.study.perturbations import PERTURBATIONS
from diagnet.study.pictures import write_pictures
from diagnet.study.published import PROTOCOL, PUBLISHED
from diagnet.study.scores import (
    RECORD,
    Scores,
    Truth,
    jobs_done,
    per_job,
    percentiles,
    read_jobs,
    read_scores,
    resampled,
    resampled_mean_score,
    truth_of,
    weighted_accuracy,
)


class ArmFigures(TypedDict):
    """An arm's line: means over folds and repeats with their intervals, and the spread over jobs."""

    arm: str
    jobs: int
    of: int
    auc: Interval
    auc_over_jobs: Spread
    auc_of_mean_score: Interval  # the mean score of all repeats' trainings; none where one is missing
    gain_of_mean_score: Interval  # that minus `auc`
    accuracy: Interval  # of the more probable class
    accuracy_over_jobs: Spread
    minutes: float | None  # of a job, median


def arm_figures(scores: Scores, truth: Truth) -> ArmFigures:
    """An arm's figures: mean, spread over jobs, and interval by patients and repeats."""
    done = jobs_done(scores, truth)
    areas, together = resampled(scores, truth), resampled_mean_score(scores, truth)
    return {
        "arm": scores.name,
        "jobs": int(done.sum()),
        "of": done.size,
        "auc": percentiles(areas),
        "auc_of_mean_score": percentiles(together),
        "gain_of_mean_score": percentiles(together - areas),
        "auc_over_jobs": across_folds(per_job(scores, truth)),
        "accuracy": percentiles(resampled(scores, truth, measure=weighted_accuracy)),
        "accuracy_over_jobs": across_folds(per_job(scores, truth, weighted_accuracy)),
        "minutes": None if np.isnan(scores.seconds).all() else round(float(np.nanmedian(scores.seconds)) / 60, 2),
    }


Line = Mapping[str, Any] | ArmFigures | Difference


def as_table(rows: Sequence[Line]) -> tuple[list[str], list[list[object]]]:
    """Columns and cells of figures: an interval or a spread takes a column for each of its parts."""
    columns: list[str] = []
    table: list[list[object]] = []
    for row in rows:
        flat: dict[str, object] = {}
        for key, value in row.items():
            if isinstance(value, Mapping):
                flat |= {key if part == "value" else f"{key}_{part}": each for part, each in value.items()}
            else:
                flat[key] = value
        columns = list(flat)
        table.append([f"{each:.5g}" if isinstance(each, float) else each for each in flat.values()])
    return columns, table


def write_tables(out: Path, mass_set: MassSet) -> tuple[list[ArmFigures], list[Difference]]:
    """Write the tables and pictures of a study from its rows, finished or not.

    `arms.csv`, `differences.csv` (each arm against what `pairs_of` says) and `table1.csv`; of arms that hold out an
    inner fold `calibration.csv` and `abstention.csv`, and of two or more of them `choice.csv`; of arms whose test
    masses were perturbed `robustness.csv`.
    """
    record = read_json(out / RECORD)
    truth, repeats = truth_of(mass_set, record["folds"]), record["repeats"]
    arms = [read_scores(out / name, len(truth.targets), repeats) for name in record["arms"]]
    figures = [arm_figures(arm, truth) for arm in arms]
    write_table(out / "arms.csv", *as_table(figures))
    write_table(out / "table1.csv", *as_table(_table1(figures)))
    minus = differences(pairs_of([arm for arm in arms if len(arm.seconds)], record), truth)
    if minus:
        write_table(out / "differences.csv", *as_table(minus))
    for name, rows in _further(out, record, truth).items():
        if rows:
            write_table(out / f"{name}.csv", *as_table(rows))
    n_all = round(len(truth.targets) * (1 - 1 / record["folds"]))
    write_pictures(out, figures, {name: arm["n_train"] or n_all for name, arm in record["arms"].items()})
    return figures, minus


def _table1(figures: Sequence[ArmFigures]) -> list[dict[str, Any]]:
    """The arms' figures beside what the paper prints for the same or the nearest method."""
    measured = {row["arm"]: row for row in figures}
    nothing: Interval = {"value": None, "low": None, "high": None}
    none: Spread = {"n": 0, "mean": None, "sd": None, "se": None}
    rows = []
    for name in [*measured, *(name for name in PUBLISHED if name not in measured)]:
        row, printed = measured.get(name), PUBLISHED.get(name)
        rows.append(
            {
                "method": name,
                "jobs": row["jobs"] if row else 0,
                **{
                    key: row[key] if row else empty  # type: ignore[literal-required]  # keys of ArmFigures
                    for key, empty in (
                        ("accuracy", nothing),
                        ("accuracy_over_jobs", none),
                        ("auc", nothing),
                        ("auc_over_jobs", none),
                    )
                },
                **{f"paper_{key}": printed[key] if printed else None for key in ("method", "accuracy", "auc")},
                "protocol": PROTOCOL if printed else None,
            }
        )
    return rows


def _further(out: Path, record: Mapping[str, Any], truth: Truth) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Tables of what some arms alone have: an inner fold, perturbed test masses."""
    held_out = {
        name: jobs
        for name, arm in record["arms"].items()
        if arm["holdout"] and (jobs := read_jobs(out / name, record["repeats"]))
    }
    perturbed = [name for name, arm in record["arms"].items() if arm.get("perturbed")]
    return {
        "choice": choice(held_out, truth, record["repeats"]),
        "calibration": [row for name, jobs in held_out.items() for row in calibration(name, jobs, truth)],
        "abstention": [row for name, jobs in held_out.items() for row in abstention(name, jobs, truth)],
        "robustness": [row for name in perturbed for row in _robustness(out / name, truth, record["repeats"])],
    }


def _robustness(folder: Path, truth: Truth, repeats: int) -> list[dict[str, Any]]:
    """AUC of an arm's perturbed test masses, and how much that is below the masses as they are."""
    clean = read_scores(folder, len(truth.targets), repeats)
    rows: list[dict[str, Any]] = []
    for name in ("", *PERTURBATIONS):
        scores = read_scores(folder, len(truth.targets), repeats, f"test@{name}") if name else clean
        both = jobs_done(scores, truth) & jobs_done(clean, truth)
        if not both.any():
            continue
        areas, before = (resampled(each, truth, jobs=both) for each in (scores, clean))
        rows.append(
            {
                "arm": folder.name,
                "perturbation": name or "none",
                "jobs": int(both.sum()),
                "auc": percentiles(areas),
                "change": percentiles(areas - before),
            }
        )
    return rows
