"""A prepared folder: masses.csv and their regions as one memory-mapped array, ready for training."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import ValidationError

from diagnet.atomic import atomic_folder
from diagnet.data.manifest import manifest_text, read_manifest, write_manifest
from diagnet.data.mass import MassSet
from diagnet.data.preprocessing import Preprocessing, stored_preprocessing
from diagnet.data.region_facts import RegionFacts
from diagnet.data.regions import ONE_GREY, rois_in_turn
from diagnet.data.regular_file import regular_bytes, regular_size
from diagnet.data.roi import RoiSettings
from diagnet.data.surroundings import no_wide
from diagnet.errors import DataError, RefusedInputError, RunFolderError
from diagnet.progress import Progress, silent
from diagnet.version import __version__

SCHEMA_VERSION = 1
TABLE, ARRAY, FACTS, ABOUT = "masses.csv", "rois.npy", "facts.npy", "prepared.json"
SURROUNDINGS, BOXES = "surroundings.npy", "boxes.npy"


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder holds.

    Attributes:
        images: region of each mass, in [0, 1], read from the disk as it is used.
        mass_set: the masses, whose image files need not exist any more.
        settings: how the regions were cut.
        sha256: of the array's file.
        facts: what each region looked like (`RegionFacts`), None in folders from before it was kept.
        surroundings: what lies around each region, read from the disk as it is used, and its box in it; None in folders
            from before they were kept.
    """

    images: Float32[np.ndarray, "mass size size"]
    mass_set: MassSet
    settings: RoiSettings
    sha256: str
    facts: Float64[np.ndarray, "mass fact"] | None = None
    surroundings: tuple[Float32[np.ndarray, "mass wide wide"], Float32[np.ndarray, "mass 4"]] | None = None


