"""A region's own range: what changes an image's grey values changes no region, and no label, marker or clip sets it."""

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnet.data.grey_range import find_foreign, scaled_over_region
from diagnet.data.image import read_image
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_roi

ROI = RoiSettings(size=32)
REAL = {"P_00173_L_CC": (928, 2304, 1239, 2575), "P_00820_L_MLO": (80, 3176, 327, 3415)}


def tissue(size=120, seed=0):
    """Smooth bright and dark blobs with fine texture on them, from 0.2 to 0.7."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    smooth = sum(
        np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        for y, x, width in zip(*rng.uniform(0.1, 0.9, (2, 6)), rng.uniform(0.05, 0.3, 6), strict=True)
    )
    image = smooth / smooth.max() + 0.05 * rng.standard_normal((size, size))
    return (0.2 + 0.5 * (image - image.min()) / np.ptp(image)).astype(np.float32)


@given(st.floats(0.05, 1), st.floats(0, 0.3), st.integers(0, 20))
@settings(deadline=None)
def test_gain_and_offset_of_the_image_change_no_region(gain, offset, seed):
    image = tissue(seed=seed)
    mass = Mass(image, (30.0, 40.0, 80.0, 90.0), None, "")
    changed = (gain * (image + offset)).astype(np.float32)
    np.testing.assert_allclose(cut_roi(changed, mass, ROI), cut_roi(image, mass, ROI), atol=2e-4)


def test_a_region_spans_all_grey_values_and_a_constant_one_none():
    region = cut_roi(tissue(), Mass(tissue(), (30.0, 40.0, 80.0, 90.0), None, ""), ROI)
    assert (region.min(), region.max()) == (0, 1)
    assert not scaled_over_region(np.full((8, 8), 0.4, np.float32)).any()


def test_order_is_kept():
    image = tissue(24)
    order = np.argsort(image, axis=None)
    assert (np.diff(scaled_over_region(image).ravel()[order]) >= 0).all()


@pytest.mark.parametrize(
    "place",
    [(slice(10, 30), slice(15, 70)), (slice(0, 12), slice(80, 120)), (slice(60, 63), slice(60, 63))],
    ids=["label", "label at the border", "clip"],
)
def test_what_is_bright_flat_and_set_off_does_not_set_the_range(place):
    image = tissue()
    marked = image.copy()
    marked[place] = 1.0
    foreign = find_foreign(marked)
    assert foreign[place].all()
    assert foreign.mean() < 3 * foreign[place].size / image.size + 0.02
    whole = RoiSettings(size=60, padding_factor=1.0)
    found = cut_roi(marked, Mass(marked, None, None, ""), whole)
    expected = cut_roi(image, Mass(image, None, None, ""), whole)
    shown = foreign.astype(np.float32)
    away = cut_roi(shown, Mass(shown, None, None, ""), whole.model_copy(update={"grey_range": "image"})) == 0
    np.testing.assert_allclose(found[away], expected[away], atol=0.03)


def test_two_labels_of_different_brightness_are_both_found():
    image = tissue()
    image[5:20, 10:40], image[90:110, 60:90] = 1.0, 0.93
    foreign = find_foreign(image)
    assert foreign[5:20, 10:40].all()
    assert foreign[90:110, 60:90].all()


def test_the_flat_top_of_tissue_is_tissue():
    """A film saturates: the brightest part of a dense mass is one value, and falls off gradually."""
    image = np.minimum(tissue(seed=3), 0.6)
    assert not find_foreign(image).any()


@pytest.mark.parametrize("seed", range(8))
def test_tissue_alone_holds_nothing_foreign(seed):
    assert not find_foreign(tissue(seed=seed)).any()


@pytest.mark.parametrize("case", REAL)
def test_three_windows_of_a_real_mammogram_give_one_region(shared_masses, tmp_path, case):
    """A window that cuts nothing off inside the region is affine there."""
    path = shared_masses / "dicom" / f"mammogram_{case}.dcm"
    mass = Mass(path, tuple(map(float, REAL[case])), None, "")
    plain = cut_roi(read_image(path), mass, RoiSettings())
    dataset = pydicom.dcmread(path)
    x0, y0, x1, y1 = REAL[case]
    part = dataset.pixel_array[y0 - (y1 - y0) : 2 * y1 - y0, max(x0 - (x1 - x0), 0) : 2 * x1 - x0]
    low, high = int(part.min()), int(part.max())
    for number, (below, above) in enumerate([(0, 65535), (low - 500, high + 500), (low - 4000, high + 20000)]):
        dataset.WindowCenter, dataset.WindowWidth = (below + above) / 2, max(above - below, 1)
        dataset.VOILUTFunction = "LINEAR_EXACT"
        windowed = tmp_path / f"{number}.dcm"
        dataset.save_as(windowed)
        np.testing.assert_allclose(cut_roi(read_image(windowed), mass, RoiSettings()), plain, atol=2e-3)
