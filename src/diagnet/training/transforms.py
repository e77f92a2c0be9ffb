"""What is drawn anew each time an image is trained on: its region, place, flips, grey values (Sec. 4.1, reading 23)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int
from pydantic import BaseModel, Field, model_validator
from torch import Tensor
from torch.nn import functional

from diagnet.training.points import Points

Flips = Literal["random", "stored", "none"]


class DrawSettings(BaseModel, frozen=True, extra="forbid"):
    """What is drawn for each image, each time it is trained on."""

    flips: Flips = Field(
        "random", description="flips drawn for each batch, or all four stored before augmentation (reading 13)"
    )
    rotation: float = Field(20.0, ge=0, le=180, description="largest random rotation, degrees")
    zoom: float = Field(0.15, ge=0, lt=1, description="largest random change of scale")
    padding: tuple[float, float] = Field(
        (1.6, 1.6),
        description="least and largest padding factor drawn, from what lies around the box; equal: roi.padding_factor",
    )
    shift: float = Field(0.0, ge=0, le=0.5, description="largest shift of the box, in fractions of its sides")
    gamma: float = Field(
        0.0, ge=0, le=2, description="largest change of the grey values' exponent either way, as a logarithm"
    )
    contrast: float = Field(0.0, ge=0, le=2, description="largest change of contrast either way, as a logarithm")
    sharpness: float = Field(0.0, ge=0, le=2, description="largest fraction of fine detail that is added or taken away")
    noise: float = Field(0.0, ge=0, le=1, description="largest standard deviation of random noise, of the grey scale")

    @model_validator(mode="after")
    def _ordered(self) -> "DrawSettings":
        if not 1 <= self.padding[0] <= self.padding[1] <= 10:
            raise ValueError("`padding` must be two factors from 1 to 10, the smaller one first")
        return self

    @property
    def needs_surroundings(self) -> bool:
        """Whether regions are drawn, from what lies around them."""
        return self.padding[0] < self.padding[1] or self.shift > 0


@dataclass(frozen=True, slots=True)
class Transforms:
    """What happens to each image of a batch; None: nothing.

    Attributes:
        matrices: region, rotation and zoom: where each pixel is taken from, in units of half the image.
        flips: across and down.
        noise: added last.
        grey: gamma, gain, offset and sharpness.
        size: height and width of what is taken out of an image, pixels; None: all of it.
        own_range: scale what is taken out to its own darkest and brightest (reading 16), before `grey` and `noise`.
    """

    matrices: Float32[np.ndarray, "image 2 3"] | None
    flips: Bool[np.ndarray, "image 2"] | None
    noise: Float32[np.ndarray, "image h w"] | None = None
    grey: Float32[np.ndarray, "image 4"] | None = None
    size: int | None = None
    own_range: bool = False

    def of(self, images: slice) -> "Transforms":
        """Return the transforms of a slice of the images."""
        matrices, flips, noise, grey = (
            part if part is None else part[images] for part in (self.matrices, self.flips, self.noise, self.grey)
        )
        return replace(self, matrices=matrices, flips=flips, noise=noise, grey=grey)

    def __call__(self, images: Float32[Tensor, "b 1 h w"]) -> Float32[Tensor, "b 1 i j"]:
        """Transform images in [0, 1]; what comes from outside an image is its reflection."""
        if self.matrices is not None:
            theta = torch.from_numpy(self.matrices).to(images.device)
            shape = list(images.shape) if self.size is None else [len(images), 1, self.size, self.size]
            grid = functional.affine_grid(theta, shape, align_corners=False)
            images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if self.flips is not None:
            across, down = torch.from_numpy(self.flips.T.copy()).to(images.device)[..., None, None, None]
            images = torch.where(across, images.flip(3), images)
            images = torch.where(down, images.flip(2), images)
        if self.own_range:
            low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
            images = (images - low) / torch.where(high > low, high - low, 1.0)
        if self.grey is not None:
            images = _regraded(images, *torch.from_numpy(self.grey).to(images.device).T[..., None, None, None])
        if self.noise is not None:
            images = (images + torch.from_numpy(self.noise)[:, None].to(images.device)).clamp(0, 1)
        return images


def draw_transforms(
    settings: DrawSettings,
    shape: tuple[int, int, int],
    *,
    boxes: Float32[np.ndarray, "image 4"] | None = None,
    own_range: bool = False,
    rng: np.random.Generator,
) -> Transforms:
    """Draw what happens to each image of a batch.

    Args:
        settings: how much of it.
        shape: images in the batch, and height and width of what is trained on, pixels.
        boxes: (x0, y0, x1, y1) of the mass in fractions of its surroundings, which are then what is transformed; NaN
            where an image is a region already. None: all images are.
        own_range: scale each region to its own range.
        rng: of every draw.
    """
    n_images = shape[0]
    matrices, flipped, added, grey = None, None, None, None
    if settings.rotation > 0 or settings.zoom > 0:
        angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, n_images))
        scale = 1 + rng.uniform(-settings.zoom, settings.zoom, n_images)
        none = np.zeros(n_images)
        rows = np.array([[np.cos(angle), -np.sin(angle), none], [np.sin(angle), np.cos(angle), none]])
        matrices = (rows / scale).transpose(2, 0, 1).astype(np.float32)
    if settings.flips == "random":
        flipped = rng.integers(0, 2, (2, n_images)).astype(bool).T
    if settings.noise > 0:
        spread = rng.uniform(0, settings.noise, n_images).astype(np.float32)[:, None, None]
        added = spread * rng.standard_normal(shape, dtype=np.float32)
    if settings.gamma > 0 or settings.contrast > 0 or settings.sharpness > 0:
        bent, gain = (np.exp(rng.uniform(-most, most, n_images)) for most in (settings.gamma, settings.contrast))
        offset = rng.uniform(0, 1, n_images) * (1 - gain)  # the new range lies in [0, 1], or holds it
        sharp = rng.uniform(-settings.sharpness, settings.sharpness, n_images)
        grey = np.stack([bent, gain, offset, sharp], axis=1).astype(np.float32)
    if boxes is None:
        return Transforms(matrices, flipped, added, grey, own_range=own_range)
    center, half = _drawn_regions(settings, boxes, rng=rng)
    if matrices is None:
        matrices = np.tile(np.eye(2, 3, dtype=np.float32), (n_images, 1, 1))
    matrices = half[:, :, None] * matrices
    matrices[:, :, 2] = center
    return Transforms(matrices, flipped, added, grey, size=shape[1], own_range=own_range)


def draw_images(
    points: Points,
    seen: Int[np.ndarray, "point"],
    settings: DrawSettings,
    *,
    own: slice = slice(None),
    is_mask: bool = False,
    device: torch.device,
    rng: np.random.Generator,
) -> Float32[Tensor, "own 1 h w"]:
    """Draw images of some points anew, from what lies around them where there is that.

    Args:
        points: that they are of.
        seen: those of the whole step: all processes draw for all of them.
        settings: how much is drawn.
        own: which of those seen are wanted.
        is_mask: leave grey values as they are; the images move as others do with the same settings and `rng`.
        device: where they are to be.
        rng: of every draw.
    """
    shape = (len(seen), *points.image_shape)
    if points.surroundings is None:
        transforms = draw_transforms(settings, shape, rng=rng)
        pixels = points.take(seen[own])
    else:
        pixels, boxes = points.take_surroundings(seen)
        transforms = draw_transforms(settings, shape, boxes=boxes, own_range=points.surroundings.own_range, rng=rng)
        pixels = pixels[own]
    if is_mask:
        transforms = replace(transforms, noise=None, grey=None, own_range=False)
    return transforms.of(own)(torch.from_numpy(pixels)[:, None].to(device))


def _drawn_regions(
    settings: DrawSettings, boxes: Float32[np.ndarray, "image 4"], *, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "image 2"], Float32[np.ndarray, "image 2"]]:
    """Draw regions: center and half sides of each, in units of half the surroundings (-1 to 1).

    They are cut as `diagnet.data.box.Box.resized` does (reading 14): grown about the box's center, moved inwards where
    they leave the surroundings, clipped where they are larger. What is a region already stays whole.
    """
    n = len(boxes)
    factor, moves = rng.uniform(*settings.padding, n)[:, None], rng.uniform(-settings.shift, settings.shift, (n, 2))
    is_box = ~np.isnan(boxes[:, :1])
    low, high = np.where(is_box, boxes[:, :2], 0.0), np.where(is_box, boxes[:, 2:], 1.0)
    sides = high - low
    half = np.minimum(np.where(is_box, factor, 1.0) * sides, 1.0) / 2
    center = np.clip((low + high) / 2 + np.where(is_box, moves * sides, 0.0), half, 1 - half)
    return (2 * center - 1).astype(np.float32), (2 * half).astype(np.float32)


def _regraded(
    images: Float32[Tensor, "b 1 h w"],
    gamma: Float32[Tensor, "b 1 1 1"],
    gain: Float32[Tensor, "b 1 1 1"],
    offset: Float32[Tensor, "b 1 1 1"],
    sharpness: Float32[Tensor, "b 1 1 1"],
) -> Float32[Tensor, "b 1 h w"]:
    """Bend, sharpen or blur, stretch and shift grey values."""
    images = images.clamp_min(1e-6) ** gamma
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (((images - blurred) * sharpness + images) * gain + offset).clamp(0, 1)
