"""Surroundings: what training draws regions from is what scoring cuts out of the image."""

import numpy as np
import pytest
import torch

from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_roi
from diagnet.data.surroundings import cut_wide
from diagnet.training.transforms import DrawSettings, draw_transforms

ROI = RoiSettings(size=32, grey_range="image")


def smooth(height=300, width=240, seed=0):
    """A picture without detail finer than its surroundings keep."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = sum(np.sin(2 * np.pi * (a * rows + b * columns) + c) for a, b, c in rng.uniform(0, 3, (5, 3)))
    return ((waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def around(image, box):
    """One mass's surroundings and its box in them."""
    images, boxes = cut_wide(image, Mass(image, box, None, ""), ROI)
    return images[None], boxes[None]


def drawn(images, boxes, factor, size=32):
    still = DrawSettings(flips="none", rotation=0, zoom=0, padding=(factor, factor))
    transforms = draw_transforms(still, (len(images), size, size), boxes=boxes, rng=np.random.default_rng(0))
    return transforms(torch.from_numpy(images)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("box", [(100, 120, 150, 160), (0, 0, 40, 60), (190, 250, 240, 300), (2, 100, 90, 220)])
@pytest.mark.parametrize("factor", [1.0, 1.6, 2.2])
def test_a_region_drawn_from_the_surroundings_is_the_one_cut_from_the_image(box, factor):
    image = smooth()
    mass = Mass(image, tuple(map(float, box)), None, "")
    images, boxes = around(image, mass.box)
    expected = cut_roi(image, mass, ROI.model_copy(update={"padding_factor": factor}))
    np.testing.assert_allclose(drawn(images, boxes, factor)[0], expected, atol=0.03)


def test_a_mass_that_is_all_of_its_image_is_its_own_surroundings():
    image = smooth(120, 120)
    images, boxes = around(image, None)
    assert images.shape == (1, 64, 64)
    assert np.isnan(boxes).all()
    expected = cut_roi(image, Mass(image, None, None, ""), ROI)
    np.testing.assert_allclose(drawn(images, boxes, 2.0)[0], expected, atol=0.02)


def test_a_label_beside_a_mass_is_no_brighter_than_tissue():
    image = 0.5 * smooth()
    image[60:80, 40:100] = 1.0
    images, _ = around(image, (80.0, 90.0, 140.0, 150.0))
    assert images.max() <= 0.5
