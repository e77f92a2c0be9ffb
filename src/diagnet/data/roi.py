"""Regions of interest: the padded box around a mass, cut out and resized; flips (Sec. 4.1)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float32, Float64
from pydantic import BaseModel, Field

from diagnet.arrays import Image, Images
from diagnet.data.box import Box
from diagnet.data.grey_range import GreyRange, find_foreign, scaled_over_region
from diagnet.data.image import read_picture
from diagnet.data.mammogram import Mammogram
from diagnet.data.mass import Mass, MassSet
from diagnet.data.region_facts import PictureFacts, RegionFacts, picture_facts, region_facts
from diagnet.errors import DataError, RefusedInputError
from diagnet.progress import Progress, silent, tracked

ONE_GREY = "region has one grey value"  # why a mass is left out


class RoiSettings(BaseModel, frozen=True, extra="forbid"):
    """How a region is cut."""

    padding_factor: float = Field(1.6, ge=1, le=10, description="Sides of the region over sides of the box.")
    size: int = Field(64, ge=8, le=1024, description="Height and width of the cut region, in pixels.")
    square: bool = Field(False, description="Cut a square around the longer side, which keeps proportions.")
    grey_range: GreyRange = Field(
        "region",
        description="Grey values go from 0 to 1 over the region (region) or over the breast (image).",
    )

    @classmethod
    def stored(cls, values: Any) -> "RoiSettings":
        """Read settings that were stored with a model or data: those without `grey_range` are from before it.

        Raises:
            ValidationError: they are no such settings.
        """
        return cls.model_validate({"grey_range": "image", **values} if isinstance(values, Mapping) else values)


def padded_box(
    box: Box, width: int, height: int, settings: RoiSettings, original_size: tuple[float, float] | None = None
) -> Box:
    """Grow a box about its center, move it inwards where it leaves the image, clip what is larger (reading 14).

    Args:
        box: in pixels of the image file.
        width: width of the image file in pixels.
        height: height of the image file in pixels.
        settings: padding factor and shape.
        original_size: (width, height) before somebody stretched the image; a square is then square in those pixels.

    Returns:
        The region in pixels of the image file, not rounded, inside the image.

    Raises:
        DataError: the box is empty or lies outside the image.

    Source: Sec. 4.1, "proportional padding (1.6 times)".
    """
    if not box.overlaps(width, height):
        raise DataError(
            f"`box` must be x0 < x1, y0 < y1 and overlap its image of {width} x {height} pixels, got {box}."
        )
    original_width, original_height = original_size or (width, height)
    per_x, per_y = original_width / width, original_height / height  # original pixels per pixel of the file
    side_x, side_y = box.width * per_x * settings.padding_factor, box.height * per_y * settings.padding_factor
    if settings.square:
        side_x = side_y = max(side_x, side_y)
    return box.resized(side_x / per_x, side_y / per_y, width, height)


def cut_roi(image: Image, mass: Mass, settings: RoiSettings) -> Float32[np.ndarray, "size size"]:
    """Cut the region around a mass out of its image and resize it to (size, size).

    The triangle filter grows with the reduction, so that fine texture does not alias, and its weights are never
    below 0, so that edges do not ring: grey values stay in [0, 1].

    Raises:
        DataError: the box is empty or lies outside the image.
    """
    return _cut(image, mass, settings).scaled(settings)


def cut_and_measured(
    image: Image,
    mass: Mass,
    settings: RoiSettings,
    picture: PictureFacts,
) -> tuple[Float32[np.ndarray, "size size"], RegionFacts]:
    """Cut the region as `cut_roi` does, and measure it before it is scaled to its own range.

    Args:
        image: the picture.
        mass: on it; its spacing is that of the image.
        settings: how to cut.
        picture: facts of the image.

    Raises:
        DataError: the box is empty or lies outside the image.
    """
    cut = _cut(image, mass, settings)
    height, width = image.shape
    facts = region_facts(cut.resized, cut.pixels, cut.part, (height, width), picture, mass.spacing_mm)
    return cut.scaled(settings), facts


@dataclass(frozen=True, slots=True)
class _Cut:
    """A region: its pixels in the file, the part of them that it is, and that part resized."""

    pixels: Image
    part: Box
    resized: Float32[np.ndarray, "size size"]

    def scaled(self, settings: RoiSettings) -> Float32[np.ndarray, "size size"]:
        if settings.grey_range == "image":
            return self.resized
        foreign = find_foreign(self.pixels)
        if not foreign.any():
            return scaled_over_region(self.resized)
        return scaled_over_region(self.resized, _resized(foreign.astype(np.float32), self.part, len(self.resized)) > 0)


def _cut(image: Image, mass: Mass, settings: RoiSettings) -> _Cut:
    height, width = image.shape
    if mass.box is None:
        place = Box.whole(width, height)
    else:
        place = padded_box(Box(*mass.box), width, height, settings, mass.original_size)
    x0, y0, x1, y1 = place
    left, top = int(x0), int(y0)
    # Only the region's own pixels are handed to Pillow, which would otherwise copy a 40 MB mammogram per mass.
    pixels = np.ascontiguousarray(image[top : int(np.ceil(y1)), left : int(np.ceil(x1))])
    part = Box(x0 - left, y0 - top, min(x1 - left, pixels.shape[1]), min(y1 - top, pixels.shape[0]))
    return _Cut(pixels, part, _resized(pixels, part, settings.size))


def read_rois(
    masses: Sequence[Mass],
    settings: RoiSettings,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    out: Float32[np.ndarray, "mass size size"] | None = None,
    facts: Float64[np.ndarray, "mass fact"] | None = None,
) -> Float32[np.ndarray, "mass size size"]:
    """Read the regions of all masses, each image file once; the same for any number of workers.

    Args:
        masses: masses of any images, in any order.
        settings: how to cut.
        workers: threads, by default one per core.
        progress: told after each image.
        out: where to write the regions, a new array by default.
        facts: where to write the `RegionFacts` of each; not measured by default.

    Raises:
        DataError: an image cannot be read, or a box lies outside its image.
        RefusedInputError: an image must not be used.
        MissingExtraError: a DICOM compression needs the extra `dicom`.
    """
    rois = np.empty((len(masses), settings.size, settings.size), dtype=np.float32) if out is None else out
    for index, roi in rois_in_turn(masses, settings, workers=workers, progress=progress, facts=facts):
        if isinstance(roi, DataError | RefusedInputError):
            raise roi
        rois[index] = roi
    return rois


def read_regions(
    mass_set: MassSet, settings: RoiSettings, *, workers: int | None = None, progress: Progress = silent
) -> tuple[MassSet, Float32[np.ndarray, "mass size size"], Float64[np.ndarray, "mass fact"]]:
    """Read the regions of all masses and their `RegionFacts`; those of one grey value are left out and counted.

    Raises:
        DataError: see `read_rois`; or every region has one grey value.
        RefusedInputError: see `read_rois`.
        MissingExtraError: see `read_rois`.
    """
    facts = np.empty((len(mass_set.masses), len(RegionFacts._fields)))
    rois = read_rois(mass_set.masses, settings, workers=workers, progress=progress, facts=facts)
    is_kept = np.ptp(rois, axis=(1, 2)) > 0
    if is_kept.all():
        return mass_set, rois, facts
    if not is_kept.any():
        raise DataError(f"`masses` must hold a mass that can be seen, got {len(rois)} regions of one grey value each.")
    masses = [mass for mass, keep in zip(mass_set.masses, is_kept, strict=True) if keep]
    left_out = dict(mass_set.left_out) | {ONE_GREY: mass_set.left_out.get(ONE_GREY, 0) + int((~is_kept).sum())}
    return replace(mass_set, masses=masses, left_out=left_out), rois[is_kept], facts[is_kept]


def rois_in_turn(
    masses: Sequence[Mass],
    settings: RoiSettings,
    *,
    workers: int | None = None,
    progress: Progress = silent,
    facts: Float64[np.ndarray, "mass fact"] | None = None,
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
        if facts is None:
            return [cut_roi(picture.pixels, masses[index], settings) for index in indices]
        around, found = picture_facts(picture.pixels), []
        for index in indices:
            spacing = masses[index].spacing_mm or picture.spacing_mm
            mass = replace(masses[index], spacing_mm=spacing)
            region, facts[index] = cut_and_measured(picture.pixels, mass, settings, around)
            found.append(region)
        return found

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        groups = by_image(masses)
        for indices, found in zip(
            groups, tracked(pool.map(cut, groups), progress, "regions", len(groups)), strict=True
        ):
            for place, index in enumerate(indices):
                yield index, found[place] if isinstance(found, list) else found


def by_image(masses: Sequence[Mass]) -> list[list[int]]:
    """Index of the masses of each image, image by image."""
    found: dict[object, list[int]] = {}
    for index, mass in enumerate(masses):
        found.setdefault(id(mass.image) if isinstance(mass.image, np.ndarray) else mass.image, []).append(index)
    return list(found.values())


def _resized(pixels: Image, part: Box, size: int) -> Float32[np.ndarray, "size size"]:
    """Resize a part of an image, not rounded to pixels, by the triangle filter."""
    resized = PIL.Image.fromarray(pixels).resize((size, size), PIL.Image.Resampling.BILINEAR, box=part)
    return np.asarray(np.clip(np.asarray(resized, dtype=np.float32), 0, 1), dtype=np.float32)


def flipped(images: Images, horizontal: bool = False, vertical: bool = False) -> Images:
    """Return mirrored copies of images: left to right, top to bottom, or both (Sec. 4.1)."""
    return np.ascontiguousarray(images[:, :: -1 if vertical else 1, :: -1 if horizontal else 1])
