"""The grey values of a region: its own range, or the image's (reading 16)."""

from typing import Literal

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from diagnet.arrays import Image

GreyRange = Literal["region", "image"]

_FLAT = 0.01  # of the region's range: what differs by no more in 3 x 3 pixels is flat
_STEP = 0.2  # of the region's range: what lies around a label, marker or clip is darker by more
_EDGE, _AROUND = 2, 5  # pixels: how far the blurred edge of such a thing reaches, and where its surroundings end


def scaled_over_region(region: Image, is_foreign: Bool[np.ndarray, "height width"] | None = None) -> Image:
    """Scale grey values so that the region's darkest is 0 and its brightest 1 (reading 16).

    Any window, bit depth, gain or offset of the image then gives the same region.

    Args:
        region: grey values.
        is_foreign: pixels that do not set the range; what is brighter than all others becomes 1.

    Returns:
        Grey values in [0, 1]; all 0 where they are one and the same.
    """
    counted = region if is_foreign is None or is_foreign.all() else region[~is_foreign]
    low, high = float(counted.min()), float(counted.max())
    if not low < high:
        return np.zeros_like(region)
    return np.asarray(np.clip((region - np.float32(low)) / np.float32(high - low), 0, 1), dtype=np.float32)


def find_foreign(pixels: Image) -> Bool[np.ndarray, "height width"]:
    """Find labels, markers and clips in a region: bright, flat, and set off from what lies around them.

    The brightest flat part is looked at first. Where it is such a thing, the next one is looked at; tissue, which
    grows dark gradually, ends the search.
    """
    found = np.zeros(pixels.shape, dtype=bool)
    spread = float(np.ptp(pixels))
    if spread == 0 or min(pixels.shape) < 3:
        return found
    rise = ndimage.maximum_filter(pixels, 3) - ndimage.minimum_filter(pixels, 3)
    parts, n_parts = ndimage.label((rise <= _FLAT * spread) & (pixels > np.median(pixels)))
    if n_parts == 0:
        return found
    brightness = ndimage.maximum(pixels, parts, range(1, n_parts + 1))
    places = ndimage.find_objects(parts)
    for part in (1 + np.argsort(brightness)[::-1]).tolist():
        rows, columns = places[part - 1]
        place = (_wider(rows, pixels.shape[0]), _wider(columns, pixels.shape[1]))
        own = parts[place] == part
        edge = ndimage.binary_dilation(own, iterations=_EDGE)
        around = ndimage.binary_dilation(own, iterations=_AROUND) & ~edge & ~found[place]
        if not around.any() or float(np.median(pixels[place][around])) > brightness[part - 1] - _STEP * spread:
            break
        found[place] |= edge
    return found


def _wider(side: slice, limit: int) -> slice:
    return slice(max(side.start - _AROUND, 0), min(side.stop + _AROUND, limit))
