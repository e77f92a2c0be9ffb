"""Whether what a box marks is like the masses a model knows: else it is refused, or flagged."""

import numpy as np
from pydantic import BaseModel, Field

from diagnet.data.box import Box
from diagnet.data.mammogram import MIN_BACKGROUND_SHARE, Mammogram
from diagnet.data.roi import RoiSettings, padded_box
from diagnet.errors import RefusedInputError


class BoxLimits(BaseModel, frozen=True, extra="forbid"):
    """What a box may be. Every one of the 1,318 boxes of CBIS-DDSM's training part keeps the limits that refuse."""

    min_side_px: float = Field(8.0, gt=0, description="Refused below: there is nothing to see.")
    min_side_mm: float = Field(2.0, ge=0, description="Flagged below, where the spacing is known.")
    max_side_mm: float = Field(100.0, gt=0, description="Flagged above, where the spacing is known.")
    max_aspect: float = Field(4.0, ge=1, description="Flagged above: longer side over shorter one.")
    max_image_share: float = Field(0.25, gt=0, le=1, description="Refused above, on a picture with air around.")
    min_breast_share: float = Field(0.25, ge=0, le=1, description="Refused below: mostly background.")
    sure_breast_share: float = Field(0.9, ge=0, le=1, description="Flagged below, on a picture with air around.")


def clipped_box(box: Box, width: int, height: int) -> Box:
    """Return a box inside its image, if it leaves it by no more than a pixel.

    Raises:
        RefusedInputError: the box is empty, no box, or lies outside the image.
    """
    if not (box.is_finite and box.has_area):
        raise RefusedInputError(f"`box` must be finite with x0 < x1 and y0 < y1, got ({box.shown()}).")
    inside = box.inside(width, height)
    if inside is None:
        raise RefusedInputError(f"`box` must lie inside its image of {width} x {height} pixels, got ({box.shown()}).")
    return inside


def check_box(box: Box, mammogram: Mammogram, roi: RoiSettings, limits: BoxLimits) -> list[str]:
    """Refuse a box that marks no mass as the model knows them; return what is doubtful about it.

    Args:
        box: inside the image.
        mammogram: scaled over the breast.
        roi: how the region will be cut.
        limits: what a box may be.

    Raises:
        RefusedInputError: it is too small or too large, off the breast, mostly background, or of one grey.
    """
    image = mammogram.pixels
    height, width = image.shape
    if min(box.width, box.height) < limits.min_side_px:
        raise RefusedInputError(
            f"`box` must have sides of at least {limits.min_side_px:g} pixels, got {box.width:g} x {box.height:g}."
        )
    image_share = box.width * box.height / (width * height)
    has_air = float((image == 0).mean()) >= MIN_BACKGROUND_SHARE
    if has_air and image_share > limits.max_image_share:
        raise RefusedInputError(
            f"`box` must mark one mass, at most {limits.max_image_share:.0%} of a whole mammogram, got"
            f" {image_share:.0%}. Fix: mark the mass (--box), or give a crop."
        )
    breast_share = mammogram.breast.share_of(box)
    if breast_share < limits.min_breast_share:
        what = "off the breast" if breast_share == 0 else f"mostly background, {breast_share:.0%} on the breast"
        raise RefusedInputError(f"`box` must lie on the breast, got one {what}.")
    x0, y0, x1, y1 = map(round, box)
    if np.ptp(image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]) == 0:
        raise RefusedInputError("`box` must mark a mass, got pixels of one and the same grey.")
    found = _doubts(box, mammogram.spacing_mm, width, height, roi, limits)
    if has_air and breast_share < limits.sure_breast_share:
        found.insert(0, f"{1 - breast_share:.0%} of the box is background")
    return found


def _doubts(
    box: Box,
    spacing_mm: tuple[float, float] | None,
    width: int,
    height: int,
    roi: RoiSettings,
    limits: BoxLimits,
) -> list[str]:
    """Say what is unlike a mass in size and shape."""
    found = []
    if spacing_mm is not None:
        across, down = box.width * spacing_mm[1], box.height * spacing_mm[0]
        if min(across, down) < limits.min_side_mm or max(across, down) > limits.max_side_mm:
            found.append(f"the box is {across:.1f} x {down:.1f} mm, unlike a mass")
    if max(box.width, box.height) > limits.max_aspect * min(box.width, box.height):
        found.append(f"the box is long: {box.width:.0f} x {box.height:.0f} pixels")
    region = padded_box(box, width, height, roi)
    if min(region.width, region.height) < roi.size / 2:
        size = f"{region.width:.0f} x {region.height:.0f}"
        found.append(f"the region of {size} pixels is enlarged to {roi.size} x {roi.size}")
    return found
