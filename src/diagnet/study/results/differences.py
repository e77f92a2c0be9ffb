"""One arm minus another on the same runs: differences of AUC with their intervals, p values and corrections."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from diagnet.config import merged
from diagnet.data.mass import MassSet
from diagnet.errors import DataError
from diagnet.evaluation.bootstrap import Interval
from diagnet.evaluation.delong import delong, holm, required_sample_size
from diagnet.run.folder import read_json
from diagnet.study.arms import PLAIN
from diagnet.study.jobs import margin_part
from diagnet.study.results.scores import (
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
    restricted_to,
    shares_of_seeds,
    truth_of,
)
from diagnet.study.results.seed_luck import SeedLuck, Source, lenders, on_same_draws

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
    seeds: Source  # where the luck of the seeds is from, that intervals and p values hold
    seed_sd: float | None  # of the difference, by the seeds of the jobs at hand
    masses_to_show: int | None  # with which a true difference of WORTH_SHOWING is shown, power 0.8, these seeds
    masses_to_show_many_seeds: int | None  # at most: the same with so many seeds that their luck is gone


def differences(pairs: Sequence[tuple[Scores, Scores]], truth: Truth, luck: SeedLuck | None = None) -> list[Difference]:
    """First minus second arm of each pair, on the jobs both have done; p values with and without Holm's correction.

    Args:
        pairs: of arms.
        truth: of the masses.
        luck: of the seeds; measured on these arms by default.
    """
    if luck is None:
        arms = {arm.name: arm for pair in pairs for arm in pair}
        luck = SeedLuck.of(list(arms.values()), truth)
    found = [_difference(arm, against, truth, luck) for arm, against in pairs]
    for row, by_bootstrap, by_delong in zip(
        found, holm([row["p"] for row in found]), holm([row["delong_p"] for row in found]), strict=True
    ):
        row["p_holm"], row["delong_p_holm"] = by_bootstrap, by_delong
    return found


def _difference(arm: Scores, against: Scores, truth: Truth, luck: SeedLuck) -> Difference:
    """One line, without Holm's correction."""
    both = jobs_done(arm, truth) & jobs_done(against, truth)
    seeds = luck.of_difference(arm, against)

    def minus(n_resamples: int, seed_variance: float = seeds.seed) -> Float[np.ndarray, "resample"]:
        return resampled(arm, truth, against=against, jobs=both, n_resamples=n_resamples, seed_variance=seed_variance)

    figures = minus(N_RESAMPLES)
    known = _known(figures)
    p = _two_sided(known)
    if p is not None and p <= 2 / len(known):  # more, or the correction for many arms hides it
        p = _two_sided(_known(minus(N_WHERE_SMALL)))
    repeats = both.sum(axis=1)
    share = shares_of_seeds(repeats[repeats > 0].tolist()) if both.any() else 0.0
    delong_se, delong_p = _delong(arm, against, truth, both, seeds.seed)
    seed_sd = (seeds.seed * share) ** 0.5
    known_luck = seeds.source != "none"
    of_patients = _known(minus(N_RESAMPLES, 0.0))
    se = float(of_patients.std(ddof=1)) if len(of_patients) > 1 else 0.0

    def masses(fixed: float) -> int | None:
        return required_sample_size(WORTH_SHOWING, se, len(truth.targets), fixed=fixed) if se > 0 else None

    return {
        "arm": arm.name,
        "against": against.name,
        "jobs": int(both.sum()),
        "auc": percentiles(figures),
        "p": p,
        "p_holm": None,
        "delong_se": delong_se,
        "delong_p": delong_p,
        "delong_p_holm": None,
        "of_mean_score": percentiles(resampled_mean_score(arm, truth) - resampled_mean_score(against, truth)),
        "seeds": seeds.source,
        "seed_sd": seed_sd if known_luck else None,
        "masses_to_show": masses(seed_sd) if known_luck else None,
        "masses_to_show_many_seeds": masses(0.0),
    }


def _known(minus: Float[np.ndarray, "resample"]) -> Float[np.ndarray, "known"]:
    """The resamples in which there is a difference."""
    return np.asarray(minus[1:][~np.isnan(minus[1:])])


def _two_sided(known: Float[np.ndarray, "known"]) -> float | None:
    """Twice the fraction of resamples on the other side of 0, at least as if one were."""
    if len(known) == 0:
        return None
    tail = min((known <= 0).mean(), (known >= 0).mean())
    return float(min(1.0, 2 * max(tail, 1 / (len(known) + 1))))


