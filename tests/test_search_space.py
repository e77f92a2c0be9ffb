import numpy as np
import pytest

from diagnet.distance import angular_distance, cosine_distance
from diagnet.errors import DataError
from diagnet.search_space import component_space, pixel_space


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    smooth = 0.5 + rng.normal(size=(30, 6)) @ rng.normal(size=(6, 80)) * 0.05
    return np.clip(smooth + 0.02 * rng.normal(size=(30, 80)), 0, 1).astype(np.float32)


def space_of(images, sign=1, move=0.005, distance="cosine", n_components=12):
    dots = images.astype(np.float64) @ images.T.astype(np.float64)
    rng = np.random.default_rng(1)
    return component_space(images, dots, sign, move, distance, n_components=n_components, rng=rng)


@pytest.mark.parametrize("n", [5, 30])
def test_vectors_keep_all_dot_products(images, n):
    space = space_of(images[:n])
    exact = images[:n].astype(np.float64) @ images[:n].T.astype(np.float64)
    assert space.vectors @ space.vectors.T == pytest.approx(exact, rel=1e-9)
    assert space.vectors.shape[1] <= n


def test_more_images_than_pixels(images):
    narrow = np.ascontiguousarray(images[:, :10])
    space = space_of(narrow)
    exact = narrow.astype(np.float64) @ narrow.T.astype(np.float64)
    assert space.vectors @ space.vectors.T == pytest.approx(exact, rel=1e-6)
    assert space.lower.size <= 10


def test_a_direction_in_which_images_hardly_differ_spoils_no_dot_product():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 900)) * 0.02
    slight = 1e-6 * rng.normal(size=(400, 1)) @ rng.normal(size=(1, 900))
    images = (0.5 + few + slight).astype(np.float32)
    space = space_of(images)
    exact = images.astype(np.float64) @ images.T.astype(np.float64)
    assert space.vectors.shape[1] > 4  # one for each direction, and the mean image's part outside them
    assert space.vectors @ space.vectors.T == pytest.approx(exact, rel=1e-7)


def test_an_image_and_its_vector_lead_to_each_other(images):
    space = space_of(images)
    assert space.image(3, space.vectors[3]) == pytest.approx(images[3], abs=1e-6)
    assert space.vector(images[3]) == pytest.approx(space.vectors[3], abs=1e-4)
    moved = space.vectors[3].copy()
    searched = np.arange(space.lower.size)
    moved[searched] = space.values(3, searched, space.seed(3, np.random.default_rng(0)))
    made = space.image(3, moved)
    inside = images[3] + (made - images[3])
    assert (inside >= 0).all()
    assert space.vector(made) == pytest.approx(moved, abs=5e-3)  # but for what was clipped


@pytest.mark.parametrize("distance", ["cosine", "angular"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("move", [0.002, 0.02])
def test_half_of_the_seeds_move_farther_than_asked(images, distance, sign, move):
    space = space_of(images, sign, move, distance)
    rng = np.random.default_rng(2)
    searched = np.arange(space.lower.size)
    d = cosine_distance if distance == "cosine" else angular_distance
    moved = []
    for parent in range(30):
        vector = space.vectors[parent].copy()
        vector[searched] = space.values(parent, searched, space.seed(parent, rng))
        moved.append(d(vector[None], space.vectors[parent][None])[0, 0])
    assert np.median(moved) == pytest.approx(move, rel=0.5)


def test_positive_moves_follow_the_spread_and_negative_ones_its_root(images):
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(images.T.astype(np.float64), bias=True))[::-1][:12])
    positive, negative = space_of(images, 1), space_of(images, -1)
    assert positive.steps / positive.steps[0] == pytest.approx(spread / spread[0], rel=1e-3)
    assert negative.steps / negative.steps[0] == pytest.approx(np.sqrt(spread / spread[0]), rel=1e-3)
    assert positive.weights[:10] * spread[:10] ** 2 == pytest.approx(1.0, rel=1e-3)  # a third of 30 originals
    assert (positive.weights[10:] == 0).all()


def test_pixel_noise_moves_images_as_far_as_asked(images):
    space = pixel_space(images, 0.01, "cosine", rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    seeds = np.stack([space.seed(parent, rng) for parent in range(30)])
    assert seeds.min() >= 0
    assert seeds.max() <= 1
    moved = [cosine_distance(seeds[i : i + 1], images[i : i + 1])[0, 0] for i in range(30)]
    assert np.median(moved) == pytest.approx(0.01, rel=0.15)
    assert (space.vectors == images).all()


def test_copies_of_one_image_have_no_components(images):
    with pytest.raises(DataError, match="`images` must differ within a class, got 4 copies of one image"):
        space_of(np.repeat(images[:1], 4, axis=0))
