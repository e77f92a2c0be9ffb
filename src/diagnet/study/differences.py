"""One arm minus another on the same runs: differences of AUC with their intervals, p values and corrections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from diagnet.config import merged
from diagnet.data.mass import MassSet
from diagnet.errors import DataError
from diagnet.evaluation.bootstrap import Interval
from diagnet.evaluation.delong import delong, holm, points_to_show
from diagnet.run.folder import read_json
from diagnet.study.arms import PLAIN
from diagnet.study.scores import (
    N_RESAMPLES,
    RECORD,
    Scores,
    Truth,
    identity,
    jobs_done,
    percentiles,
    read_scores,
    resampled,
    resampled_mean_score,
    truth_of,
)

N_WHERE_SMALL = 20_000  # resamples where hardly one of `N_RESAMPLES` crosses 0
WORTH_SHOWING = 0.02  # difference of AUC the power analysis is for


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


def differences(pairs: Sequence[tuple[Scores, Scores]], truth: Truth) -> list[Difference]:
    """First minus second arm of each pair, on the jobs both have done; p values with and without Holm's correction."""
    found: list[Difference] = []
    for arm, against in pairs:
        both = jobs_done(arm, truth) & jobs_done(against, truth)
        minus = _minus(arm, against, truth, both, N_RESAMPLES)
        known = _known(minus)
        p = _two_sided(known)
        if p is not None and p <= 2 / len(known):  # more resamples, lest the correction for many arms hide it
            p = _two_sided(_known(_minus(arm, against, truth, both, N_WHERE_SMALL)))
        exact = _delong(arm, against, truth, both)
        se = float(known.std(ddof=1)) if len(known) > 1 else None
        found.append(
            {
                "arm": arm.name,
                "against": against.name,
                "jobs": int(both.sum()),
                "auc": percentiles(minus),
                "p": p,
                "p_holm": None,
                "delong_se": exact[0],
                "delong_p": exact[1],
                "delong_p_holm": None,
                "of_mean_score": percentiles(resampled_mean_score(arm, truth) - resampled_mean_score(against, truth)),
                "masses_to_show": points_to_show(WORTH_SHOWING, se, len(truth.targets)) if se else None,
            }
        )
    for row, by_bootstrap, by_delong in zip(
        found, holm([row["p"] for row in found]), holm([row["delong_p"] for row in found]), strict=True
    ):
        row["p_holm"], row["delong_p_holm"] = by_bootstrap, by_delong
    return found


def _minus(
    arm: Scores, against: Scores, truth: Truth, both: Bool[np.ndarray, "fold repeat"], n_resamples: int
) -> Float[np.ndarray, "resample"]:
    """Difference of AUC as it is, then in each resample."""
    first, second = (resampled(each, truth, jobs=both, n_resamples=n_resamples) for each in (arm, against))
    return np.asarray(first - second)


def _known(minus: Float[np.ndarray, "resample"]) -> Float[np.ndarray, "known"]:
    """The resamples in which there is a difference."""
    return np.asarray(minus[1:][~np.isnan(minus[1:])])


def _two_sided(known: Float[np.ndarray, "known"]) -> float | None:
    """Twice the share of resamples on the other side of 0, at least as if one were."""
    if len(known) == 0:
        return None
    tail = min((known <= 0).mean(), (known >= 0).mean())
    return float(min(1.0, 2 * max(tail, 1 / (len(known) + 1))))


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


def pairs_of(arms: Sequence[Scores], record: Mapping[str, Any]) -> list[tuple[Scores, Scores]]:
    """Each arm with the one it is to beat, of those that saw as many masses.

    That is plain cross-entropy; where there is none, plain cross-entropy of other epochs; else the first arm.
    """
    described, settings = record["arms"], record["settings"]

    def trained(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in merged(settings, changes).items() if key != "graph"}

    plain = trained(PLAIN)
    epochs = {"training": {"epochs": plain["training"]["epochs"]}}

    def unlike_plain(arm: Scores) -> int:
        own = trained(described[arm.name]["changes"])
        if described[arm.name]["method"] != "network" or merged(own, epochs) != plain:
            return 2
        return 0 if own == plain else 1

    same_masses: dict[tuple[Any, ...], list[Scores]] = {}
    for arm in arms:
        seen = tuple(str(described[arm.name].get(k)) for k in ("n_train", "as_many_images", "holdout", "sources"))
        same_masses.setdefault(seen, []).append(arm)
    pairs = []
    for group in same_masses.values():
        against = min(group, key=unlike_plain)
        pairs += [(arm, against) for arm in group if arm is not against]
    return pairs


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
