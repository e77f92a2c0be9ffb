"""Regions of interest: closed forms of the padded box, what resizing keeps, flips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.data.box import Box
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_roi, flipped, padded_box
from diagnet.errors import DataError

PAPER = RoiSettings()
TIGHT = RoiSettings(padding_factor=1.0, size=16, grey_range="image")


def ramp(height, width):
    """Grey value rises from left to right."""
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def test_the_paper_pads_1_6_times():
    assert PAPER.padding_factor == 1.6
    assert padded_box(Box(40.0, 60.0, 60.0, 70.0), 200, 100, PAPER) == pytest.approx((34, 57, 66, 73))


def test_a_region_over_the_border_moves_inwards():
    assert padded_box(Box(0.0, 90.0, 20.0, 100.0), 200, 100, PAPER) == pytest.approx((0, 84, 32, 100))


def test_a_region_larger_than_the_image_is_clipped():
    assert padded_box(Box(10.0, 10.0, 190.0, 90.0), 200, 100, PAPER) == pytest.approx((0, 0, 200, 100))


def test_a_square_is_square_in_original_pixels():
    square = RoiSettings(square=True, padding_factor=1.0)
    # An image of 3000 x 4800 stretched to 800 x 800: 3.75 and 6 original pixels per pixel.
    x0, y0, x1, y1 = padded_box(Box(400.0, 400.0, 480.0, 440.0), 800, 800, square, (3000.0, 4800.0))
    assert (x1 - x0) * 3.75 == pytest.approx((y1 - y0) * 6) == pytest.approx(300)
    assert (x0 + x1) / 2 == pytest.approx(440)
    assert (y0 + y1) / 2 == pytest.approx(420)
    x0, y0, x1, y1 = padded_box(Box(400.0, 400.0, 480.0, 440.0), 800, 800, square)
    assert x1 - x0 == y1 - y0 == 80


@given(
    ends=st.tuples(*[st.floats(0, 300, allow_nan=False)] * 4),
    factor=st.floats(1, 4),
    square=st.booleans(),
    original=st.none() | st.tuples(st.floats(100, 5000), st.floats(100, 5000)),
)
def test_a_region_lies_in_the_image_and_holds_its_box(ends, factor, square, original):
    x0, x1 = sorted(ends[:2])
    y0, y1 = sorted(ends[2:])
    if x1 - x0 < 1e-3 or y1 - y0 < 1e-3:
        return
    settings = RoiSettings(padding_factor=factor, square=square)
    left, top, right, bottom = padded_box(Box(x0, y0, x1, y1), 300, 300, settings, original)
    assert 0 <= left < right <= 300
    assert 0 <= top < bottom <= 300
    assert left <= x0 + 1e-9
    assert right >= x1 - 1e-9
    assert top <= y0 + 1e-9
    assert bottom >= y1 - 1e-9


@pytest.mark.parametrize(
    "box",
    [
        (5.0, 5.0, 5.0, 9.0),
        (5.0, 9.0, 9.0, 5.0),
        (300.0, 5.0, 310.0, 9.0),
        (-9.0, 5.0, -1.0, 9.0),
        (float("nan"), 5.0, 8.0, 9.0),
    ],
)
def test_a_box_without_pixels_is_refused(box):
    with pytest.raises(DataError, match="`box` must be x0 < x1, y0 < y1 and overlap its image of 300 x 200 pixels"):
        padded_box(Box(*box), 300, 200, PAPER)


def test_cutting_is_exact_where_nothing_is_resized():
    image = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    mass = Mass(image, (10.0, 20.0, 26.0, 36.0), "benign", "p")
    assert np.array_equal(cut_roi(image, mass, TIGHT), image[20:36, 10:26])


def test_cutting_keeps_a_ramp_and_parts_of_pixels():
    image = ramp(100, 401)
    roi = cut_roi(image, Mass(image, (100.5, 10.0, 300.5, 60.0), "benign", "p"), TIGHT)
    centers = (100.5 + (np.arange(16) + 0.5) * 12.5 - 0.5) / 400
    assert roi[8, 1:-1] == pytest.approx(centers[1:-1], abs=1e-5)


def test_reducing_averages_instead_of_picking():
    checks = (np.indices((256, 256)).sum(axis=0) % 2).astype(np.float32)
    roi = cut_roi(checks, Mass(checks, None, "benign", "p"), TIGHT)
    assert roi == pytest.approx(np.full((16, 16), 0.5), abs=0.01)


@given(seed=st.integers(0, 99), size=st.integers(8, 80))
def test_grey_values_never_ring(seed, size):
    image = np.random.default_rng(seed).integers(0, 2, (30, 37)).astype(np.float32)
    roi = cut_roi(image, Mass(image, (3.0, 2.0, 30.0, 25.0), "benign", "p"), RoiSettings(size=size, grey_range="image"))
    assert roi.dtype == np.float32
    assert roi.shape == (size, size)
    assert roi.min() >= 0
    assert roi.max() <= 1


def test_flips():
    images = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    both = flipped(images, horizontal=True, vertical=True)
    assert np.array_equal(flipped(images), images)
    assert np.array_equal(flipped(images, horizontal=True), images[:, :, ::-1])
    assert np.array_equal(flipped(images, vertical=True), images[:, ::-1])
    assert np.array_equal(flipped(flipped(both, vertical=True), horizontal=True), images)
    assert both.flags["C_CONTIGUOUS"]
