"""From the rows of a study to its tables: figures with intervals, paired differences, all by patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from diagnet.bootstrap import Interval
from diagnet.config import merged
from diagnet.data.mass import MassSet
from diagnet.errors import DataError
from diagnet.evaluation import Spread, across_folds
from diagnet.paired import delong, holm, points_to_show
from diagnet.run_folder import read_json, write_table
from diagnet.study.arms import PLAIN
from diagnet.study.calibration import abstention, calibration
from diagnet.study.choice import choice
from diagnet.study.perturbations import PERTURBATIONS
from diagnet.study.pictures import write_pictures
from diagnet.study.published import PROTOCOL, PUBLISHED
from diagnet.study.scores import (
    N_RESAMPLES,
    RECORD,
    Scores,
    Truth,
    identity,
    jobs_done,
    per_job,
    percentiles,
    read_jobs,
    read_scores,
    resampled,
    truth_of,
    weighted_accuracy,
)

WORTH_SHOWING = 0.02  # difference of AUC the power analysis is for


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


class Difference(TypedDict):
    """An arm against another: difference of AUC with its interval, and the p values (Holm: over all arms)."""

    arm: str
    against: str
    jobs: int
    auc: Interval
    p: float | None
    p_holm: float | None
    delong_se: float | None
    delong_p: float | None
    delong_p_holm: float | None
    of_mean_score: Interval  # difference of `auc_of_mean_score`
    masses_to_show: int | None  # with which a true difference of WORTH_SHOWING would be shown, power 0.8


def arm_figures(scores: Scores, truth: Truth) -> ArmFigures:
    """An arm's figures: mean, spread over jobs, and interval by patients and repeats."""
    done = jobs_done(scores, truth)
    areas, together = resampled(scores, truth), _of_mean_score(scores, truth)
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


def _of_mean_score(scores: Scores, truth: Truth) -> Float[np.ndarray, "resample"]:
    """AUC of each mass's mean score over all repeats, as `resampled` gives it; the trainings are not drawn again."""
    together = Scores(scores.name, scores.values.mean(axis=0, keepdims=True), scores.seconds)
    if len(scores.values) < 2 or not jobs_done(together, truth).all():
        return np.full(N_RESAMPLES + 1, np.nan)
    return resampled(together, truth)


def differences(pairs: Sequence[tuple[Scores, Scores]], truth: Truth) -> list[Difference]:
    """First minus second arm of each pair, on the jobs both have done; p values with and without Holm's correction."""
    found: list[Difference] = []
    for arm, against in pairs:
        both = jobs_done(arm, truth) & jobs_done(against, truth)
        first, second = (resampled(each, truth, jobs=both) for each in (arm, against))
        minus = first - second
        exact = _delong(arm, against, truth, both)
        known = minus[1:][~np.isnan(minus[1:])]
        tail = min((known <= 0).mean(), (known >= 0).mean()) if len(known) else np.nan
        se = float(known.std(ddof=1)) if len(known) > 1 else None
        found.append(
            {
                "arm": arm.name,
                "against": against.name,
                "jobs": int(both.sum()),
                "auc": percentiles(minus),
                "p": None if np.isnan(tail) else float(min(1.0, 2 * max(tail, 1 / (len(known) + 1)))),
                "p_holm": None,
                "delong_se": exact[0],
                "delong_p": exact[1],
                "delong_p_holm": None,
                "of_mean_score": percentiles(_of_mean_score(arm, truth) - _of_mean_score(against, truth)),
                "masses_to_show": points_to_show(WORTH_SHOWING, se, len(truth.targets)) if se else None,
            }
        )
    for row, by_bootstrap, by_delong in zip(
        found, holm([row["p"] for row in found]), holm([row["delong_p"] for row in found]), strict=True
    ):
        row["p_holm"], row["delong_p_holm"] = by_bootstrap, by_delong
    return found


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


