"""A mammogram as it is displayed: its pixels, where they came from, where the breast lies in them."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

from diagnet.arrays import Image
from diagnet.data.breast import Breast, find_breast

# A mammogram's air is one and the same darkest value, in half of its pixels; a crop's darkest value is rare.
MIN_BACKGROUND_SHARE = 0.05
_FAR_BRIGHTER = 1.6  # times
_WORTH_A_LOOK, _SURELY_BREAST, _EVERY = 2.5, 0.9, 7  # times; a quantile of what is no background; of its pixels one in
_NEARLY_WHITE, _NEGATIVE_SHARE, _NEGATIVE_RIM = 0.9, 0.25, 0.1
_SAMPLED, _CROOKED = 40_000, 2e-3  # pixels looked at; how far off a line a linear display may be, of its range
NEGATIVE = "the background is bright: this may be a negative"
SCALED = "intensity: scaled over the breast"  # the step of `scaled_over_breast`


@dataclass(frozen=True, slots=True)
class Mammogram:
    """A mammogram as it is displayed.

    Attributes:
        pixels: grey values in [0, 1]; air is dark.
        steps: what was done to the stored values, in order.
        warnings: what a reader of the result should know.
        spacing_mm: (row, column) size of a pixel in millimetres, None where the file does not say.
        laterality: "L", "R" or "".
        view: "CC", "MLO", "ML", ... or "".
        intent: "FOR PRESENTATION", "FOR PROCESSING" or "".
        ends: what is shown black and what white, in the units of the file (after its modality step); None where the
            display is not linear.
        outline: what `find_breast` found in these pixels, None until somebody asks for `breast`.
    """

    pixels: Image
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None
    laterality: str = ""
    view: str = ""
    intent: str = ""
    ends: tuple[float, float] | None = field(default=None, compare=False)
    outline: Breast | None = field(default=None, repr=False, compare=False)

    @property
    def breast(self) -> Breast:
        """Where the breast lies; looked for once, when it is first asked for."""
        found = find_breast(self.pixels) if self.outline is None else self.outline
        object.__setattr__(self, "outline", found)
        return found


def scaled_over_breast(pixels: Shaped[np.ndarray, "height width"]) -> Image:
    """Scale grey values so that the breast's darkest is 0 and its brightest 1 (reading 16).

    The background, where there is one, is 0 and has no part in the range: the pixels of the darkest value, if they
    are at least one in twenty. Nor has what lies off the breast and is
    far brighter than all of it, which becomes 1. A constant image is all 0.

    Raises:
        ValueError: a value is not a finite number.
    """
    values = pixels.astype(np.float32)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("`pixels` must be finite, got NaN or infinity.")
    if lowest == highest:
        return np.zeros_like(values)
    is_background = values == np.float32(lowest)
    if is_background.mean() >= MIN_BACKGROUND_SHARE:
        lowest = float(values.min(where=~is_background, initial=np.inf))
        if lowest == highest:  # two values, as in a mask
            return np.asarray(~is_background, dtype=np.float32)
        highest = _brightest_of_breast(values, is_background, lowest, highest)
    values -= np.float32(lowest)
    values /= np.float32(highest - lowest)
    return np.clip(values, 0, 1, out=values)


def _brightest_of_breast(
    values: Image, is_background: Bool[np.ndarray, "height width"], lowest: float, highest: float
) -> float:
    """Return the brightest value, but for what is off the breast and far brighter than all of it.

    A label of 16 bits on a picture of 12 is that; a label as white as a film can be is not, so that the pictures which
    networks were trained on keep their grey values.
    """
    level = float(np.quantile(values[~is_background][::_EVERY], _SURELY_BREAST))
    if level <= lowest or highest - lowest <= _WORTH_A_LOOK * (level - lowest):
        return highest
    breast = find_breast(np.clip((values - np.float32(lowest)) / np.float32(level - lowest), 0, 1))
    mask = ndimage.binary_dilation(breast.mask).repeat(breast.per_px, 0).repeat(breast.per_px, 1)
    inside = mask[: values.shape[0], : values.shape[1]]
    brightest = float(values.max(where=inside, initial=lowest))
    return brightest if highest - lowest > _FAR_BRIGHTER * (brightest - lowest) > 0 else highest


def linear_ends(values: Shaped[np.ndarray, "height width"], shown: Image) -> tuple[float, float] | None:
    """Return the values that are shown black and white, in this order, where the display is linear between them.

    Args:
        values: in the units of the file.
        shown: the same as displayed.
    """
    step = max(int(np.sqrt(values.size / _SAMPLED)), 1)
    few, seen = values[::step, ::step].astype(np.float64).ravel(), shown[::step, ::step].astype(np.float64).ravel()
    between = (seen > 0) & (seen < 1)
    few, seen = few[between], seen[between]
    if not len(seen) or seen.min() == seen.max():
        return None
    slope, black = np.polyfit(seen, few, 1)
    is_linear = np.abs(few - (black + slope * seen)).max() <= _CROOKED * abs(slope)
    return (float(black), float(black + slope)) if is_linear else None


def looks_negative(pixels: Image) -> bool:
    """Tell whether the background is bright, as in an inverted mammogram: a quarter of it nearly white, and its rim.

    Of 150 mammograms of CBIS-DDSM at most 7 % of the pixels are that bright, of their negatives 30 % or more.
    """
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    bright, dark = float((pixels >= _NEARLY_WHITE).mean()), float((pixels <= 1 - _NEARLY_WHITE).mean())
    return bright >= _NEGATIVE_SHARE and bright > dark and float((rim >= _NEARLY_WHITE).mean()) >= _NEGATIVE_RIM
