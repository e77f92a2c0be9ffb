"""Which parts of a region a score depends on: what the model says when they are greyed out."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from diagnet.arrays import Image, Images
from diagnet.network import Network

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


def randomized(
    network: Network, images: Images, *, layers: Sequence[str] | None = None, rng: np.random.Generator
) -> Network:
    """Return a copy of a network that has forgotten what it learned: for the sanity check of a saliency method.

    Args:
        network: trained.
        images: which it sees once, so that its batch norms fit the fresh weights; without, all scores could be alike.
        layers: names of the layers that get fresh weights, and all below them; None: all.
        rng: of the fresh weights.

    Source: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
    """
    found = copy.deepcopy(network)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(rng.integers(2**31)))
        for name, module in found.named_modules():
            is_chosen = layers is None or any(name == layer or name.startswith(f"{layer}.") for layer in layers)
            if is_chosen and isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of these images alone
            module.reset_running_stats()
            module.train()
    with torch.no_grad():
        found.embed(torch.from_numpy(np.array(images, dtype=np.float32))[:, None])
    found.eval()
    return found
