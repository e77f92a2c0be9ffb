"""From the rows of a study to its tables: AUCs with intervals, paired differences, all by patient."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from diagnet.bootstrap import Interval, draw_patients, weighted_auc
from diagnet.data.mass import MassSet, malignant_class
from diagnet.errors import DataError
from diagnet.evaluation import Spread, across_folds
from diagnet.paired import delong, holm, points_to_show
from diagnet.run_folder import read_json, write_table
from diagnet.study.jobs import folds_of

N_RESAMPLES = 2000
RECORD = "study.json"
WORTH_SHOWING = 0.02  # difference of AUC the power analysis is for


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


class ArmFigures(TypedDict):
    """An arm's line in the table; `auc` is the mean over folds and repeats, `over_jobs` their spread."""

    arm: str
    jobs: int
    of: int
    auc: Interval
    over_jobs: Spread
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
    masses_to_show: int | None  # with which a true difference of WORTH_SHOWING would be shown, power 0.8


def truth_of(mass_set: MassSet, n_folds: int) -> Truth:
    """Labels, patients and folds of a study's masses."""
    folds = np.zeros(len(mass_set.labels), np.int64)
    for fold, test in enumerate(folds_of(mass_set, n_folds)):
        folds[test] = fold
    return Truth(mass_set.labels == malignant_class(mass_set.classes), mass_set.patient_numbers, folds)


def read_scores(folder: Path, n_masses: int, repeats: int) -> Scores:
    """Read the rows of an arm.

    Raises:
        DataError: a row is not one of this study's.
    """
    values, seconds = np.full((repeats, n_masses), np.nan), []
    for path in sorted(folder.glob("fold*-repeat*.csv")):
        repeat = int(path.stem.rpartition("repeat")[2])
        if repeat >= repeats:
            continue
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            seconds.append(float(rows[0]["seconds"] or "nan"))
            for row in rows:
                if row["part"] == "test":
                    values[repeat, int(row["index"])] = float(row["score"])
        except (KeyError, ValueError, IndexError, OSError) as error:
            raise DataError(f"`{path}` must hold a job's rows, got: {error!r}. Fix: delete it and --resume") from error
    return Scores(folder.name, values, np.array(seconds))


def resampled_auc(
    scores: Scores, truth: Truth, *, n_resamples: int = N_RESAMPLES, jobs: Bool[np.ndarray, "fold repeat"] | None = None
) -> Float[np.ndarray, "resample"]:
    """Mean AUC over folds and repeats: first as it is, then in each resample of patients and of repeats.

    Each fold's repeats are drawn with replacement too, so that the luck of a training is in the interval. The draws
    are the same for every arm: differences of two results are paired.

    Args:
        scores: of an arm.
        truth: of the same masses.
        n_resamples: of the patients.
        jobs: which folds and repeats count, those that are done by default.
    """
    rng = np.random.default_rng(0)
    draws = draw_patients(int(truth.patients.max()) + 1, n_resamples, rng=rng)
    weights = np.concatenate([np.ones((1, len(truth.targets))), draws[:, truth.patients]]).astype(np.float64)
    done = jobs_done(scores, truth) if jobs is None else jobs
    areas = []
    for fold in range(done.shape[0]):
        drawn = rng.multinomial(done.shape[1], np.full(done.shape[1], 1 / done.shape[1]), size=n_resamples)
        repeats = np.flatnonzero(done[fold])
        if len(repeats) == 0:
            continue
        here = truth.folds == fold
        per_repeat = np.stack(
            [weighted_auc(scores.values[r, here], truth.targets[here], weights[:, here]) for r in repeats], axis=1
        )
        odds = np.concatenate([np.ones((1, len(repeats))), drawn[:, repeats]]).astype(np.float64)
        odds[odds.sum(axis=1) == 0] = 1
        areas.append((per_repeat * odds).sum(axis=1) / odds.sum(axis=1))
    return np.mean(areas, axis=0) if areas else np.full(n_resamples + 1, np.nan)


