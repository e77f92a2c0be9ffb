import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.data.box import Box
from diagnet.data.mammogram import Mammogram, scaled_over_breast
from diagnet.data.roi import RoiSettings
from diagnet.data.suitability import BoxLimits, check_box, clipped_box
from diagnet.errors import RefusedInputError
from dicom_files import drawn_breast

IMAGE = scaled_over_breast(drawn_breast())
ROI = RoiSettings(size=16)
MASS = Box(20.0, 60.0, 60.0, 100.0)


def doubts(box, spacing=None, image=IMAGE, roi=ROI):
    return check_box(Box(*box), Mammogram(image, spacing_mm=spacing), roi, BoxLimits())


def test_a_marked_mass_is_beyond_doubt():
    assert doubts(MASS) == []
    assert doubts(MASS, spacing=(0.2, 0.2)) == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((20.0, 60.0, 27.0, 100.0), "sides of at least 8 pixels, got 7 x 40"),
        ((105.0, 5.0, 125.0, 25.0), "must lie on the breast, got one off the breast"),
        ((90.0, 75.0, 127.0, 100.0), r"must lie on the breast, got one mostly background, \d+% on the breast"),
        ((0.0, 20.0, 80.0, 140.0), "must mark one mass, at most 25% of a whole mammogram, got 47%. Fix: mark the mass"),
    ],
)
def test_what_is_no_mass_is_refused(box, message):
    with pytest.raises(RefusedInputError, match=message):
        doubts(box)


def test_a_box_of_one_grey_is_refused():
    image = IMAGE.copy()
    image[60:100, 20:60] = 0.5
    with pytest.raises(RefusedInputError, match="one and the same grey"):
        doubts((25.0, 65.0, 50.0, 90.0), image=image)


@pytest.mark.parametrize(
    ("box", "spacing", "flag"),
    [
        ((60.0, 75.0, 106.0, 90.0), None, r"\d+% of the box is background"),
        (MASS, (0.04, 0.04), "the box is 1.6 x 1.6 mm, unlike a mass"),
        (MASS, (3.0, 0.2), "the box is 8.0 x 120.0 mm, unlike a mass"),
        ((10.0, 75.0, 60.0, 84.0), None, "the box is long: 50 x 9 pixels"),
    ],
)
def test_what_is_doubtful_is_flagged(box, spacing, flag):
    (found,) = doubts(box, spacing)
    assert re.fullmatch(flag, found)


def test_a_region_that_must_be_enlarged_is_flagged():
    assert doubts((30.0, 70.0, 40.0, 80.0), roi=RoiSettings(size=64)) == [
        "the region of 16 x 16 pixels is enlarged to 64 x 64"
    ]


def test_a_crop_may_be_marked_as_a_whole():
    crop = scaled_over_breast(drawn_breast()[60:100, 20:60])
    assert doubts((0.0, 0.0, 40.0, 40.0), image=crop) == []


@given(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True, width=64)] * 4))
def test_any_four_numbers_are_a_box_inside_or_refused(box):
    try:
        inside = clipped_box(Box(*box), 128, 160)
    except RefusedInputError:
        return
    assert 0 <= inside[0] < inside[2] <= 128
    assert 0 <= inside[1] < inside[3] <= 160
    assert all(abs(a - b) <= 1 for a, b in zip(inside, box, strict=True))


def test_a_pixel_of_overhang_was_only_rounded():
    assert clipped_box(Box(-1.0, 0.0, 50.0, 161.0), 128, 160) == (0.0, 0.0, 50.0, 160.0)
    for box in ((-1.1, 0.0, 50.0, 60.0), (128.0, 0.0, 129.0, 9.0), (5.0, 5.0, 5.0, 9.0), (math.nan, 0.0, 1.0, 1.0)):
        with pytest.raises(RefusedInputError, match="`box` must"):
            clipped_box(Box(*box), 128, 160)
    assert np.isfinite(clipped_box(MASS, 128, 160)).all()
