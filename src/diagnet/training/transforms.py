"""Random flips, rotations and zooms of a batch: geometric augmentation while training (Sec. 4.1); noise by name."""

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
        noise: added last.
    """

    matrices: Float32[np.ndarray, "image 2 3"] | None
    flips: Bool[np.ndarray, "image 2"] | None
    noise: Float32[np.ndarray, "image h w"] | None = None

    def of(self, images: slice) -> "Transforms":
        """Those of some of the images."""
        parts = (self.matrices, self.flips, self.noise)
        return Transforms(*(part if part is None else part[images] for part in parts))

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
        if self.noise is not None:
            images = (images + torch.from_numpy(self.noise)[:, None].to(images.device)).clamp(0, 1)
        return images


def draw_transforms(
    shape: tuple[int, int, int],
    *,
    flips: Flips,
    rotation: float,
    zoom: float,
    noise: float = 0.0,
    rng: np.random.Generator,
) -> Transforms:
    """Draw what happens to each image of a batch.

    Args:
        shape: images in the batch, their height and width, pixels.
        flips: "random" flips each image across and down with even odds; the others leave it.
        rotation: largest angle, degrees.
        zoom: largest change of scale, as a share.
        noise: largest standard deviation of an image's noise, grey values being in [0, 1].
        rng: of every draw.
    """
    n_images = shape[0]
    matrices, flipped, added = None, None, None
    if rotation > 0 or zoom > 0:
        angle = np.deg2rad(rng.uniform(-rotation, rotation, n_images))
        scale = 1 + rng.uniform(-zoom, zoom, n_images)
        none = np.zeros(n_images)
        rows = np.array([[np.cos(angle), -np.sin(angle), none], [np.sin(angle), np.cos(angle), none]])
        matrices = (rows / scale).transpose(2, 0, 1).astype(np.float32)
    if flips == "random":
        flipped = rng.integers(0, 2, (2, n_images)).astype(bool).T
    if noise > 0:
        spread = rng.uniform(0, noise, n_images).astype(np.float32)[:, None, None]
        added = spread * rng.standard_normal(shape, dtype=np.float32)
    return Transforms(matrices, flipped, added)
