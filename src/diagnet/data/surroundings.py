"""What lies around masses: wider regions, from which training draws other regions of the same masses (reading 23)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32

from diagnet.arrays import Image, Images
from diagnet.data.box import Box
from diagnet.data.grey_range import find_foreign
from diagnet.data.image import read_image
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, by_image, cut_roi, padded_box
from diagnet.progress import Progress, silent, tracked

REACH = 2.5  # sides of the surroundings over sides of the box
TIMES = 2  # sides of the surroundings over those of a region, in pixels of both


def read_surroundings(
    masses: Sequence[Mass], settings: RoiSettings, *, workers: int | None = None, progress: Progress = silent
) -> tuple[Images, Float32[np.ndarray, "mass 4"]]:
    """Read what lies around all masses, each image file once.

    Grey values are those of the image. Labels, markers and clips are made as bright as the brightest tissue around
    them, so that they set no region's range.

    Args:
        masses: masses whose images can be read.
        settings: of the regions; the surroundings have `TIMES` their size and reach `REACH` times the box.
        workers: threads, by default one per core.
        progress: told after each image.

    Returns:
        The surroundings, and each mass's box in them: (x0, y0, x1, y1) in fractions of their sides; NaN where a mass
        is all of its image.
    """
    wide = settings.model_copy(update={"padding_factor": REACH, "size": TIMES * settings.size, "grey_range": "image"})
    images = np.empty((len(masses), wide.size, wide.size), dtype=np.float32)
    boxes = np.full((len(masses), 4), np.nan, dtype=np.float32)

    def cut(indices: list[int]) -> None:
        source = masses[indices[0]].image
        image = source if isinstance(source, np.ndarray) else read_image(source)
        for index in indices:
            images[index], boxes[index] = _cut(image, masses[index], wide)

    groups = by_image(masses)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in tracked(pool.map(cut, groups), progress, "surroundings", len(groups)):
            pass
    return images, boxes


def _cut(
    image: Image, mass: Mass, wide: RoiSettings
) -> tuple[Float32[np.ndarray, "side side"], Float32[np.ndarray, "4"]]:
    """One mass's surroundings, and its box in them."""
    height, width = image.shape
    around, fractions = Box.whole(width, height), np.full(4, np.nan, dtype=np.float32)
    if mass.box is not None:
        box = Box(*mass.box)
        around = padded_box(box, width, height, wide, mass.original_size)
        origin, sides = np.array([around.x0, around.y0] * 2), np.array([around.width, around.height] * 2)
        fractions = np.clip((np.array(box) - origin) / sides, 0, 1).astype(np.float32)
    left, top = int(around.x0), int(around.y0)
    pixels = image[top : int(np.ceil(around.y1)), left : int(np.ceil(around.x1))]
    foreign = find_foreign(pixels)
    if foreign.any() and not foreign.all():
        pixels = np.where(foreign, pixels[~foreign].max(), pixels)
    place = Box(around.x0 - left, around.y0 - top, around.x1 - left, around.y1 - top)
    whole = wide.model_copy(update={"padding_factor": 1.0, "square": False})  # the place is the region
    return cut_roi(np.ascontiguousarray(pixels), Mass(pixels, place, None, ""), whole), fractions
