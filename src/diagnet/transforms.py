"""Random flips, rotations and zooms of a batch: geometric augmentation while training (Sec. 4.1)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn import functional

Flips = Literal["random", "stored", "none"]


@dataclass(frozen=True, slots=True)
class Transforms:
    """What happens to each image of a batch; None: nothing.

    Attributes:
        matrices: rotation and zoom, from where each pixel is taken, in units of half the image.
        flips: across and down.
    """

    matrices: Float32[np.ndarray, "image 2 3"] | None
    flips: Bool[np.ndarray, "image 2"] | None

    def of(self, images: slice) -> "Transforms":
        """Those of some of the images."""
        matrices, flips = (part if part is None else part[images] for part in (self.matrices, self.flips))
        return Transforms(matrices, flips)

    def __call__(self, images: Float32[Tensor, "b 1 h w"]) -> Float32[Tensor, "b 1 h w"]:
        """Transform images in [0, 1]; what comes from outside an image is its reflection."""
        if self.matrices is not None:
            theta = torch.from_numpy(self.matrices).to(images.device)
            grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
            images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if self.flips is not None:
            across, down = torch.from_numpy(self.flips.T.copy()).to(images.device)[..., None, None, None]
            images = torch.where(across, images.flip(3), images)
            images = torch.where(down, images.flip(2), images)
        return images


def draw_transforms(
    n_images: int, *, flips: Flips, rotation: float, zoom: float, rng: np.random.Generator
) -> Transforms:
    """Draw what happens to each image of a batch.

    Args:
        n_images: in the batch.
        flips: "random" flips each image across and down with even odds; the others leave it.
        rotation: largest angle, degrees.
        zoom: largest change of scale, as a share.
        rng: of every draw.
    """
    matrices, flipped = None, None
    if rotation > 0 or zoom > 0:
        angle = np.deg2rad(rng.uniform(-rotation, rotation, n_images))
        scale = 1 + rng.uniform(-zoom, zoom, n_images)
        none = np.zeros(n_images)
        rows = np.array([[np.cos(angle), -np.sin(angle), none], [np.sin(angle), np.cos(angle), none]])
        matrices = (rows / scale).transpose(2, 0, 1).astype(np.float32)
    if flips == "random":
        flipped = rng.integers(0, 2, (2, n_images)).astype(bool).T
    return Transforms(matrices, flipped)
