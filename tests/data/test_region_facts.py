import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from diagnet.data.box import Box
from diagnet.data.image import read_image
from diagnet.data.mass import Mass
from diagnet.data.region_facts import PictureFacts, RegionFacts, picture_facts, region_facts
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings, cut_and_measured, cut_roi

AROUND = PictureFacts(0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1)


def measured(region, spacing=None):
    return region_facts(region, region, Box(10.0, 20.0, 50.0, 30.0), (100, 200), AROUND, spacing)


def ramp(side=32):
    return np.tile(np.linspace(0.2, 0.8, side, dtype=np.float32), (side, 1))


def test_facts_of_a_ramp():
    found = measured(ramp(), spacing=(0.1, 0.4))
    step = 0.6 / 31
    assert found.contrast == pytest.approx(0.6, abs=1e-5)  # whole columns are of one grey
    assert found.brightness == pytest.approx(0.5)
    assert found.spread == pytest.approx(ramp().std())
    assert found.sharpness == pytest.approx(step / 2 / ramp().std(), rel=1e-4)  # no step downwards
    assert found.grain == pytest.approx(0, abs=1e-4)
    assert found.evenness == pytest.approx(np.sqrt(0.5), rel=1e-4)
    assert found.center == pytest.approx(0, abs=1e-4)
    assert found.air == 0
    assert (found.side_px, found.share) == (20.0, 0.02)
    assert found.side_mm == pytest.approx(4.0)
    assert found[8:15] == AROUND
    assert np.isnan(measured(ramp()).side_mm)


def test_a_bright_middle_has_a_center_and_its_negative_the_opposite():
    blob = ndimage.gaussian_filter(np.pad(np.ones((8, 8)), 12), 3).astype(np.float32)
    found, negative = measured(blob), measured(1 - blob)
    assert found.center > 1
    assert negative.center == pytest.approx(-found.center, rel=1e-4)
    assert negative.sharpness == pytest.approx(found.sharpness, rel=1e-4)


def test_noise_is_sharp_grained_and_even():
    noise = np.random.default_rng(0).normal(0.5, 0.1, (128, 128)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, 2)
    edge = smooth + np.float32(0.5) * (np.arange(128) > 64)
    assert measured(noise).sharpness == pytest.approx(2 / np.sqrt(np.pi), rel=0.02)
    assert measured(noise).evenness == pytest.approx(np.sqrt(2 / np.pi), rel=0.02)
    assert measured(noise).grain > 2 * measured(smooth).grain
    assert measured(edge).evenness < 0.6 * measured(smooth).evenness


def test_air_is_exact_background_of_the_file():
    region = ramp()
    region[:8] = 0
    region[8:16] = 0.01  # dark, but of the breast
    assert measured(region).air == 0.25


def picture(side):
    """Half air, half a breast whose left half is smooth and dark, the right one rough and bright."""
    image = np.zeros((side, side), dtype=np.float32)
    cells = side // 64
    rough = np.indices((32, 32)).sum(axis=0) % 2 * 0.2 + 0.6
    smooth = np.indices((32, 32)).sum(axis=0) % 2 * 0.05 + 0.2
    image[: side // 2] = np.kron(np.hstack([smooth, rough]), np.ones((cells, cells)))
    return image


def test_facts_of_a_picture_are_those_of_any_resolution():
    found = picture_facts(picture(256))
    assert found.picture_air == 0.5
    assert found.picture_brightness == pytest.approx((0.225 + 0.7) / 2)
    assert found.picture_spread == pytest.approx(picture(256)[:128].std())
    assert found.picture_tone == pytest.approx(np.log(4), abs=0.2)
    assert found.picture_evenness < 0.5
    assert found.picture_grain > 0
    np.testing.assert_allclose(picture_facts(picture(1024)), found, rtol=1e-4)


def test_the_edge_of_the_breast_is_no_grain():
    image = np.zeros((100, 100), np.float32)
    image[:, :20] = 0.5
    image[10, 10] = 0.6  # a step within the breast
    edge, inside = picture_facts(image), picture_facts(image[:, :20])
    assert edge.picture_air == pytest.approx(0.8)
    assert edge.picture_grain < 1.5 * inside.picture_grain


def test_a_black_picture_and_a_constant_one_have_facts():
    assert picture_facts(np.zeros((40, 40), np.float32)) == PictureFacts(1, 0, 0, 0, 0, 0, 0)
    for flat in (np.zeros((16, 16), np.float32), np.full((16, 16), 0.5, np.float32)):
        facts = region_facts(flat, flat, Box(0.0, 0.0, 16.0, 16.0), flat.shape, picture_facts(flat))
        assert np.isfinite(facts[:-1]).all()
    assert np.isfinite(picture_facts(np.full((3, 700), 0.5, np.float32))).all()  # thin


@pytest.mark.parametrize("grey_range", ["region", "image"])
def test_facts_are_measured_before_a_region_is_scaled(grey_range, tmp_path):
    settings = RoiSettings(size=16, grey_range=grey_range)
    pixels = (40 * np.random.default_rng(0).random((60, 60)) + 100).astype(np.uint8)
    pixels[0, :2] = 0, 255
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    mass = Mass(tmp_path / "a.png", (20.0, 20.0, 40.0, 40.0), None, "p", spacing_mm=(0.5, 0.5))
    image = read_image(mass.image)
    region, facts = cut_and_measured(image, mass, settings, picture_facts(image))
    assert np.array_equal(region, cut_roi(image, mass, settings))
    assert facts.contrast < 0.2
    assert facts.side_px == pytest.approx(32)
    rows = np.zeros((2, len(RegionFacts._fields)))
    regions = read_rois([mass, mass], settings, facts=rows)
    assert np.array_equal(regions[1], region)
    np.testing.assert_array_equal(rows, [facts, facts])
