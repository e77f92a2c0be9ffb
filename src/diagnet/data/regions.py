"""Regions of many masses, what they look like, and what lies around them; each image is read once."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from diagnet.arrays import Image
from diagnet.data.image import read_picture
from diagnet.data.mammogram import Mammogram
from diagnet.data.mass import Mass, MassSet
from diagnet.data.region_facts import RegionFacts, picture_facts
from diagnet.data.roi import RoiSettings, cut_and_measured, cut_roi
from diagnet.data.surroundings import Wide, cut_wide, no_wide
from diagnet.errors import DataError, RefusedInputError
from diagnet.progress import Progress, silent, tracked

ONE_GREY = "region has one grey value"  # why a mass is left out


@dataclass(frozen=True, slots=True)
class Regions:
    """Masses with their regions.

    Attributes:
        mass_set: the masses.
        images: their regions.
        facts: their `RegionFacts`.
        wide: what lies around them; None where it was not asked for.
    """

    mass_set: MassSet
    images: Float32[np.ndarray, "mass size size"]
    facts: Float64[np.ndarray, "mass fact"]
    wide: Wide | None


def read_rois(
    masses: Sequence[Mass],
    settings: RoiSettings,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    out: Float32[np.ndarray, "mass size size"] | None = None,
    facts: Float64[np.ndarray, "mass fact"] | None = None,
    wide: Wide | None = None,
) -> Float32[np.ndarray, "mass size size"]:
    """Read the regions of all masses, each image file once; the same for any number of workers.

    Args:
        masses: masses of any images, in any order.
        settings: how to cut.
        workers: threads, by default one per core.
        progress: called after each image.
        out: where to write the regions, a new array by default.
        facts: where to write the `RegionFacts` of each; not measured by default.
        wide: where to write what lies around each, from `no_wide`; not cut by default.

    Raises:
        DataError: an image cannot be read, or a box lies outside its image.
        RefusedInputError: an image must not be used.
        MissingExtraError: a DICOM compression needs the extra `dicom`.
    """
    rois = np.empty((len(masses), settings.size, settings.size), dtype=np.float32) if out is None else out
    for index, roi in rois_in_turn(masses, settings, workers=workers, progress=progress, facts=facts, wide=wide):
        if isinstance(roi, DataError | RefusedInputError):
            raise roi
        rois[index] = roi
    return rois


def read_regions(
    mass_set: MassSet,
    settings: RoiSettings,
    *,
    surroundings: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> Regions:
    """Read the regions of all masses and their `RegionFacts`; those of one grey value are left out and counted.

    Args:
        mass_set: the masses.
        settings: how to cut.
        surroundings: read what lies around them, too.
        workers: threads, by default one per core.
        progress: called after each image.

    Raises:
        DataError: see `read_rois`; or every region has one grey value.
        RefusedInputError: see `read_rois`.
        MissingExtraError: see `read_rois`.
    """
    n_masses = len(mass_set.masses)
    facts = np.empty((n_masses, len(RegionFacts._fields)))
    wide = no_wide(n_masses, settings) if surroundings else None
    rois = read_rois(mass_set.masses, settings, workers=workers, progress=progress, facts=facts, wide=wide)
    is_kept = np.ptp(rois, axis=(1, 2)) > 0
    if is_kept.all():
        return Regions(mass_set, rois, facts, wide)
    if not is_kept.any():
        raise DataError(f"`masses` must hold a mass that can be seen, got {len(rois)} regions of one grey value each.")
    masses = [mass for mass, keep in zip(mass_set.masses, is_kept, strict=True) if keep]
    left_out = dict(mass_set.left_out) | {ONE_GREY: mass_set.left_out.get(ONE_GREY, 0) + int((~is_kept).sum())}
    kept = replace(mass_set, masses=masses, left_out=left_out)
    return Regions(kept, rois[is_kept], facts[is_kept], wide and (wide[0][is_kept], wide[1][is_kept]))


def rois_in_turn(
    masses: Sequence[Mass],
    settings: RoiSettings,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    facts: Float64[np.ndarray, "mass fact"] | None = None,
    wide: Wide | None = None,
) -> Iterator[tuple[int, Image | DataError | RefusedInputError]]:
    """Yield the index of each mass with its region, or with the reason why its image cannot be read.

    See `read_rois`, which stops at the first such reason. Masses come image by image.
    """

    def cut(indices: list[int]) -> list[Image] | DataError | RefusedInputError:
        source = masses[indices[0]].image
        try:
            picture = Mammogram(source) if isinstance(source, np.ndarray) else read_picture(source)
        except (DataError, RefusedInputError) as error:
            return error
        around = None if facts is None else picture_facts(picture.pixels)
        found = []
        for index in indices:
            mass = replace(masses[index], spacing_mm=masses[index].spacing_mm or picture.spacing_mm)
            if facts is None or around is None:
                region = cut_roi(picture.pixels, mass, settings)
            else:
                region, facts[index] = cut_and_measured(picture.pixels, mass, settings, around)
            if wide is not None:
                wide[0][index], wide[1][index] = cut_wide(picture.pixels, mass, settings)
            found.append(region)
        return found

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        groups = _by_image(masses)
        for indices, found in zip(
            groups, tracked(pool.map(cut, groups), progress, "regions", len(groups)), strict=True
        ):
            for place, index in enumerate(indices):
                yield index, found[place] if isinstance(found, list) else found


def _by_image(masses: Sequence[Mass]) -> list[list[int]]:
    """Index of the masses of each image, image by image."""
    found: dict[object, list[int]] = {}
    for index, mass in enumerate(masses):
        found.setdefault(id(mass.image) if isinstance(mass.image, np.ndarray) else mass.image, []).append(index)
    return list(found.values())
