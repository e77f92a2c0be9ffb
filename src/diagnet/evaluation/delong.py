"""Is one score better than another on the same masses? Paired differences of AUC, by patient."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

Components = tuple[Float[np.ndarray, "target"], Float[np.ndarray, "other"]]


class DeLong(TypedDict):
    """A difference of two AUCs, its standard error, and the two-sided p; None where nothing can be said."""

    difference: float
    se: float | None
    p: float | None


def auc_components(scores: Float[np.ndarray, "point"], targets: Bool[np.ndarray, "point"]) -> Components:
    """Structural components of the AUC: for each target the fraction of others it outranks, and the other way round.

    Either part's mean is the AUC; ties count a half.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988.
    """
    own, rest = scores[targets], scores[~targets]
    low, high = np.sort(rest), np.sort(own)
    below = (np.searchsorted(low, own, "left") + np.searchsorted(low, own, "right")) / 2
    above = len(own) - (np.searchsorted(high, rest, "left") + np.searchsorted(high, rest, "right")) / 2
    return below / len(rest), above / len(own)


def delong(
    first: Float[np.ndarray, "repeat point"],
    second: Float[np.ndarray, "repeat point"],
    targets: Bool[np.ndarray, "point"],
    patients: Int[np.ndarray, "point"],
    folds: Int[np.ndarray, "point"],
) -> DeLong:
    """Compare the mean AUC over folds and repeats of two scores of the same points, without resampling.

    Points of one patient are one cluster. Scores are compared within a fold only, as each fold has a network of its
    own. Repeats are averaged: their spread is not in the standard error, so read it beside a bootstrap over repeats.
    Where a class has a single patient in a fold, its spread is unknown, and so is the standard error.

    Args:
        first: a row for each repeat.
        second: the same points and repeats.
        targets: which points are targets.
        patients: of each point.
        folds: of each point; each patient is in one.

    Returns:
        First minus second.

    Source: DeLong et al., Biometrics 1988; for clusters Obuchowski, Biometrics 1997.
    """
    differences, variances = [], []
    for fold in np.unique(folds):
        here = folds == fold
        own = targets[here]
        if own.all() or not own.any():
            continue
        parts = [
            [
                np.subtract(*each)
                for each in zip(auc_components(a[here], own), auc_components(b[here], own), strict=True)
            ]
            for a, b in zip(first, second, strict=True)
        ]
        of_targets, of_others = (np.mean([part[side] for part in parts], axis=0) for side in (0, 1))
        difference = float(of_targets.mean())
        differences.append(difference)
        variances.append(_variance(of_targets - difference, of_others - difference, own, patients[here]))
    n = len(differences)
    if n == 0:
        raise ValueError("`targets` must have both kinds in a fold, got none")
    value = float(np.mean(differences))
    variance = sum(variances)
    if not variance > 0:  # or NaN: one fold's is not known
        return {"difference": value, "se": None, "p": None}
    se = float(np.sqrt(variance)) / n
    return {"difference": value, "se": se, "p": float(2 * norm.sf(abs(value) / se))}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values of several comparisons so that the chance of any false one stays what it was for one.

    Source: Holm, Scandinavian Journal of Statistics 1979. None stays None and does not count.
    """
    known = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, k) in enumerate(known):
        so_far = max(so_far, min(1.0, (len(known) - rank) * p))
        adjusted[k] = so_far
    return adjusted


def required_sample_size(
    difference: float, se: float, n_points: int, *, fixed: float = 0.0, power: float = 0.8, level: float = 0.05
) -> int | None:
    """Points (of as many patients each) at which a true difference would be shown with that power, two-sided.

    Args:
        difference: the true one.
        se: standard error measured with `n_points`; it falls with the root of their number.
        n_points: see `se`.
        fixed: standard error that more points do not lower, such as the luck of the trainings at hand.
        power: chance of showing it.
        level: of the test.

    Returns:
        None where `fixed` alone hides the difference, whatever the number of points.
    """
    needed = abs(difference) / (norm.ppf(1 - level / 2) + norm.ppf(power))
    if fixed >= needed:
        return None
    return int(np.ceil(n_points * se**2 / (needed**2 - fixed**2)))


def _variance(
    of_targets: Float[np.ndarray, "target"],
    of_others: Float[np.ndarray, "other"],
    targets: Bool[np.ndarray, "point"],
    patients: Int[np.ndarray, "point"],
) -> float:
    """Variance of a mean component, clusters summed first; NaN where a class has a single patient."""
    columns = np.unique(patients, return_inverse=True)[1]
    n = columns.max() + 1
    sums = [np.bincount(columns[side], each, n) for side, each in ((targets, of_targets), (~targets, of_others))]
    clusters = [len(np.unique(columns[side])) for side in (targets, ~targets)]
    if min(clusters) < 2:
        return float("nan")
    sizes = len(of_targets), len(of_others)
    spread = sum(k / (k - 1) * (each @ each) / size**2 for each, k, size in zip(sums, clusters, sizes, strict=True))
    together = 2 * n / (n - 1) * (sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    return float(spread + together)