def _delong(
    arm: Scores, against: Scores, truth: Truth, both: Bool[np.ndarray, "fold repeat"], seed_variance: float
) -> tuple[float | None, float | None]:
    """Standard error and p of the folds whose repeats are all done by both; the more repeats, the better.

    DeLong's variance is the patients'; the seeds' is added.
    """
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
    if result["se"] is None:
        return None, None
    se = float((result["se"] ** 2 + seed_variance * shares_of_seeds([len(repeats)] * len(folds))) ** 0.5)
    return se, float(2 * norm.sf(abs(result["difference"]) / se))


def once(arms: Sequence[Scores]) -> list[Scores]:
    """Arms without those that have the same scores as one before: the same runs under another name."""
    kept: list[Scores] = []
    for arm in arms:
        if not any(np.array_equal(arm.values, other.values, equal_nan=True) for other in kept):
            kept.append(arm)
    return kept


def pairs_of(arms: Sequence[Scores], record: Mapping[str, Any]) -> list[tuple[Scores, Scores]]:
    """Each arm with the one it is to beat, of those that saw as many masses.

    That is plain cross-entropy; where there is none, plain cross-entropy of other epochs; else the first arm. The same
    runs under two names (Fig. 3's `lambda0` and `n+0n-0`) are compared, and counted in Holm's correction, once.
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
    for arm in once(arms):
        seen = tuple(str(described[arm.name].get(k)) for k in ("n_train", "as_many_images", "holdout", "sources"))
        same_masses.setdefault(seen, []).append(arm)
    pairs = []
    for group in same_masses.values():
        against = min(group, key=unlike_plain)
        pairs += [(arm, against) for arm in group if arm is not against]
    return pairs


def compare_arms(
    folders: Sequence[Path],
    mass_set: MassSet,
    seed_sd: float | None = None,
    *,
    tested_on: str | None = None,
    margin: float | None = None,
) -> list[Difference]:
    """Compare arms, of one study or of several on the same masses and folds, with the first of them.

    Args:
        folders: of the arms.
        mass_set: the studies' data.
        seed_sd: standard deviation of a training's AUC by its seed, where no arm of the studies has repeats.
        tested_on: name of a source whose masses alone count; None: all masses.
        margin: padding factor of the masses, one of those the arms were scored with; None: that of the study.

    Raises:
        DataError: fewer than two, an arm without rows, studies with other masses or folds, or no such source.
    """
    if len(folders) < 2:
        raise DataError(f"`compare` must be given two arms or more, got {len(folders)}")
    records = {folder.parent: read_json(folder.parent / RECORD) for folder in folders}
    first, *_ = records.values()
    for key in ("data", "folds"):
        if any(record[key] != first[key] for record in records.values()):
            raise DataError(f"the arms must have the same {key}, got studies with others")
    if first["data"] != identity(mass_set):
        raise DataError("`--data` must be the studies' data, got other masses")
    here = np.ones(len(mass_set.masses), bool)
    if tested_on is not None:
        if tested_on not in mass_set.sources:
            known = ", ".join(mass_set.sources) or "several sources"
            raise DataError(f"`--tested-on` must be one of {known}, got {tested_on!r}")
        here = np.array([mass.source == tested_on for mass in mass_set.masses])
    truth, here = restricted_to(truth_of(mass_set, first["folds"]), here)
    part = "test" if margin is None else margin_part("test", margin)
    repeats = max(record["repeats"] for record in records.values())
    arms_of = {
        out: {name: read_scores(out / name, len(here), repeats, part).of(here) for name in record["arms"]}
        for out, record in records.items()
    }
    arms = []
    for folder in folders:
        arm = arms_of[folder.parent].get(folder.name)
        if arm is None or not len(arm.seconds):
            raise DataError(f"`{folder.name}` must have rows of finished runs, got none")
        if margin is not None and np.isnan(arm.values).all():
            raise DataError(f"`{folder.name}` must have been scored with boxes x {margin:g}, got no such rows")
        arms.append(arm)
    lending = [arm for out, record in records.items() for arm in lenders([*arms_of[out].values()], record)]
    same_draws = [group for out, record in records.items() for group in on_same_draws([*arms_of[out].values()], record)]
    luck = SeedLuck.of(arms, truth, lenders=lending, given=seed_sd, same_draws=same_draws)
    return differences([(arm, arms[0]) for arm in once(arms[1:])], truth, luck)
