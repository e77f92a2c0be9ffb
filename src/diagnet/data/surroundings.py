"""What lies around masses: wider regions, from which training draws other regions of the same masses (reading 23)."""

import numpy as np
from jaxtyping import Float32

from diagnet.arrays import Image, Images
from diagnet.data.box import Box
from diagnet.data.grey_range import find_foreign
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_out, padded_box, resized

REACH = 2.5  # sides of the surroundings over sides of the box
TIMES = 2  # sides of the surroundings over those of a region, in pixels of both

# Wider regions of masses, and each mass's box in its own: (x0, y0, x1, y1) in fractions of its sides; NaN where a mass
# is all of its image.
Wide = tuple[Images, Float32[np.ndarray, "mass 4"]]


def no_wide(n_masses: int, settings: RoiSettings) -> Wide:
    """Make room for the wider regions of masses whose regions are cut so."""
    side = TIMES * settings.size
    return np.empty((n_masses, side, side), dtype=np.float32), np.full((n_masses, 4), np.nan, dtype=np.float32)


def cut_wide(
    image: Image, mass: Mass, settings: RoiSettings
) -> tuple[Float32[np.ndarray, "side side"], Float32[np.ndarray, "4"]]:
    """Cut what lies around a mass, and find its box in it.

    Grey values are those of the image. Labels, markers and clips are made as bright as the brightest tissue around
    them, so that they set no region's range.

    Args:
        image: the picture.
        mass: on it.
        settings: of the regions; what lies around has `TIMES` their size and reaches `REACH` times the box.
    """
    wide = settings.model_copy(update={"padding_factor": REACH, "size": TIMES * settings.size})
    height, width = image.shape
    around, fractions = Box.whole(width, height), np.full(4, np.nan, dtype=np.float32)
    if mass.box is not None:
        box = Box(*mass.box)
        around = padded_box(box, width, height, wide, mass.original_size)
        origin, sides = np.array([around.x0, around.y0] * 2), np.array([around.width, around.height] * 2)
        fractions = np.clip((np.array(box) - origin) / sides, 0, 1).astype(np.float32)
    pixels, part = cut_out(image, around)
    foreign = find_foreign(pixels)
    if foreign.any() and not foreign.all():
        pixels = np.where(foreign, pixels[~foreign].max(), pixels)
    return resized(pixels, part, wide.size), fractions
