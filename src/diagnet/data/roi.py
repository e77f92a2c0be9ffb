"""Regions of interest: the padded box around a mass, cut out and resized; flips (Sec. 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float32
from pydantic import BaseModel, Field

from diagnet.arrays import Image, Images
from diagnet.data.box import Box
from diagnet.data.grey_range import GreyRange, find_foreign, scaled_over_region
from diagnet.data.mass import Mass
from diagnet.data.region_facts import PictureFacts, RegionFacts, region_facts
from diagnet.errors import DataError


class RoiSettings(BaseModel, frozen=True, extra="forbid"):
    """How a region is cut from a mammogram around a marked mass, and scaled to grey values in [0, 1]."""

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
        return scaled_over_region(self.resized, resized(foreign.astype(np.float32), self.part, len(self.resized)) > 0)


def _cut(image: Image, mass: Mass, settings: RoiSettings) -> _Cut:
    height, width = image.shape
    if mass.box is None:
        place = Box.whole(width, height)
    else:
        place = padded_box(Box(*mass.box), width, height, settings, mass.original_size)
    pixels, part = cut_out(image, place)
    return _Cut(pixels, part, resized(pixels, part, settings.size))


def cut_out(image: Image, place: Box) -> tuple[Float32[np.ndarray, "rows columns"], Box]:
    """Return a copy of the pixels that a place in an image touches, and the place among them."""
    x0, y0, x1, y1 = place
    left, top = int(x0), int(y0)
    # Only the region's own pixels are handed to Pillow, which would otherwise copy a 40 MB mammogram per mass.
    pixels = np.ascontiguousarray(image[top : int(np.ceil(y1)), left : int(np.ceil(x1))])
    return pixels, Box(x0 - left, y0 - top, min(x1 - left, pixels.shape[1]), min(y1 - top, pixels.shape[0]))


def resized(pixels: Image, part: Box, size: int) -> Float32[np.ndarray, "size size"]:
    """Resize a part of an image, not rounded to pixels, by the triangle filter."""
    found = PIL.Image.fromarray(pixels).resize((size, size), PIL.Image.Resampling.BILINEAR, box=part)
    return np.asarray(np.clip(np.asarray(found, dtype=np.float32), 0, 1), dtype=np.float32)


def flipped(images: Images, horizontal: bool = False, vertical: bool = False) -> Images:
    """Return mirrored copies of images: left to right, top to bottom, or both (Sec. 4.1)."""
    return np.ascontiguousarray(images[:, :: -1 if vertical else 1, :: -1 if horizontal else 1])
