"""A mammogram: grey values scaled over the breast, and the breast looked for once."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import diagnet.data.mammogram
from diagnet.data.breast import find_breast
from diagnet.data.dicom import read_mammogram
from diagnet.data.image import read_picture
from diagnet.data.mammogram import Mammogram, linear_ends, scaled_over_breast
from dicom_files import drawn_breast, write_dicom


def test_the_breast_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(diagnet.data.mammogram, "find_breast", lambda image: calls.append(1) or find_breast(image))
    mammogram = Mammogram(scaled_over_breast(drawn_breast("R")))
    assert not calls
    assert mammogram.breast is mammogram.breast
    assert mammogram.breast.chest_wall == "right"
    assert len(calls) == 1


@pytest.mark.parametrize("laterality", ["L", "R"])
@pytest.mark.parametrize(
    ("offset", "elements"),
    [
        (0, {}),
        (500, {}),
        (0, {"WindowCenter": 1200, "WindowWidth": 1500}),
        (500, {"WindowCenter": 2000, "WindowWidth": 4000}),  # the air is grey
        (500, {"WindowCenter": 2000, "WindowWidth": 4000, "PixelPaddingValue": 500}),  # but for its padding
        (0, {"WindowCenter": 1200, "WindowWidth": 800, "VOILUTFunction": "SIGMOID"}),
    ],
)
def test_scaling_changes_neither_side_nor_warnings(
    tmp_path: Path, laterality: str, offset: int, elements: dict
) -> None:
    drawn = drawn_breast("L") + np.uint16(offset)
    path = write_dicom(tmp_path / "image.dcm", drawn, Laterality=laterality, **elements)
    displayed, scaled = read_mammogram(path), read_picture(path)
    assert scaled.steps[:-1] == displayed.steps
    assert scaled.warnings == displayed.warnings
    assert np.array_equal(scaled.pixels, scaled_over_breast(displayed.pixels))
    for mammogram in (displayed, scaled):
        assert np.array_equal(mammogram.breast.mask, find_breast(mammogram.pixels).mask)


def test_a_window_that_leaves_the_air_grey_shows_no_chest_wall(tmp_path: Path) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "Laterality": "R"}
    picture = read_picture(write_dicom(tmp_path / "image.dcm", drawn_breast("L") + np.uint16(500), **window))
    assert "side: R, no chest wall seen in the picture" in picture.steps
    assert picture.breast.chest_wall == "left"


def test_background_has_no_part_in_the_range() -> None:
    image = np.zeros((10, 10), np.uint16)
    image[:, 5:] = np.linspace(1000, 3000, 50).reshape(10, 5)
    scaled = scaled_over_breast(image)
    assert not scaled[:, :5].any()
    np.testing.assert_allclose(scaled[:, 5:].ravel(), np.linspace(0, 1, 50), atol=1e-3)


def test_a_crop_without_background_keeps_its_darkest_pixel() -> None:
    crop = np.linspace(1000, 3000, 100).reshape(10, 10)
    np.testing.assert_allclose(scaled_over_breast(crop), np.linspace(0, 1, 100).reshape(10, 10), atol=1e-6)


def test_two_values_stay_two() -> None:
    mask = np.eye(5, dtype=np.uint8) * 255
    np.testing.assert_array_equal(scaled_over_breast(mask), np.eye(5))


@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 50))
def test_scaling_keeps_order_and_does_not_see_exposure(pixels: np.ndarray, gain: int) -> None:
    scaled = scaled_over_breast(pixels)
    assert scaled.min() == 0
    assert scaled.max() == (pixels.min() < pixels.max())
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(scaled.ravel()[order]) >= 0).all()
    np.testing.assert_allclose(scaled_over_breast(pixels.astype(np.int64) * gain + 100), scaled, atol=1e-4)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`pixels` must be finite, got NaN or infinity"):
        scaled_over_breast(np.array([[0, np.nan]]))


@pytest.mark.parametrize(("n_dark", "is_background"), [(4, False), (5, True)])
def test_one_pixel_in_twenty_is_background_and_fewer_are_not(n_dark: int, is_background: bool) -> None:
    image = np.linspace(1000, 3000, 100)
    image[:n_dark] = 0
    scaled = scaled_over_breast(image.reshape(10, 10)).ravel()
    assert not scaled[:n_dark].any()
    assert scaled[n_dark] == pytest.approx(0 if is_background else image[n_dark] / 3000)


@pytest.mark.parametrize("place", [(5, 120, 1, 1), (5, 100, 30, 20), (140, 90, 15, 30)])  # row, column, height, width
@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_what_is_white_off_the_breast_moves_no_grey_value(
    tmp_path: Path, place: tuple[int, int, int, int], offset: int, suffix: str
) -> None:
    drawn = drawn_breast() + np.uint16(offset)
    row, column, height, width = place
    marked = drawn.copy()
    marked[row : row + height, column : column + width] = 65535
    found = []
    for pixels in (drawn, marked):
        path = tmp_path / f"image.{suffix}"
        if suffix == "dcm":
            write_dicom(path, pixels)
        else:
            PIL.Image.fromarray(pixels).save(path)
        found.append(read_picture(path).pixels)
    is_marked = marked == 65535
    np.testing.assert_allclose(found[1][~is_marked], found[0][~is_marked], atol=1e-5)
    assert (found[1][is_marked] == 1).all()


def test_what_is_white_on_the_breast_keeps_its_place_in_the_range() -> None:
    clip = drawn_breast()
    clip[80:84, 40:44] = 65535
    assert scaled_over_breast(clip)[80, 60] == pytest.approx(clip[80, 60] / 65535, abs=0.02)


@pytest.mark.parametrize(("low", "high"), [(200.0, 3800.0), (3800.0, 200.0)], ids=["as stored", "MONOCHROME1"])
def test_the_ends_of_a_linear_display_are_told_in_units_of_the_file(low, high):
    values = np.random.default_rng(0).uniform(0, 4095, (300, 200)).astype(np.float32)
    shown = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    assert linear_ends(values, shown) == pytest.approx((low, high), rel=1e-3)


@pytest.mark.parametrize("bend", [np.square, lambda x: x > 0.5, lambda x: 0 * x], ids=["curve", "step", "flat"])
def test_a_display_that_is_no_line_has_no_ends(bend):
    values = np.random.default_rng(0).uniform(0, 1, (300, 200)).astype(np.float32)
    assert linear_ends(values, bend(values).astype(np.float32)) is None
