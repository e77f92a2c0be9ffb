"""Regions of many masses: each image is read once, what cannot be used is left out and counted."""

import numpy as np
import PIL.Image
import pytest

import diagnet.data.regions
from diagnet.data.image import read_image, read_picture
from diagnet.data.mass import Mass, MassSet
from diagnet.data.regions import read_regions, read_rois, rois_in_turn
from diagnet.data.roi import RoiSettings, cut_roi
from diagnet.data.surroundings import cut_wide, no_wide
from diagnet.errors import DataError, DiagNetError

TIGHT = RoiSettings(padding_factor=1.0, size=16, grey_range="image")


def ramp(height, width):
    """Grey value rises from left to right."""
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


@pytest.fixture
def png_masses(tmp_path):
    """Nine masses on three images, in turn."""
    rng = np.random.default_rng(0)
    for name in "abc":
        PIL.Image.fromarray(rng.integers(0, 256, (60, 70), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return [
        Mass(tmp_path / f"{'abc'[k % 3]}.png", (5.0 + 4 * k, 5.0 + 3 * k, 20.0 + 4 * k, 25.0 + 3 * k), "benign", "p")
        for k in range(9)
    ]


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_each_file_is_read_once_and_order_is_kept(png_masses, workers, monkeypatch):
    reads = []

    def counted(path):
        reads.append(path)
        return read_picture(path)

    monkeypatch.setattr(diagnet.data.regions, "read_picture", counted)
    steps = []
    out = np.zeros((9, 16, 16), dtype=np.float32)
    wide = no_wide(9, TIGHT)
    progress = lambda *step: steps.append(step)  # noqa: E731
    rois = read_rois(png_masses, TIGHT, workers=workers, progress=progress, out=out, wide=wide)
    assert rois is out
    assert len(reads) == 3
    assert steps == [("regions", done, 3) for done in range(4)]
    for roi, mass in zip(rois, png_masses, strict=True):
        assert np.array_equal(roi, cut_roi(read_image(mass.image), mass, TIGHT))
    for around, box, mass in zip(*wide, png_masses, strict=True):
        expected = cut_wide(read_image(mass.image), mass, TIGHT)
        assert np.array_equal(around, expected[0])
        assert np.array_equal(box, expected[1])


def test_pixels_in_memory_need_no_file():
    image = ramp(40, 40)
    masses = [Mass(image, (5.0, 5.0, 25.0, 25.0), "benign", "p"), Mass(image.T.copy(), None, "malignant", "q")]
    assert read_rois(masses, TIGHT).shape == (2, 16, 16)


def test_a_broken_image_stops_reading_or_is_told(png_masses):
    png_masses[1].image.write_bytes(png_masses[1].image.read_bytes()[:100])
    with pytest.raises(DiagNetError, match=r"b\.png"):
        read_rois(png_masses, TIGHT)
    found = dict(rois_in_turn(png_masses, TIGHT))
    assert [index for index in range(9) if isinstance(found[index], DiagNetError)] == [1, 4, 7]


@pytest.mark.parametrize("grey_range", ["region", "image"])
def test_a_region_of_one_grey_value_is_left_out_and_counted(png_masses, grey_range):
    flat = np.zeros((40, 40), np.float32)
    flat[:5] = 0.7
    settings = RoiSettings(size=16, padding_factor=1, grey_range=grey_range)
    masses = [png_masses[0], Mass(flat, (5.0, 10.0, 25.0, 30.0), "benign", "p"), png_masses[1]]
    found = read_regions(MassSet(masses, left_out={"label is empty": 2}), settings, surroundings=True)
    assert found.mass_set.masses == png_masses[:2]
    assert found.mass_set.left_out == {"label is empty": 2, "region has one grey value": 1}
    wide = no_wide(2, settings)
    assert np.array_equal(found.images, read_rois(png_masses[:2], settings, wide=wide))
    assert len(found.facts) == 2
    assert found.wide is not None
    assert all(np.array_equal(part, expected) for part, expected in zip(found.wide, wide, strict=True))
    with pytest.raises(DataError, match="must hold a mass that can be seen, got 1 regions of one grey value each"):
        read_regions(MassSet(masses[1:2]), settings)