def jobs_done(scores: Scores, truth: Truth) -> Bool[np.ndarray, "fold repeat"]:
    """Which jobs have scores of all their masses."""
    n_folds = int(truth.folds.max()) + 1
    return np.stack([~np.isnan(scores.values[:, truth.folds == fold]).any(axis=1) for fold in range(n_folds)])


def arm_figures(scores: Scores, truth: Truth) -> ArmFigures:
    """An arm's AUC: mean, spread over jobs, and interval by patients and repeats."""
    done = jobs_done(scores, truth)
    resampled = resampled_auc(scores, truth)
    ones = np.ones((1, len(truth.targets)))
    per_job = [
        float(weighted_auc(scores.values[r, here], truth.targets[here], ones[:, here])[0])
        for f, r in zip(*np.nonzero(done), strict=True)
        for here in [truth.folds == f]
    ]
    return {
        "arm": scores.name,
        "jobs": int(done.sum()),
        "of": done.size,
        "auc": _percentiles(resampled),
        "over_jobs": across_folds(per_job),
        "minutes": None if np.isnan(scores.seconds).all() else round(float(np.nanmedian(scores.seconds)) / 60, 2),
    }


def differences(arms: Sequence[Scores], against: Scores, truth: Truth) -> list[Difference]:
    """Each arm minus one, on the jobs both have done; p values with and without correction for their number."""
    found: list[Difference] = []
    for arm in arms:
        both = jobs_done(arm, truth) & jobs_done(against, truth)
        first, second = (resampled_auc(each, truth, jobs=both) for each in (arm, against))
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
                "auc": _percentiles(minus),
                "p": None if np.isnan(tail) else float(min(1.0, 2 * max(tail, 1 / (len(known) + 1)))),
                "p_holm": None,
                "delong_se": exact[0],
                "delong_p": exact[1],
                "delong_p_holm": None,
                "masses_to_show": points_to_show(WORTH_SHOWING, se, len(truth.targets)) if se else None,
            }
        )
    for row, by_bootstrap, by_delong in zip(
        found, holm([row["p"] for row in found]), holm([row["delong_p"] for row in found]), strict=True
    ):
        row["p_holm"], row["delong_p_holm"] = by_bootstrap, by_delong
    return found


def as_table(rows: Sequence[ArmFigures] | Sequence[Difference]) -> tuple[list[str], list[list[object]]]:
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


def _percentiles(resampled: Float[np.ndarray, "resample"]) -> Interval:
    """Figure and percentile interval of what `resampled_auc` gives; a flawless AUC has no width here."""
    if np.isnan(resampled[0]):
        return {"value": None, "low": None, "high": None}
    low, high = np.nanquantile(resampled[1:], [0.025, 0.975])
    return {"value": float(resampled[0]), "low": float(low), "high": float(high)}


def write_tables(out: Path, mass_set: MassSet) -> tuple[list[ArmFigures], list[Difference]]:
    """Write `arms.csv` and `differences.csv` of a study from its rows, finished or not.

    Differences are against the arm "plain", or the first one where there is none.
    """
    record = read_json(out / RECORD)
    truth = truth_of(mass_set, record["folds"])
    arms = [read_scores(out / name, len(truth.targets), record["repeats"]) for name in record["arms"]]
    figures = [arm_figures(arm, truth) for arm in arms]
    against = next((arm for arm in arms if arm.name == "plain"), arms[0])
    others = [arm for arm in arms if arm is not against and len(arm.seconds)]
    minus = differences(others, against, truth) if len(against.seconds) else []
    write_table(out / "arms.csv", *as_table(figures))
    if minus:
        write_table(out / "differences.csv", *as_table(minus))
    return figures, minus


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
    return differences(arms[1:], arms[0], truth)


def identity(mass_set: MassSet) -> str:
    """Hash of what masses a study is on: images' names, patients and labels."""
    parts = [mass_set.image_names, mass_set.patients, mass_set.labels.tolist()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
