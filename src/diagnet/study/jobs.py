"""One training of a study: an arm on a fold, and the scores of the masses it never saw."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from diagnet.arrays import Images
from diagnet.config import Config
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared, read_data
from diagnet.data.roi import RoiSettings, read_regions
from diagnet.data.splits import make_folds
from diagnet.errors import SettingsError
from diagnet.run.augmentation import surroundings_of
from diagnet.study.arms import Arm
from diagnet.study.methods import METHODS, Cases
from diagnet.study.perturbations import PERTURBATIONS
from diagnet.study.warm_start import read_patches
from diagnet.training.points import Surroundings

_INNER = 5  # inner folds; repeat r holds out the r-th


@dataclass(frozen=True, slots=True)
class Job:
    """An arm, the fold it is tested on, and the repeat, which is its seed."""

    arm: Arm
    fold: int
    repeat: int

    def path(self, out: Path) -> Path:
        """Its rows in a study's folder."""
        return out / self.arm.name / f"fold{self.fold}-repeat{self.repeat}.csv"


@dataclass(frozen=True, slots=True)
class Rows:
    """What a job leaves behind.

    Attributes:
        parts: of each score: "test", "validation", or "test@" and the name of a perturbation.
        index: mass of each score.
        scores: log-odds of malignancy, not calibrated.
        seconds: the job took, reading the images not counted.
    """

    parts: Sequence[str]
    index: Int[np.ndarray, "score"]
    scores: Float[np.ndarray, "score"]
    seconds: float


def run_job(job: Job, data: Path, base: Config, n_folds: int) -> Rows:
    """Train an arm on all patients outside a fold and score the fold.

    Everything fitted is fitted on those patients. The result depends on the data, the settings, the fold and the
    repeat alone: one thread computes it, wherever it runs.

    Args:
        job: what to run.
        data: a manifest or a prepared folder, readable where this runs.
        base: the study's settings.
        n_folds: outer folds, the same for every repeat.
    """
    torch.set_num_threads(1)
    config = job.arm.config(base)
    mass_set, images = _data(data, config.classes, config.roi)
    around = _surroundings(data, config.classes, config.roi) if config.training.needs_surroundings else None
    own, held_out, test = parts(mass_set, job, n_folds)
    if job.arm.as_many_images:
        n_all = len(mass_set.labels) - len(test) - len(held_out)
        epochs = round(config.training.epochs * n_all / len(own))
        config = config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})
    masses, patients = tuple(mass_set.masses), mass_set.patient_numbers
    cases = Cases(images, masses, mass_set.labels, patients, surroundings=around)
    began = time.perf_counter()
    seen = cases.part(own)
    if job.arm.unlabelled is not None:
        unseen = [mass_set.masses[k].patient_id for k in np.concatenate([test, held_out])]
        rng = np.random.default_rng([job.repeat, job.fold, 4])
        manifest = data.parent / job.arm.unlabelled
        seen = replace(seen, unlabelled=read_patches(manifest, unseen, mass_set.patients, config, rng=rng))
    score = METHODS[job.arm.method](seen, config, job.fold, job.repeat)
    index = np.concatenate([test, held_out])
    scores = score(cases.part(index))
    names = ["test"] * len(test) + ["validation"] * len(held_out)
    seconds = time.perf_counter() - began
    if job.arm.perturbed:
        tested, roi = cases.part(test), config.roi
        for number, (name, perturb) in enumerate(PERTURBATIONS.items()):
            looks = perturb(tested, roi, np.random.default_rng([job.repeat, job.fold, 2, number]))
            changed = [score(replace(tested, images=images)) for images in looks]
            scores, index = np.concatenate([scores, np.mean(changed, axis=0)]), np.concatenate([index, test])
            names += [f"test@{name}"] * len(test)
    return Rows(names, index, scores, seconds)


def parts(
    mass_set: MassSet, job: Job, n_folds: int
) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "validation"], Int[np.ndarray, "test"]]:
    """Masses a job trains on, holds out (none without `holdout`) and is tested on; no patient is in two parts."""
    labels, patients, names = mass_set.labels, np.asarray(mass_set.patients), mass_set.image_names
    test = folds_of(mass_set, n_folds)[job.fold]
    own = np.setdiff1d(np.arange(len(labels)), test)
    held_out = own[:0]
    if job.arm.holdout:
        inner = make_folds(
            patients[own].tolist(),
            [names[k] for k in own],
            labels[own],
            _INNER,
            rng=np.random.default_rng([job.fold, _INNER]),
        )
        held_out = own[inner[job.repeat % _INNER].test]
        own = np.setdiff1d(own, held_out)
    if job.arm.n_train is not None:
        own = _drawn(own, patients, job.arm.n_train, rng=np.random.default_rng([job.repeat, job.fold, 1]))
    return own, held_out, test


def folds_of(mass_set: MassSet, n_folds: int) -> list[Int[np.ndarray, "test"]]:
    """Masses of each outer fold: by patient, the same for every study of the same masses."""
    splits = make_folds(mass_set.patients, mass_set.image_names, mass_set.labels, n_folds, rng=np.random.default_rng(0))
    return [split.test for split in splits]


def _drawn(
    own: Int[np.ndarray, "mass"], patients: np.ndarray, n: int, *, rng: np.random.Generator
) -> Int[np.ndarray, "drawn"]:
    """At least `n` masses of whole patients in a random order: a larger draw holds the smaller ones."""
    names, rows = np.unique(patients[own], return_inverse=True)
    place = np.argsort(rng.permutation(len(names)))[rows]
    last = np.sort(place)[min(n, len(own)) - 1]
    return np.asarray(own[place <= last])


@lru_cache(maxsize=2)
def _data(path: Path, classes: tuple[str, ...], roi: RoiSettings) -> tuple[MassSet, Images]:
    """Masses and their regions, read once in each process."""
    found = read_data(path, classes)
    if isinstance(found, Prepared):
        if found.settings != roi:
            raise SettingsError(f"`roi` must be the prepared folder's, {found.settings}, got {roi}")
        return found.mass_set, found.images
    return read_regions(found, roi, workers=os.cpu_count())[:2]


@lru_cache(maxsize=1)
def _surroundings(path: Path, classes: tuple[str, ...], roi: RoiSettings) -> Surroundings | None:
    """What lies around the masses, read once in each process."""
    found = read_data(path, classes)
    kept = found if isinstance(found, Prepared) else _data(path, classes, roi)[0]
    return surroundings_of(kept, roi, workers=os.cpu_count())
