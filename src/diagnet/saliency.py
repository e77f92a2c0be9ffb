"""Which parts of a region a score hangs on: what the model says when they are greyed out."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from diagnet.arrays import Image, Images

METHOD = (
    "occlusion: how much the log-odds of malignancy change when a patch of a quarter of the region's side is replaced"
    " by the region's mean grey, averaged over the patches that cover a point"
)
_PATCH = 4  # the patch's side is the region's over this
_STEP = 16  # so is the step
_MARGIN = 1e-6  # probabilities of 0 and 1 have no log-odds


def occlusion(
    malignancy: Callable[[Images], Float[np.ndarray, "image"]], region: Image
) -> Float[np.ndarray, "row column"]:
    """Change of the log-odds of malignancy for each point of a region: above 0 where it speaks for malignant.

    Args:
        malignancy: probability of each of some regions, in [0, 1].
        region: square, as the model takes it.

    Source: Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
    """
    size = len(region)
    patch, step = max(size // _PATCH, 1), max(size // _STEP, 1)
    starts = sorted({*range(0, size - patch + 1, step), size - patch})
    corners = [(top, left) for top in starts for left in starts]
    masked = np.repeat(region[None], len(corners) + 1, axis=0)
    for image, (top, left) in zip(masked[1:], corners, strict=True):
        image[top : top + patch, left : left + patch] = region.mean()
    chances = np.clip(malignancy(masked), _MARGIN, 1 - _MARGIN)
    log_odds = np.log(chances / (1 - chances))
    total, n_patches = np.zeros(region.shape), np.zeros(region.shape)
    for change, (top, left) in zip(log_odds[0] - log_odds[1:], corners, strict=True):
        total[top : top + patch, left : left + patch] += change
        n_patches[top : top + patch, left : left + patch] += 1
    return total / n_patches
