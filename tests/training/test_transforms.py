import numpy as np
import pytest
import torch

from diagnet.training.transforms import draw_transforms


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((8, 1, 16, 16), dtype=np.float32))


def changed(images, rng=None, **options):
    options = {"flips": "none", "rotation": 0.0, "zoom": 0.0, **options}
    return draw_transforms(tuple(images[:, 0].shape), rng=rng or np.random.default_rng(0), **options)(images)


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
    transforms = draw_transforms(
        (8, 16, 16), flips="random", rotation=20.0, zoom=0.1, noise=0.1, rng=np.random.default_rng(0)
    )
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
        draw_transforms((8, 16, 16), flips="random", rotation=9.0, zoom=0.1, noise=noise, rng=np.random.default_rng(0))
        for noise in (0.0, 0.2)
    ]
    assert np.array_equal(drawn[0].matrices, drawn[1].matrices)
    assert np.array_equal(drawn[0].flips, drawn[1].flips)
