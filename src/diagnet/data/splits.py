"""Which masses train, validate and test: by patient, or by image as in the paper (Sec. 4.1, reading 18)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int64
from pydantic import BaseModel, Field

from diagnet.arrays import Labels
from diagnet.errors import DataError

N_ORDERS = 20  # random orders tried; the best balanced is kept
LACKING = 1e6  # cost of a class that a part has none of: more than an imbalance costs


class SplitSettings(BaseModel, frozen=True, extra="forbid"):
    """How masses are divided into training, validation and test masses."""

    method: Literal["patient", "image80_20"] = Field(
        "patient", description="`patient` keeps a patient in one part; `image80_20` is the paper's, and leaks."
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="Fraction of the masses for the test (not for folds).")
    validation_share: float = Field(
        0.15, gt=0, lt=1, description="Fraction of the training masses that chooses threshold and temperature."
    )


@dataclass(frozen=True)
class Split:
    """Indices of the masses of each part, ascending.

    Attributes:
        train: masses the network learns from.
        validation: masses that choose the threshold and the temperature.
        test: masses that are only scored.
    """

    train: Int64[np.ndarray, "train"]
    validation: Int64[np.ndarray, "validation"]
    test: Int64[np.ndarray, "test"]


def make_split(
    patients: Sequence[str],
    images: Sequence[str],
    labels: Labels,
    settings: SplitSettings = SplitSettings(),  # noqa: B008 -- frozen, so one instance serves all calls
    *,
    rng: np.random.Generator,
) -> Split:
    """Divide masses into train, validation and test, with about the same fraction of each class in all three.

    Args:
        patients: patient of each mass.
        images: image of each mass.
        labels: class index of each mass.
        settings: method and fractions.
        rng: decides the order in which patients (or images) are dealt out.

    Raises:
        DataError: one class only, or no way was found to give every part every class.
    """
    groups = _groups(patients, images, settings)
    shares = _train_and_validation(settings) * (1 - settings.test_share)
    parts = _dealt(groups, labels, np.append(shares, settings.test_share), settings, rng)
    return _split(parts == 0, parts == 1, parts == 2)


def make_folds(
    patients: Sequence[str],
    images: Sequence[str],
    labels: Labels,
    n_folds: int,
    settings: SplitSettings = SplitSettings(),  # noqa: B008 -- frozen, so one instance serves all calls
    *,
    rng: np.random.Generator,
) -> list[Split]:
    """Make `n_folds` splits whose test parts are disjoint and together hold every mass; see `make_split`.

    Raises:
        DataError: one class only, fewer patients (or images) than folds, or a part would lack a class.
    """
    if n_folds < 2:
        raise ValueError(f"`n_folds` must be at least 2, got {n_folds}.")
    groups = _groups(patients, images, settings)
    folds = _dealt(groups, labels, np.full(n_folds, 1 / n_folds), settings, rng)
    splits = []
    for fold in range(n_folds):
        rest = np.flatnonzero(folds != fold)
        parts = np.full(len(folds), -1)
        parts[rest] = _dealt(groups[rest], labels[rest], _train_and_validation(settings), settings, rng)
        splits.append(_split(parts == 0, parts == 1, folds == fold))
    return splits


def check_disjoint(split: Split, groups: Sequence[str], *, unit: str = "patient") -> None:
    """Check that no patient (or image) is in two parts of `split`.

    Args:
        split: the split to check.
        groups: patient of each mass; for `image80_20`, image of each mass.
        unit: what a group is called in the error.

    Raises:
        DataError: a group is on two sides; the message counts them and names none.
    """
    names = np.asarray(groups)
    parts = [set(names[part].tolist()) for part in (split.train, split.validation, split.test)]
    n_shared = sum(map(len, parts)) - len(set().union(*parts))
    if n_shared:
        raise DataError(
            f"`split` must keep each {unit} in one part, got {n_shared} on two sides."
            " Fix: make the split again, by patient."
        )


def _groups(patients: Sequence[str], images: Sequence[str], settings: SplitSettings) -> Int[np.ndarray, "mass"]:
    """Index of the group (patient or image) that each mass must stay with."""
    if settings.method == "image80_20":
        warnings.warn(
            "`split.method` = image80_20 leaks: the CC and MLO views of one lesion fall on both sides.",
            UserWarning,
            stacklevel=3,
        )
        names = images
    else:
        names = patients
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _train_and_validation(settings: SplitSettings) -> Float[np.ndarray, "2"]:
    return np.array([1 - settings.validation_share, settings.validation_share])


def _split(
    train: np.ndarray[tuple[int], np.dtype[np.bool_]],
    validation: np.ndarray[tuple[int], np.dtype[np.bool_]],
    test: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> Split:
    return Split(*(np.flatnonzero(part).astype(np.int64) for part in (train, validation, test)))


def _dealt(
    groups: Int[np.ndarray, "mass"],
    labels: Labels,
    shares: Float[np.ndarray, "part"],
    settings: SplitSettings,
    rng: np.random.Generator,
) -> Int[np.ndarray, "mass"]:
    """Deal whole groups out to parts so that each part gets its fraction of each class; return the part of each mass.

    Groups come in a random order, and each goes to the part that has least of the group's classes, measured by the
    part's fraction. The group's size plays no role in this, so that patients with many masses reach each part as often
    as others. The best balanced of `N_ORDERS` orders is kept.
    """
    unit = "patients" if settings.method == "patient" else "images"
    classes, columns = np.unique(labels, return_inverse=True)
    names, rows = np.unique(groups, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"`labels` must hold at least two classes, got {len(classes)} in {len(labels)} masses.")
    if len(names) < len(shares):
        raise DataError(
            f"`{unit}` must be at least as many as the parts of the split, got {len(names)} {unit} for"
            f" {len(shares)} parts. Fix: ask for fewer folds or give more masses."
        )
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (rows, columns), 1)
    counts /= counts.sum(axis=0)  # fraction of each class that a group brings

    best_cost, best = np.inf, np.zeros(len(names), dtype=np.int64)
    for _ in range(N_ORDERS):
        filled = np.zeros((len(shares), len(classes)))
        parts = np.zeros(len(names), dtype=np.int64)
        for group in rng.permutation(len(names)):
            parts[group] = np.argmin((filled / shares[:, None]) @ counts[group])
            filled[parts[group]] += counts[group]
        cost = ((filled - shares[:, None]) ** 2 / shares[:, None] + LACKING * (filled == 0)).sum()
        if cost < best_cost:
            best_cost, best = float(cost), parts
    if best_cost >= LACKING:
        n_rarest = (counts > 0).sum(axis=0).min()
        raise DataError(
            f"`split` must give every part every class, got {n_rarest} {unit} with the rarest class for"
            f" {len(shares)} parts. Fix: ask for fewer folds or give more masses."
        )
    return best[rows]