def _delong(
    arm: Scores, against: Scores, truth: Truth, both: Bool[np.ndarray, "fold repeat"]
) -> tuple[float | None, float | None]:
    """Standard error and p of the folds whose repeats are all done by both; the more repeats, the better."""
    repeats = np.flatnonzero(both.any(axis=0))
    folds = np.flatnonzero(both[:, repeats].all(axis=1)) if len(repeats) else repeats
    here = np.isin(truth.folds, folds)
    if not here.any():
        return None, None
    result = delong(
        arm.values[repeats][:, here],
        against.values[repeats][:, here],
        truth.targets[here],
        truth.patients[here],
        truth.folds[here],
    )
    return result["se"], result["p"]


def write_tables(out: Path, mass_set: MassSet) -> tuple[list[ArmFigures], list[Difference]]:
    """Write the tables and pictures of a study from its rows, finished or not.

    `arms.csv`, `differences.csv` (against plain cross-entropy on the same masses, or the first arm where there is
    none) and `table1.csv`; of arms that hold out an inner fold `calibration.csv` and `abstention.csv`, and of two or
    more of them `choice.csv`; of arms whose test masses were perturbed `robustness.csv`.
    """
    record = read_json(out / RECORD)
    truth, repeats = truth_of(mass_set, record["folds"]), record["repeats"]
    arms = [read_scores(out / name, len(truth.targets), repeats) for name in record["arms"]]
    figures = [arm_figures(arm, truth) for arm in arms]
    write_table(out / "arms.csv", *as_table(figures))
    write_table(out / "table1.csv", *as_table(_table1(figures)))
    minus = differences(_pairs([arm for arm in arms if len(arm.seconds)], record), truth)
    if minus:
        write_table(out / "differences.csv", *as_table(minus))
    for name, rows in _further(out, record, truth).items():
        if rows:
            write_table(out / f"{name}.csv", *as_table(rows))
    n_all = round(len(truth.targets) * (1 - 1 / record["folds"]))
    write_pictures(out, figures, {name: arm["n_train"] or n_all for name, arm in record["arms"].items()})
    return figures, minus


def _pairs(arms: Sequence[Scores], record: Mapping[str, Any]) -> list[tuple[Scores, Scores]]:
    """Each arm with the one it is to beat: plain cross-entropy that saw the same masses, else the first that did."""
    described, settings = record["arms"], record["settings"]

    def trained(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in merged(settings, changes).items() if key != "graph"}

    def is_plain(arm: Scores) -> bool:
        own = described[arm.name]
        return own["method"] == "network" and trained(own["changes"]) == trained(PLAIN)

    same_masses: dict[tuple[Any, ...], list[Scores]] = {}
    for arm in arms:
        seen = tuple(described[arm.name].get(key) for key in ("n_train", "as_many_images", "holdout"))
        same_masses.setdefault(seen, []).append(arm)
    pairs = []
    for group in same_masses.values():
        against = next((arm for arm in group if is_plain(arm)), group[0])
        pairs += [(arm, against) for arm in group if arm is not against]
    return pairs


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


def compare_arms(folders: Sequence[Path], mass_set: MassSet) -> list[Difference]:
    """Compare arms, of one study or of several on the same masses and folds, with the first of them.

    Raises:
        DataError: fewer than two, an arm without rows, or studies with other masses or folds.
    """
    if len(folders) < 2:
        raise DataError(f"`compare` must be given two arms or more, got {len(folders)}")
    records = [read_json(folder.parent / RECORD) for folder in folders]
    for key in ("data", "folds"):
        if len({record[key] for record in records}) > 1:
            raise DataError(f"the arms must have the same {key}, got studies with others")
    if records[0]["data"] != identity(mass_set):
        raise DataError("`--data` must be the studies' data, got other masses")
    truth = truth_of(mass_set, records[0]["folds"])
    repeats = max(record["repeats"] for record in records)
    arms = [read_scores(folder, len(truth.targets), repeats) for folder in folders]
    for arm in arms:
        if not len(arm.seconds):
            raise DataError(f"`{arm.name}` must have rows of finished runs, got none")
    return differences([(arm, arms[0]) for arm in arms[1:]], truth)
