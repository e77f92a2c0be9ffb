"""What a region looks like, in numbers, before its grey values are scaled; a model keeps its training masses'."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from diagnet.arrays import Image
from diagnet.data.box import Box

_SIDE = 256  # of the reduced picture, at most, so that pictures of any resolution are compared alike
_AIR = 0.05  # grey values of the reduced picture below this are air
_STEEP = 1e-6  # stands for a spread or a step of nothing


class PictureFacts(NamedTuple):
    """What a whole picture looks like, reduced to at most 256 pixels a side.

    Attributes:
        picture_air: fraction of its pixels that are nearly black.
        picture_brightness: mean of the others.
        picture_spread: their standard deviation.
        picture_sharpness: mean step between neighbors among them, over their spread.
        picture_grain: what a 3 x 3 mean takes away from them, over the mean step.
        picture_evenness: mean step over root mean square step: less where edges stand out.
        picture_tone: logarithm of the mean step among their brighter half over that among their darker half.
    """

    picture_air: float
    picture_brightness: float
    picture_spread: float
    picture_sharpness: float
    picture_grain: float
    picture_evenness: float
    picture_tone: float


class RegionFacts(NamedTuple):
    """What a region looks like in its image's grey values, and the picture around it.

    Attributes:
        contrast: from the 1 % to the 99 % quantile of its grey values.
        spread: their standard deviation.
        brightness: their mean.
        sharpness: mean step between neighboring pixels, over the spread.
        grain: what a 3 x 3 mean takes away from a pixel, over the mean step.
        evenness: mean step over root mean square step.
        center: how much brighter the middle quarter is than the rest, over the spread.
        air: fraction of the region's pixels in the file that are exact background.
        picture_air: see `PictureFacts`, as the six after it.
        picture_brightness: of the picture.
        picture_spread: of the picture.
        picture_sharpness: of the picture.
        picture_grain: of the picture.
        picture_evenness: of the picture.
        picture_tone: of the picture.
        side_px: square root of the region's area, in pixels of the file.
        share: fraction of the picture that is the region.
        side_mm: as `side_px` in millimetres, NaN where the spacing is not known.
    """

    contrast: float
    spread: float
    brightness: float
    sharpness: float
    grain: float
    evenness: float
    center: float
    air: float
    picture_air: float
    picture_brightness: float
    picture_spread: float
    picture_sharpness: float
    picture_grain: float
    picture_evenness: float
    picture_tone: float
    side_px: float
    share: float
    side_mm: float


def picture_facts(image: Image) -> PictureFacts:
    """Measure a whole picture, scaled over the breast."""
    per_px = max(1, -(-max(image.shape) // _SIDE))
    height, width = (side // per_px * per_px for side in image.shape)
    if min(height, width) == 0:  # thinner than a pixel of the reduced picture
        per_px, (height, width) = 1, image.shape
    squares = image[:height, :width].reshape(height // per_px, per_px, width // per_px, per_px)
    reduced = squares.mean(axis=(1, 3))
    is_seen = reduced >= _AIR
    if not is_seen.any():
        return PictureFacts(1.0, *(0.0,) * (len(PictureFacts._fields) - 1))
    seen = reduced[is_seen]
    middle = float(np.median(seen))
    spread = float(seen.std())
    # A step belongs to the breast where both of its pixels do; to its brighter half where their mean does.
    steps, brightness = [], []
    for first, second, is_inside in (
        (reduced[1:], reduced[:-1], is_seen[1:] & is_seen[:-1]),
        (reduced[:, 1:], reduced[:, :-1], is_seen[:, 1:] & is_seen[:, :-1]),
    ):
        steps.append(np.abs(first - second)[is_inside])
        brightness.append(((first + second) / 2)[is_inside])
    step, is_bright = np.concatenate(steps), np.concatenate(brightness) >= middle
    mean_step = _mean(step)
    is_inner = ndimage.minimum_filter(is_seen, 3)
    rest = np.abs(reduced - ndimage.uniform_filter(reduced, 3))[is_inner]
    return PictureFacts(
        picture_air=1 - float(is_seen.mean()),
        picture_brightness=float(seen.mean()),
        picture_spread=spread,
        picture_sharpness=mean_step / max(spread, _STEEP),
        picture_grain=_mean(rest) / max(mean_step, _STEEP),
        picture_evenness=mean_step / max(float(np.sqrt(_mean(step**2))), _STEEP),
        picture_tone=float(np.log(max(_mean(step[is_bright]), _STEEP) / max(_mean(step[~is_bright]), _STEEP))),
    )


def region_facts(
    region: Float32[np.ndarray, "size size"],
    pixels: Image,
    box: Box,
    image_shape: tuple[int, int],
    picture: PictureFacts,
    spacing_mm: tuple[float, float] | None = None,
) -> RegionFacts:
    """Measure a region.

    Args:
        region: at the network's size, not scaled to its own range.
        pixels: the region's pixels in the file.
        box: the region in pixels of the file.
        image_shape: (height, width) of the file.
        picture: facts of the whole picture.
        spacing_mm: (row, column) size of a pixel of the file.
    """
    low, high = np.quantile(region, [0.01, 0.99]).tolist()
    spread = float(region.std())
    steps = np.concatenate([np.diff(region, axis=0).ravel(), np.diff(region, axis=1).ravel()])
    step = float(np.abs(steps).mean())
    rest = np.abs(region - ndimage.uniform_filter(region, 3))[1:-1, 1:-1]
    quarter = len(region) // 4
    middle = region[quarter : len(region) - quarter, quarter : len(region) - quarter]
    rim = (float(region.sum()) - float(middle.sum())) / (region.size - middle.size)
    area = box.width * box.height
    return RegionFacts(
        contrast=high - low,
        spread=spread,
        brightness=float(region.mean()),
        sharpness=step / max(spread, _STEEP),
        grain=_mean(rest) / max(step, _STEEP),
        evenness=step / max(float(np.sqrt(np.square(steps).mean())), _STEEP),
        center=(float(middle.mean()) - rim) / max(spread, _STEEP),
        air=float((pixels == 0).mean()),
        **picture._asdict(),
        side_px=float(np.sqrt(area)),
        share=area / (image_shape[0] * image_shape[1]),
        side_mm=float("nan") if spacing_mm is None else float(np.sqrt(area * spacing_mm[0] * spacing_mm[1])),
    )


def _mean(values: Float32[np.ndarray, "value"] | Image) -> float:
    """Return the mean of grey values; 0 where there are none."""
    return float(values.mean()) if values.size else 0.0
