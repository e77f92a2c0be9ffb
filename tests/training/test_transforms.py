import numpy as np
import pytest
import torch

from diagnet.data.box import Box
from diagnet.training.transforms import DrawSettings, draw_transforms


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((8, 1, 16, 16), dtype=np.float32))


def still(**options):
    """Settings that draw nothing but what is asked for."""
    return DrawSettings(**{"flips": "none", "rotation": 0.0, "zoom": 0.0, **options})


def changed(images, rng=None, **options):
    return draw_transforms(still(**options), tuple(images[:, 0].shape), rng=rng or np.random.default_rng(0))(images)


def test_flips_keep_every_pixel(images):
    for image, flipped in zip(images[:, 0], changed(images, flips="random")[:, 0], strict=True):
        variants = [image, image.flip(0), image.flip(1), image.flip(0, 1)]
        assert any(torch.equal(flipped, variant) for variant in variants)


def test_turned_and_zoomed_images_stay_images_and_depend_on_the_rng_alone(images):
    turned = changed(images, flips="random", rotation=180.0, zoom=0.2)
    assert turned.shape == images.shape
    assert turned.min() >= 0
    assert turned.max() <= 1
    assert torch.equal(turned, changed(images, flips="random", rotation=180.0, zoom=0.2))
    assert torch.equal(changed(images), images)


def test_quarter_turn_is_a_rotation(images):
    class QuarterTurn(np.random.Generator):
        def uniform(self, _low, high, n):
            return np.full(n, high)

    turned = changed(images, QuarterTurn(np.random.PCG64(0)), rotation=90.0)
    assert any(torch.allclose(turned, images.rot90(k, (2, 3)), atol=1e-5) for k in (1, 3))


def test_a_part_of_a_batch_is_transformed_as_in_the_whole(images):
    every = DrawSettings(zoom=0.1, noise=0.1, gamma=0.3, contrast=0.3, sharpness=0.5)
    transforms = draw_transforms(every, (8, 16, 16), rng=np.random.default_rng(0))
    assert torch.allclose(transforms.of(slice(3, 6))(images[3:6]), transforms(images)[3:6], atol=1e-6)


def test_noise_has_another_strength_for_each_image_up_to_the_largest_and_keeps_the_range():
    grey = torch.full((400, 1, 16, 16), 0.5)
    spreads = changed(grey, noise=0.1).std(dim=(1, 2, 3))
    assert spreads.max() < 0.12
    assert 0.04 < spreads.mean() < 0.06  # uniform from 0 on
    assert spreads.min() < 0.01
    black = changed(torch.zeros(8, 1, 16, 16), noise=0.5)
    assert black.min() == 0
    assert black.max() <= 1


def test_without_noise_nothing_else_changes():
    drawn = [
        draw_transforms(DrawSettings(rotation=9.0, noise=noise), (8, 16, 16), rng=np.random.default_rng(0))
        for noise in (0.0, 0.2)
    ]
    assert np.array_equal(drawn[0].matrices, drawn[1].matrices)
    assert np.array_equal(drawn[0].flips, drawn[1].flips)


def ramps(n, side=64):
    """Surroundings whose grey values rise from left to right, and a box in each."""
    ramp = np.tile(np.linspace(0, 1, side, dtype=np.float32), (side, 1))
    boxes = np.tile(np.array([0.3, 0.35, 0.6, 0.55], np.float32), (n, 1))
    return torch.from_numpy(np.tile(ramp, (n, 1, 1, 1))), boxes


def test_regions_are_drawn_as_boxes_are_grown():
    """At one factor and without a shift, a drawn region is what `Box.resized` cuts: here, the columns it spans."""
    images, boxes = ramps(2)
    drawn = draw_transforms(
        still(padding=(1.5, 1.5), shift=0.0), (2, 32, 32), boxes=boxes, rng=np.random.default_rng(0)
    )(images)
    box = Box(*(64 * boxes[0].astype(float)))
    region = box.resized(1.5 * box.width, 1.5 * box.height, 64, 64)
    columns = region.x0 + (np.arange(32) + 0.5) / 32 * region.width  # pixels, whose centers lie at halves
    np.testing.assert_allclose(drawn[0, 0, 5].numpy(), (columns - 0.5) / 63, atol=2e-3)


def test_factors_and_shifts_are_drawn_for_each_image_within_their_limits():
    images, boxes = ramps(400)
    drawn = draw_transforms(
        still(padding=(1.0, 2.0), shift=0.1), (400, 32, 32), boxes=boxes, rng=np.random.default_rng(0)
    )(images)
    widths = (drawn[:, 0, 0, -1] - drawn[:, 0, 0, 0]).numpy() * 63 / 64 * 32 / 31
    assert 0.3 <= widths.min() < 0.32
    assert 0.58 < widths.max() <= 0.61
    assert widths.mean() == pytest.approx(0.45, abs=0.02)
    centers = drawn[:, 0, 0].mean(dim=1).numpy()
    assert centers.std() == pytest.approx(0.3 * 0.2 / 12**0.5, rel=0.15)  # uniform within a tenth of the side


def test_what_is_a_region_already_stays_whole():
    images, _ = ramps(2, 32)
    boxes = np.full((2, 4), np.nan, np.float32)
    settings, rng = still(padding=(1.0, 2.2), shift=0.3), np.random.default_rng(0)
    drawn = draw_transforms(settings, (2, 32, 32), boxes=boxes, rng=rng)(images)
    assert torch.allclose(drawn, images, atol=1e-5)


def test_a_drawn_region_has_its_own_range():
    images, boxes = ramps(3)
    options = {"boxes": boxes, "rng": np.random.default_rng(0)}
    drawn = draw_transforms(still(padding=(1.0, 2.0)), (3, 32, 32), own_range=True, **options)(0.2 + 0.1 * images)
    assert torch.allclose(drawn.amin(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(drawn.amax(dim=(1, 2, 3)), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "contrast", "sharpness"])
def test_grey_values_change_within_their_range_and_in_another_way_for_each_image(name):
    images = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 0.8, (50, 1, 16, 16)).astype(np.float32))
    drawn = changed(images, **{name: 0.5})
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    moved = (drawn - images).abs().amax(dim=(1, 2, 3))
    assert moved.max() > 0.05
    assert len(set(moved.tolist())) > 45
    assert torch.equal(changed(images), images)


def test_gamma_bends_and_sharpness_leaves_even_grey():
    grey = torch.full((200, 1, 8, 8), 0.5)
    assert torch.allclose(changed(grey, sharpness=1.0), grey, atol=1e-6)
    bent = changed(grey, gamma=0.7)[:, 0, 0, 0].log() / np.log(0.5)
    assert bent.min() >= np.exp(-0.7) - 1e-3
    assert bent.max() <= np.exp(0.7) + 1e-3
    assert bent.log().mean() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("padding", [(0.9, 2.0), (2.0, 1.0), (1.0, 11.0)])
def test_factors_that_make_no_sense_are_refused(padding):
    with pytest.raises(ValueError, match="`padding` must be two factors from 1 to 10, the smaller one first"):
        DrawSettings(padding=padding)
