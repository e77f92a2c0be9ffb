"""A box: closed forms, laws of clipping, scaling and growing, and that it stands for the tuple it used to be."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.data.box import MAX_OVERHANG_PX, Box
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_roi

NUMBERS = st.integers(-40_000, 40_000).map(lambda number: number / 100)
BOXES = st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))
BOXES_WITH_AREA = st.builds(
    lambda x, y, across, down: Box(x, y, x + across, y + down), *[NUMBERS] * 2, *[st.floats(0.1, 400)] * 2
)


def test_its_sides_and_whether_there_are_any():
    box = Box(10.0, 20.0, 40.0, 25.5)
    assert (box.width, box.height) == (30.0, 5.5)
    assert box.has_area
    assert not Box(5.0, 5.0, 5.0, 9.0).has_area
    assert not Box(5.0, 9.0, 9.0, 5.0).has_area
    assert Box.whole(30, 20) == (0.0, 0.0, 30.0, 20.0)
    assert box.is_finite
    for odd in (math.nan, math.inf, -math.inf):
        assert not Box(0.0, 0.0, odd, 1.0).is_finite
    assert not Box(math.nan, 0.0, 1.0, 1.0).has_area


def test_it_stands_for_the_tuple_of_its_numbers():
    """Job names, UIDs and hashes of inputs are made of its text, and JSON has it as a list."""
    box, numbers = Box(1.0, 2.5, 3.0, 4.0), (1.0, 2.5, 3.0, 4.0)
    assert box == numbers
    assert hash(box) == hash(numbers)
    assert repr(box) == str(box) == f"{box}" == repr(numbers)
    assert str([box]) == str([numbers])
    assert json.dumps(box) == "[1.0, 2.5, 3.0, 4.0]"


def test_a_mass_takes_a_box_or_four_numbers():
    image, numbers = np.zeros((20, 20), np.float32), (1.0, 2.0, 13.0, 15.0)
    image[4:9, 3:8] = 1
    plain, boxed = Mass(image, numbers, None, "p"), Mass(image, Box(*numbers), None, "p")
    assert plain.box == boxed.box
    assert np.array_equal(cut_roi(image, plain, RoiSettings()), cut_roi(image, boxed, RoiSettings()))


@pytest.mark.parametrize(
    ("box", "clipped", "overhang", "inside"),
    [
        ((5.0, 6.0, 7.0, 8.0), (5.0, 6.0, 7.0, 8.0), (0, 0, 0, 0), True),
        ((-1.0, 0.0, 50.0, 161.0), (0.0, 0.0, 50.0, 160.0), (1, 0, 0, 1), True),
        ((-1.5, 2.0, 50.0, 60.0), (0.0, 2.0, 50.0, 60.0), (1.5, 0, 0, 0), False),
        ((128.0, 0.0, 129.0, 9.0), (128.0, 0.0, 128.0, 9.0), (0, 0, 1, 0), False),
    ],
)
def test_what_leaves_an_image_by_a_pixel_was_only_rounded(box, clipped, overhang, inside):
    assert MAX_OVERHANG_PX == 1
    assert Box(*box).clipped(128, 160) == clipped
    assert Box(*box).overhang(128, 160) == overhang
    assert Box(*box).inside(128, 160) == (clipped if inside else None)


@given(st.builds(Box, *[st.floats()] * 4), SIZES)
def test_any_four_numbers_are_inside_or_not(box, size):
    inside = box.inside(*size)
    if inside is not None:
        assert inside.is_finite
        assert inside.has_area
        assert inside.overlaps(*size)
        assert inside.overhang(*size) == (0, 0, 0, 0)


@given(BOXES, SIZES)
def test_clipping_twice_is_clipping_once(box, size):
    clipped = box.clipped(*size)
    assert clipped.clipped(*size) == clipped
    assert clipped.overhang(*size) == (0, 0, 0, 0) or not clipped.has_area
    assert clipped.has_area == box.overlaps(*size)


@given(BOXES, st.integers(-8, 8), st.integers(-8, 8))
def test_scaling_and_back(box, across, down):
    scaled = box.scaled(2.0**across, 2.0**down)
    assert scaled.width == pytest.approx(box.width * 2.0**across)
    assert scaled.scaled(2.0**-across, 2.0**-down) == box  # powers of two lose nothing


@given(BOXES_WITH_AREA, st.floats(0.5, 300), st.floats(0.5, 300), SIZES)
def test_new_sides_keep_the_center_unless_the_border_is_met(box, across, down, size):
    resized = box.resized(across, down, *size)
    assert resized.width == pytest.approx(min(across, size[0]))
    assert resized.height == pytest.approx(min(down, size[1]))
    assert resized.overhang(*size) == (0, 0, 0, 0)
    for low, high, before, limit in (
        (resized.x0, resized.x1, box.x0 + box.x1, size[0]),
        (resized.y0, resized.y1, box.y0 + box.y1, size[1]),
    ):
        is_at_border = low == 0 or high == pytest.approx(limit)
        assert is_at_border or low + high == pytest.approx(before)


def test_new_sides_in_closed_form():
    box = Box(40.0, 60.0, 60.0, 70.0)
    assert box.resized(32.0, 16.0, 200, 100) == (34.0, 57.0, 66.0, 73.0)
    assert Box(0.0, 90.0, 20.0, 100.0).resized(32.0, 16.0, 200, 100) == (0.0, 84.0, 32.0, 100.0)
    assert box.resized(1000.0, 1000.0, 200, 100) == Box.whole(200, 100)


@given(st.tuples(*[st.integers(-99999, 99999)] * 4))
def test_what_is_shown_reads_back(numbers):
    box = Box(*(number / 8 for number in numbers))
    short = Box(*(float(f"{number:g}") for number in box))
    assert Box.parsed(box.shown(",")) == Box.parsed(box.shown()) == short


def test_a_box_for_people():
    assert Box(20.0, 60.25, 1234567.0, 0.1).shown() == "20, 60.25, 1.23457e+06, 0.1"
    assert Box.parsed("1, 2.5,3,4") == (1.0, 2.5, 3.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "`box` must be four numbers, got 3"),
        ("1,2,3,4,5", "`box` must be four numbers, got 5"),
        ("a,b,c,d", "could not convert string to float: 'a'"),
        ("", "could not convert string to float: ''"),
    ],
)
def test_a_text_of_no_box_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        Box.parsed(text)
