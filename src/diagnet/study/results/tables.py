"""From the rows of a study to its tables: figures with intervals, paired differences, all by patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diagnet.data.mass import MassSet
from diagnet.evaluation.bootstrap import Interval, weighted_auc
from diagnet.evaluation.figures import Spread, across_folds
from diagnet.run.folder import read_json, write_table
from diagnet.study.perturbations import PERTURBATIONS
from diagnet.study.results.calibration_tables import abstention, calibration
from diagnet.study.results.choice import choice
from diagnet.study.results.differences import Difference, differences, pairs_of
from diagnet.study.results.pictures import write_pictures
from diagnet.study.results.published import PROTOCOL, PUBLISHED
from diagnet.study.results.row_files import read_jobs
from diagnet.study.results.scores import (
    RECORD,
    Measure,
    Scores,
    Truth,
    jobs_done,
    per_job,
    percentiles,
    read_scores,
    resampled,
    resampled_mean_score,
    truth_of,
    weighted_accuracy,
)
from diagnet.study.results.seed_luck import SeedLuck, Source, lenders, on_same_draws, spread

MEASURES: Mapping[str, Measure] = {"auc": weighted_auc, "accuracy": weighted_accuracy}


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
    seeds: Source  # where the luck of the seeds is from, that the intervals hold
    seed_sd: float | None  # of the AUC of one training, by its seed


def arm_figures(scores: Scores, truth: Truth, luck: Mapping[str, SeedLuck] | None = None) -> ArmFigures:
    """An arm's figures: mean, spread over jobs, and interval by patients and seeds.

    Args:
        scores: of the arm.
        truth: of the masses.
        luck: of seeds, of `auc` and `accuracy`; measured on this arm by default.
    """
    done = jobs_done(scores, truth)
    luck = luck or {name: SeedLuck.of([scores], truth, measure=measure) for name, measure in MEASURES.items()}
    seeds = {name: each.of_arm(scores) for name, each in luck.items()}
    # Trainings are not drawn again: a mean score is of these very trainings.
    areas, together = resampled(scores, truth), resampled_mean_score(scores, truth)
    return {
        "arm": scores.name,
        "jobs": int(done.sum()),
        "of": done.size,
        "auc": percentiles(resampled(scores, truth, seed_variance=seeds["auc"].seed)),
        "auc_of_mean_score": percentiles(together),
        "gain_of_mean_score": percentiles(together - areas),
        "auc_over_jobs": across_folds(per_job(scores, truth)),
        "accuracy": percentiles(
            resampled(scores, truth, measure=weighted_accuracy, seed_variance=seeds["accuracy"].seed)
        ),
        "accuracy_over_jobs": across_folds(per_job(scores, truth, weighted_accuracy)),
        "minutes": None if np.isnan(scores.seconds).all() else round(float(np.nanmedian(scores.seconds)) / 60, 2),
        "seeds": seeds["auc"].source,
        "seed_sd": None if seeds["auc"].source == "none" else seeds["auc"].seed ** 0.5,
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


def write_tables(
    out: Path, mass_set: MassSet, seed_sd: float | None = None
) -> tuple[list[ArmFigures], list[Difference]]:
    """Write the tables and pictures of a study from its rows, finished or not.

    `arms.csv`, `differences.csv` (each arm against what `pairs_of` says) and `table1.csv`; of arms that hold out an
    inner fold `calibration.csv` and `abstention.csv`, and of two or more of them `choice.csv`; of arms whose test
    masses were perturbed `robustness.csv`.

    Args:
        out: the study's folder.
        mass_set: its data.
        seed_sd: standard deviation of a training's AUC by its seed, for arms with one repeat of a study in which no arm
            has more.
    """
    record = read_json(out / RECORD)
    truth, repeats = truth_of(mass_set, record["folds"]), record["repeats"]
    arms = [read_scores(out / name, len(truth.targets), repeats) for name in record["arms"]]
    lending, same_draws = lenders(arms, record), on_same_draws(arms, record)
    luck = {
        name: SeedLuck.of(
            arms,
            truth,
            lenders=lending,
            given=seed_sd if name == "auc" else None,
            same_draws=same_draws,
            measure=measure,
        )
        for name, measure in MEASURES.items()
    }
    figures = [arm_figures(arm, truth, luck) for arm in arms]
    write_table(out / "arms.csv", *as_table(figures))
    write_table(out / "table1.csv", *as_table(_table1(figures)))
    minus = differences(pairs_of([arm for arm in arms if len(arm.seconds)], record), truth, luck["auc"])
    if minus:
        write_table(out / "differences.csv", *as_table(minus))
    for name, rows in _further(out, record, truth, luck["auc"]).items():
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


def _further(
    out: Path, record: Mapping[str, Any], truth: Truth, luck: SeedLuck
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Tables of what some arms alone have: an inner fold, perturbed test masses."""
    held_out = {
        name: jobs
        for name, arm in record["arms"].items()
        if arm["holdout"] and (jobs := read_jobs(out / name, record["repeats"]))
    }
    perturbed = [name for name, arm in record["arms"].items() if arm.get("perturbed")]
    return {
        "choice": choice(held_out, truth, record["repeats"], luck),
        "calibration": [row for name, jobs in held_out.items() for row in calibration(name, jobs, truth)],
        "abstention": [row for name, jobs in held_out.items() for row in abstention(name, jobs, truth)],
        "robustness": [row for name in perturbed for row in _robustness(out / name, truth, record["repeats"], luck)],
    }


def _robustness(folder: Path, truth: Truth, repeats: int, luck: SeedLuck) -> list[dict[str, Any]]:
    """AUC of an arm's perturbed test masses, and how much that is below the masses as they are.

    The change is of the same trainings; with one repeat nothing tells how it varies from seed to seed.
    """
    clean = read_scores(folder, len(truth.targets), repeats)
    own = luck.of_arm(clean)
    rows: list[dict[str, Any]] = []
    for name in ("", *PERTURBATIONS):
        scores = read_scores(folder, len(truth.targets), repeats, f"test@{name}") if name else clean
        both = jobs_done(scores, truth) & jobs_done(clean, truth)
        if not both.any():
            continue
        change = max(0.0, spread(scores, truth, against=clean).seed)
        rows.append(
            {
                "arm": folder.name,
                "perturbation": name or "none",
                "jobs": int(both.sum()),
                "auc": percentiles(resampled(scores, truth, jobs=both, seed_variance=own.seed)),
                "change": percentiles(resampled(scores, truth, against=clean, jobs=both, seed_variance=change)),
            }
        )
    return rows
