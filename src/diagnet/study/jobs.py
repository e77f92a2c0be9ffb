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
from diagnet.data.prepared import Prepared
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.data.sources import read_sources
from diagnet.data.splits import make_folds
from diagnet.data.surroundings import no_wide
from diagnet.errors import SettingsError
from diagnet.memory import keep_freed_memory
from diagnet.run.augmentation import to_draw_from
from diagnet.study.arms import Arm
from diagnet.study.methods import METHODS
from diagnet.study.network_fit import Cases
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
        parts: of each score: "test", "validation", or "test@" and the name of a perturbation or a margin ("x1.6");
            of further masses their name instead of "test".
        index: mass of each score, among the study's, or among the further ones.
        scores: log-odds of malignancy, not calibrated.
        seconds: the job took, reading the images not counted.
    """

    parts: Sequence[str]
    index: Int[np.ndarray, "score"]
    scores: Float[np.ndarray, "score"]
    seconds: float


def run_job(
    job: Job,
    data: tuple[Path, ...],
    base: Config,
    n_folds: int,
    *,
    tests: Sequence[tuple[str, Path]] = (),
    distinct_patients: bool = False,
) -> Rows:
    """Train an arm on all patients outside a fold and score the fold.

    Everything fitted is fitted on those patients. The result depends on the data, the settings, the fold and the
    repeat alone: one thread computes it, wherever it runs.

    Args:
        job: what to run.
        data: manifests or prepared folders, readable where this runs.
        base: the study's settings.
        n_folds: outer folds, the same for every repeat.
        tests: name and manifest of further masses, scored at the arm's margins.
        distinct_patients: patients of one name in two of `data` are two patients.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    config = job.arm.config(base)
    read = (data, config.classes, config.roi, distinct_patients)
    mass_set, images, around = _data(*read, surroundings=config.training.needs_surroundings)
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
        manifest = data[0].parent / job.arm.unlabelled
        seen = replace(seen, patches=read_patches(manifest, unseen, mass_set.patients, config, rng=rng))
    if job.arm.hide_labels:
        whole = parts(mass_set, replace(job, arm=replace(job.arm, n_train=None)), n_folds)[0]
        hidden = cases.part(np.setdiff1d(whole, own))
        nameless = tuple(replace(mass, label=None) for mass in hidden.masses)
        seen = replace(seen, unlabelled=replace(hidden, masses=nameless, labels=np.full_like(hidden.labels, -1)))
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
    for margin in job.arm.margins:
        roi = config.roi.model_copy(update={"padding_factor": margin})
        for name, paths in (("test", data), *((name, (path,)) for name, path in tests)):
            if (name, roi) == ("test", config.roi):  # scored already
                rows, scored = test, scores[: len(test)]
            else:
                others, cut, _ = _data(paths, config.classes, roi, distinct_patients)
                rows = test if name == "test" else np.arange(len(others.labels))
                there = Cases(cut, tuple(others.masses), others.labels, others.patient_numbers)
                scored = score(there.part(rows))
            scores, index = np.concatenate([scores, scored]), np.concatenate([index, rows])
            names += [margin_part(name, margin)] * len(rows)
    return Rows(names, index, scores, seconds)


def margin_part(name: str, margin: float) -> str:
    """Part of the rows with the scores of masses cut with a margin: of the test masses ("test"), or further ones."""
    return f"{name}@x{margin:g}"


def parts(
    mass_set: MassSet, job: Job, n_folds: int
) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "validation"], Int[np.ndarray, "test"]]:
    """Masses a job trains on, holds out (none without `holdout`) and is tested on; no patient is in two parts."""
    labels, patients, names = mass_set.labels, np.asarray(mass_set.patients), mass_set.image_names
    test = folds_of(mass_set, n_folds)[job.fold]
    own = np.setdiff1d(np.arange(len(labels)), test)
    if job.arm.sources is not None:
        own = own[np.isin([mass_set.masses[k].source for k in own], job.arm.sources)]
        if len(own) == 0:
            known = ", ".join(mass_set.sources) or "one source without a name"
            raise SettingsError(f"`sources` must name sources of the study, {known}, got {', '.join(job.arm.sources)}")
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


@lru_cache(maxsize=16)  # of a study of transfer: two grey ranges, four margins, two tables
def _data(
    paths: tuple[Path, ...],
    classes: tuple[str, ...],
    roi: RoiSettings,
    distinct_patients: bool,
    *,
    surroundings: bool = False,
) -> tuple[MassSet, Images, Surroundings | None]:
    """Masses, their regions, and what lies around them where it is asked for; read once in each process."""
    found = read_sources(paths, classes, roi, distinct_patients=distinct_patients)
    if isinstance(found, Prepared):
        if found.settings != roi:
            raise SettingsError(f"`roi` must be the prepared folder's, {found.settings}, got {roi}")
        mass_set, images, wide = found.mass_set, found.images, found.surroundings
    else:
        # None is left out, even one of a single grey value: rows name masses by their place in the table.
        mass_set, wide = found, no_wide(len(found.masses), roi) if surroundings else None
        images = read_rois(found.masses, roi, workers=os.cpu_count(), wide=wide)
    return mass_set, images, to_draw_from(wide, roi) if surroundings else None