def write_prepared(
    mass_set: MassSet,
    out: Path,
    settings: RoiSettings,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Cut the regions of all masses and write them as a folder, whole or not at all.

    Masses whose image cannot be read, or is refused, or whose region has one grey value, are left out and counted.

    Args:
        mass_set: the masses, with images as files.
        out: the folder to make; it may exist if it is empty.
        settings: how to cut regions.
        workers: threads that read images, by default one per core.
        progress: called after each image.

    Raises:
        DataError: no image can be read, a box lies outside its image, or masses.csv cannot hold a text.
        MissingExtraError: a DICOM compression needs the extra `dicom`.
        RunFolderError: the folder is not empty, or cannot be written.
    """
    manifest_text(mass_set, out)  # says what it cannot hold before images are read
    n_masses = len(mass_set.masses)
    with atomic_folder(out) as folder:
        rois = np.empty((n_masses, settings.size, settings.size), dtype=np.float32)
        facts = np.empty((n_masses, len(RegionFacts._fields)))
        wide = no_wide(n_masses, settings)
        broken: dict[int, DataError | RefusedInputError] = {}
        flat: set[int] = set()
        turns = rois_in_turn(mass_set.masses, settings, workers=workers, progress=progress, facts=facts, wide=wide)
        for index, roi in turns:
            if isinstance(roi, DataError | RefusedInputError):
                broken[index] = roi
            elif np.ptp(roi) == 0:
                flat.add(index)
            else:
                rois[index] = roi
        kept = [index for index in range(n_masses) if index not in broken and index not in flat]
        if not kept:
            first = f" The first: {next(iter(broken.values()))}" if broken else ""
            raise DataError(f"`masses` must hold a mass whose image can be read, got none of {n_masses}.{first}")
        left_out = Counter(mass_set.left_out)
        left_out.update(
            "image was refused" if isinstance(error, RefusedInputError) else "image cannot be read"
            for error in broken.values()
        )
        left_out += Counter({ONE_GREY: len(flat)})
        kept_set = replace(mass_set, masses=[mass_set.masses[index] for index in kept], left_out=dict(left_out))
        parts: dict[str, np.ndarray] = {ARRAY: rois, FACTS: facts, SURROUNDINGS: wide[0], BOXES: wide[1]}
        arrays = {name: part[kept] for name, part in parts.items()}
        for name, array in arrays.items():
            with (folder / name).open("wb") as file:
                np.save(file, array, allow_pickle=False)
        write_manifest(folder / TABLE, kept_set)
        about = {
            "schema_version": SCHEMA_VERSION,
            "diagnet": __version__,
            "source": kept_set.source,
            "roi": settings.model_dump(),
            "preprocessing": Preprocessing(roi=settings).model_dump(),
            "classes": kept_set.classes,
            "counts": counts(kept_set),
            "left_out": kept_set.left_out,
            "notes": kept_set.notes,
            "facts": RegionFacts._fields,
            "sha256": {name: _sha256(folder / name) for name in (*arrays, TABLE)},
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return read_prepared(out)


_MAX_ABOUT = 16_000_000  # bytes


def is_prepared(path: Path) -> bool:
    """Tell whether a path is a prepared folder."""
    return (path / ABOUT).is_file()


def mass_set_of(data: MassSet | Prepared) -> MassSet:
    """The masses of what `read_data` returns."""
    return data.mass_set if isinstance(data, Prepared) else data


def read_data(path: Path, classes: tuple[str, ...]) -> MassSet | Prepared:
    """Read masses to train on or to score: a prepared folder or a manifest.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if is_prepared(path):
        return read_prepared(path)
    if path.is_dir():
        raise DataError(f"`DATA` must be a manifest or a prepared folder, got {path}. Fix: diagnet prepare --help")
    return read_manifest(path, classes=classes)


def read_prepared(path: Path) -> Prepared:
    """Open a prepared folder; the images that it was made from are not needed.

    Raises:
        DataError: the folder is not a prepared one, or something in it was cut short or edited.
    """
    if not is_prepared(path):
        raise DataError(f"`data` must be a folder that `diagnet prepare` wrote, got {path} without {ABOUT}.")
    try:
        about = json.loads(regular_bytes(path / ABOUT, "data", _MAX_ABOUT))
        version = about["schema_version"]
        if version != SCHEMA_VERSION:
            raise DataError(
                f"`schema_version` must be {SCHEMA_VERSION}, got {version} in {path / ABOUT}."
                " Fix: prepare the masses again with this version of diagnet."
            )
        RoiSettings.stored(about["roi"])  # one that lacks them was changed, whatever version wrote it
        settings = stored_preprocessing(about, path / ABOUT).roi
        for name, expected in about["sha256"].items():
            if not (path / name).is_file() or _sha256(path / name) != expected:
                raise _changed(path / name)
        mass_set = replace(
            read_manifest(path / TABLE, classes=tuple(about["classes"]), check_images=False),
            source=about["source"],
            left_out=about["left_out"],
            notes=about["notes"],
        )
        for name in (ARRAY, FACTS, SURROUNDINGS, BOXES):
            if (path / name).exists():
                regular_size(path / name, "data")
        images = np.load(path / ARRAY, mmap_mode="r", allow_pickle=False)
        sha256 = about["sha256"][ARRAY]
        is_known = about.get("facts") == list(RegionFacts._fields)
        facts = np.load(path / FACTS, allow_pickle=False) if is_known else None
        surroundings = None
        if SURROUNDINGS in about["sha256"]:
            around = np.load(path / SURROUNDINGS, mmap_mode="r", allow_pickle=False)
            surroundings = (around, np.load(path / BOXES, allow_pickle=False))
    except RunFolderError:
        raise DataError(
            f"`data` must be prepared by a version of diagnet that reads images as this one does, got another one's in"
            f" {path / ABOUT}. Fix: prepare the masses again."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        raise _changed(path / ABOUT) from error
    return Prepared(images, mass_set, settings, sha256, facts, surroundings)


def counts(mass_set: MassSet) -> dict[str, int]:
    """Count masses of each class, masses, images and patients."""
    per_class = Counter(mass.label for mass in mass_set.masses)
    return {
        **{name: per_class[name] for name in mass_set.classes},
        "masses": len(mass_set.masses),
        "images": len(set(mass_set.image_names)),
        "patients": len(set(mass_set.patients)),
    }


def describe(mass_set: MassSet) -> list[str]:
    """Say in lines for people what a source holds: counts, what was left out and why, what was noticed."""
    found = counts(mass_set)
    classes = ", ".join(f"{found[name]} {name}" for name in mass_set.classes)
    return [
        f"{found['masses']} masses ({classes}) in {found['images']} images of {found['patients']} patients",
        *(f"left out: {number} ({reason})" for reason, number in mass_set.left_out.items()),
        *(f"noticed: {number} ({observation})" for observation, number in mass_set.notes.items()),
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(path: Path) -> DataError:
    return DataError(
        f"`data` must be as `diagnet prepare` wrote it, got a missing or changed {path}. Fix: prepare the masses again."
    )
