"""Sources: several manifests and prepared folders as one data set, each mass with the name of where it came from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import Prepared, mass_set_of, read_data
from diagnet.data.regions import read_regions
from diagnet.data.roi import RoiSettings
from diagnet.errors import DataError
from diagnet.progress import Progress, silent


def read_sources(
    paths: Sequence[Path],
    classes: tuple[str, ...],
    settings: RoiSettings,
    *,
    distinct_patients: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> MassSet | Prepared:
    """Read manifests and prepared folders as one data set; one alone is as `read_data` reads it.

    Regions are in memory as soon as one of several sources is a prepared folder.

    Args:
        paths: one or more.
        classes: class names of the manifests.
        settings: how the run cuts regions; prepared folders beside a manifest must have been cut so.
        distinct_patients: see `merged`.
        workers: threads that read the images of manifests beside prepared folders.
        progress: called at each step.

    Raises:
        DataError: a source cannot be read, an image belongs to two patients, or sources do not go together.
    """
    if len(paths) == 1:
        alone = read_data(paths[0], classes)
        _check_each_once(mass_set_of(alone))
        return alone
    found = {name: read_data(path, classes) for name, path in zip(source_names(paths), paths, strict=True)}
    mass_set = merged({name: mass_set_of(data) for name, data in found.items()}, distinct_patients=distinct_patients)
    prepared = {name: data for name, data in found.items() if isinstance(data, Prepared)}
    if not prepared:
        return mass_set
    if len(prepared) == len(found):
        settings = next(iter(prepared.values())).settings
    for name, data in prepared.items():
        if data.settings != settings:
            raise DataError(
                f"`DATA` must be cut alike, got {settings} and, in {name}, {data.settings}."
                " Fix: give the manifests, or prepare all of them with the same settings."
            )
    parts = [
        data if isinstance(data, Prepared) else _cut(data, settings, workers=workers, progress=progress)
        for data in found.values()
    ]
    images = np.concatenate([part.images for part in parts])
    facts = [part.facts for part in parts if part.facts is not None]
    around = [part.surroundings for part in parts if part.surroundings is not None]
    return Prepared(
        images,
        mass_set,
        settings,
        hashlib.sha256(images.data).hexdigest(),
        facts=np.concatenate(facts) if len(facts) == len(parts) else None,
        surroundings=(np.concatenate([each[0] for each in around]), np.concatenate([each[1] for each in around]))
        if len(around) == len(parts)
        else None,
    )


def _cut(masses: MassSet, settings: RoiSettings, *, workers: int | None, progress: Progress) -> Prepared:
    """What a prepared folder of these masses would hold, in memory."""
    found = read_regions(masses, settings, surroundings=True, workers=workers, progress=progress)
    return Prepared(found.images, found.mass_set, settings, "", found.facts, found.wide)


def source_names(paths: Sequence[Path]) -> list[str]:
    """Name sources by their files, without the suffix; equal names get their folder's in front, then a number.

    No name is empty or holds a slash.
    """
    names = [_name(path) for path in paths]
    names = [
        f"{path.absolute().parent.name}-{name}" if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]
    unique: list[str] = []
    for name in names:
        found, number = name, 1
        while found in unique or (number > 1 and found in names):
            number += 1
            found = f"{name}-{number}"
        unique.append(found)
    return unique


def merged(sources: Mapping[str, MassSet], *, distinct_patients: bool = False) -> MassSet:
    """Make one set of several: the masses of the first, then of the second ...

    Reasons in `left_out` and observations in `notes` begin with the source's name.

    Args:
        sources: name -> masses.
        distinct_patients: patients of the same name in different sources are different patients, and may be in
            different parts of a split; else they are one.

    Raises:
        DataError: classes differ, a mass is in two sources, or an image belongs to two patients.
    """
    classes = next(iter(sources.values())).classes
    for name, each in sources.items():
        if each.classes != classes:
            raise DataError(
                f"`classes` must be the same in all sources, got {classes} in {next(iter(sources))} and {each.classes}"
                f" in {name}."
            )
    whole = MassSet(
        masses=[replace(mass, source=name) for name, each in sources.items() for mass in each.masses],
        classes=classes,
        source=", ".join(each.source for each in sources.values()),
        left_out=_prefixed({name: each.left_out for name, each in sources.items()}),
        notes=_prefixed({name: each.notes for name, each in sources.items()}),
        sources={name: each.source for name, each in sources.items()},
        distinct_patients=distinct_patients,
        unlabelled=[replace(mass, source=name) for name, each in sources.items() for mass in each.unlabelled],
    )
    _check_each_once(whole)
    return whole


def _name(path: Path) -> str:
    named = path if path.name not in ("", "..") else path.resolve()
    return (named.name if path.is_dir() else named.stem) or "data"


def _prefixed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {f"{name}: {what}": count for name, each in counts.items() for what, count in each.items()}


def _check_each_once(whole: MassSet) -> None:
    """Check that no mass is in two sources, and no image belongs to two patients, who might be in two parts.

    Masses without a label count as images, not as masses.
    """
    owner: dict[Path, str] = {}
    seen: dict[tuple[Path, object], str] = {}
    twice, shared = 0, set()
    every = replace(whole, masses=[*whole.masses, *whole.unlabelled])
    for mass, patient in zip(every.masses, every.patients, strict=True):
        if not isinstance(mass.image, Path):
            continue
        image = mass.image.resolve()  # another name of a file, such as `../a.png`, is the same file
        if mass.label is not None:
            twice += seen.setdefault(_key(image, mass), mass.source) != mass.source
        if owner.setdefault(image, patient) != patient:
            shared.add(image)
    if twice:
        raise DataError(
            f"`DATA` must hold each mass once, got {twice} with the image and box of another source's."
            " Fix: list each mass in one source."
        )
    if shared:
        raise DataError(
            f"`DATA` must give each image one patient, got {len(shared)} images of two."
            " Fix: list the masses of an image in one source, under one patient."
        )


def _key(image: Path, mass: Mass) -> tuple[Path, object]:
    return image, None if mass.box is None else tuple(mass.box)
