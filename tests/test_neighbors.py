import csv

import numpy as np
import PIL.Image
import pytest

from diagnet.distance import angular_distance, cosine_distance
from diagnet.errors import DataError
from diagnet.neighbors import Neighbors, NeighborSettings, find_neighbors

FEW = {"budget": 40, "positive_ratio": 0.2, "negative_ratio": 0.2}


def blobs(n=30, size=12, n_classes=2, seed=0):
    """Smooth random images: a few waves, another mix for each class."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(0, 1, size)
    waves = np.array(
        [np.outer(np.sin(np.pi * a * grid), np.sin(np.pi * b * grid)) for a in (1, 2, 3) for b in (1, 2, 3)]
    )
    labels = np.arange(n) % n_classes
    mixes = rng.normal(size=(n, 9)) / np.arange(1, 10)
    mixes[:, 0] += 3 + labels
    images = np.einsum("nk,kij->nij", mixes, waves) * 0.15 + 0.1 + 0.01 * rng.random((n, size, size))
    return np.clip(images, 0, 1).astype(np.float32), labels.astype(np.int64)


def found(seed=0, images=None, labels=None, workers=1, **settings):
    if images is None:
        images, labels = blobs()
    rng = np.random.default_rng(seed)
    return find_neighbors(images, labels, NeighborSettings(**{**FEW, **settings}), rng=rng, workers=workers)


@pytest.mark.parametrize("search_space", ["subspace", "pixel"])
def test_what_comes_back(search_space):
    labels = blobs()[1]
    neighbors = found(search_space=search_space)
    assert len(neighbors.kinds) == 2 * (3 + 3)
    assert neighbors.images.shape == (12, 12, 12)
    assert neighbors.images.dtype == np.float32
    assert neighbors.images.min() >= 0
    assert neighbors.images.max() <= 1
    assert neighbors.labels.tolist() == [0] * 6 + [1] * 6
    assert neighbors.kinds.tolist() == [1, 1, 1, -1, -1, -1] * 2
    assert (labels[neighbors.parents] == neighbors.labels).all()
    assert ((neighbors.probability > 0) & (neighbors.probability < 1)).all()


@pytest.mark.parametrize("search_space", ["subspace", "pixel"])
@pytest.mark.parametrize("distance", ["cosine", "angular"])
def test_distances_and_rules_are_those_of_the_finished_images(search_space, distance):
    images, labels = blobs()
    neighbors = found(search_space=search_space, distance=distance)
    d = cosine_distance if distance == "cosine" else angular_distance
    for c in (0, 1):
        originals = images[labels == c].reshape(15, -1)
        between = d(originals, originals)[np.triu_indices(15, 1)]
        rho = neighbors.closest_pair[c]
        assert rho == pytest.approx(between.min(), rel=1e-6)
        for sign in (1, -1):
            own = np.flatnonzero((neighbors.labels == c) & (neighbors.kinds == sign))
            flat = neighbors.images[own].reshape(3, -1)
            apart = d(flat, flat) + np.diag(np.full(3, np.inf))
            assert neighbors.nearest_original[own] == pytest.approx(d(flat, originals).min(1), rel=1e-9)
            assert neighbors.nearest_of_sign[own] == pytest.approx(apart.min(1), rel=1e-9)
    assert neighbors.keeps_rules.all()
    positive = neighbors.kinds == 1
    rho = np.array([neighbors.closest_pair[int(label)] for label in neighbors.labels])
    assert (neighbors.nearest_of_sign >= rho).all()  # r1 and r2
    assert (neighbors.nearest_original[positive] >= rho[positive]).all()  # no copies
    assert (neighbors.nearest_original[~positive] <= 3 * rho[~positive]).all()  # r3


def test_negative_neighbors_are_less_probable():
    images, labels = blobs(60)
    neighbors = found(images=images, labels=labels, budget=60)
    positive = neighbors.kinds == 1
    assert neighbors.probability[~positive].mean() < neighbors.probability[positive].mean() - 0.1


def test_the_same_seed_gives_the_same_images_whatever_the_number_of_workers():
    one, two, other = found(seed=1), found(seed=1, workers=2), found(seed=2)
    for name in Neighbors.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert not np.array_equal(one.images, other.images)


def test_any_number_of_classes_and_any_shares():
    images, labels = blobs(36, n_classes=3)
    neighbors = found(images=images, labels=labels * 5 + 2, negative_ratio=0.0, positive_ratio=0.3, budget=15)
    assert neighbors.labels.tolist() == [2] * 4 + [7] * 4 + [12] * 4
    assert (neighbors.kinds == 1).all()
    none = found(positive_ratio=0.0, negative_ratio=0.0)
    assert none.images.shape == (0, 12, 12)
    assert none.closest_pair == {}


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened():
    images, labels = blobs(60)
    settings = NeighborSettings(budget=15, positive_ratio=0.6, negative_ratio=0.3)
    handed = []
    whole = find_neighbors(
        images, labels, settings, rng=np.random.default_rng(4), on_batch=lambda key, batch: handed.append((key, batch))
    )
    assert sum(len(batch) for _, batch in handed) == len(whole.kinds)
    finished = {}
    for key, batch in handed[:5]:
        finished[key] = [*finished.get(key, []), *batch]
    finished[0, 1] = finished[0, 1][:-3]  # a batch that was cut short is searched again
    rest = []
    resumed = find_neighbors(
        images,
        labels,
        settings,
        rng=np.random.default_rng(4),
        finished=finished,
        on_batch=lambda _, batch: rest.extend(batch),
    )
    assert np.array_equal(resumed.images, whole.images)
    assert np.array_equal(resumed.parents, whole.parents)
    assert 0 < len(rest) < len(whole.kinds)


def test_a_class_of_two_images():
    images, labels = blobs(4)
    for search_space in ("subspace", "pixel"):
        neighbors = found(images=images, labels=labels, search_space=search_space)
        assert len(neighbors.kinds) == 4
        assert np.isfinite(neighbors.images).all()


def test_progress_reaches_the_end():
    images, labels = blobs()
    told = []
    find_neighbors(
        images,
        labels,
        NeighborSettings(budget=12),
        rng=np.random.default_rng(0),
        progress=lambda *step: told.append(step),
    )
    assert told[0] == ("neighbors", 0, 12)
    assert told[-1] == ("neighbors", 12, 12)


def test_a_search_may_see_a_sample_of_its_class():
    images, labels = blobs(60)
    neighbors = found(images=images, labels=labels, max_originals=8)
    assert neighbors.keeps_rules.mean() >= 0.5  # the rules are checked against all originals, seen or not
    whole = found(images=images, labels=labels)
    assert neighbors.closest_pair == whole.closest_pair
    assert len(set(neighbors.parents.tolist())) <= 2 * 8


def test_a_budget_below_the_number_of_seeds_tries_seeds_only():
    neighbors = found(budget=1)
    assert len(neighbors.kinds) == 12


def test_linear_kernel_and_letter():
    neighbors = found(kernel="linear", search_space="pixel", enforce_rules=False, no_copies=False)
    assert len(neighbors.kinds) == 12


def test_copies_and_constant_images_leave_a_floor_for_rho():
    images, labels = blobs()
    images[2] = images[0]
    images[4] = 0.5
    images[6] = 0.0  # no direction at all
    neighbors = found(images=images, labels=labels)
    assert neighbors.closest_pair[0] == NeighborSettings().smallest_closest_pair
    assert np.isfinite(neighbors.images).all()
    assert neighbors.keeps_rules.all()


@pytest.mark.parametrize("search_space", ["subspace", "pixel"])
def test_images_without_any_pattern_have_neighbors_too(search_space):
    grey = np.ones((12, 8, 8), np.float32) * np.linspace(0.1, 0.9, 12, dtype=np.float32)[:, None, None]
    neighbors = found(images=grey, labels=np.repeat([0, 1], 6), search_space=search_space)
    assert neighbors.closest_pair[0] == NeighborSettings().smallest_closest_pair
    assert neighbors.keeps_rules.all()


def test_many_images_of_few_pixels():
    images, labels = blobs(80, size=4)
    neighbors = found(images=images, labels=labels, budget=20)
    assert np.isfinite(neighbors.images).all()
    assert neighbors.keeps_rules.all()


@pytest.mark.usefixtures("unchecked_shapes")
def test_refuses_what_it_cannot_search():
    images, labels = blobs()
    with pytest.raises(ValueError, match="`labels` must have one entry an image, got 29 for 30"):
        found(images=images, labels=labels[:29])
    with pytest.raises(DataError, match="`images` must hold at least 2 images of each class, got shape"):
        found(images=images[:0], labels=labels[:0])
    for value in (np.nan, -0.1, 1.5, np.inf):
        bad = images.copy()
        bad[3, 2, 1] = value
        with pytest.raises(DataError, match=r"`images` must be finite grey values in \[0, 1\]"):
            found(images=bad, labels=labels)
    labels[:] = 0
    labels[7] = 1
    with pytest.raises(DataError, match="at least 2 images of each class, got 1 of class 1"):
        found(images=images, labels=labels)
    labels[8] = 1
    images[8] = images[7]
    with pytest.raises(DataError, match="`images` must differ within a class, got 2 copies of one image in class 1"):
        found(images=images, labels=labels)


def test_real_masses_keep_every_rule(shared_masses):
    with (shared_masses / "rois.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["label"]][:80]
    images = np.stack(
        [
            np.asarray(PIL.Image.open(shared_masses / row["image"]).convert("L").resize((32, 32)), np.float32) / 255
            for row in rows
        ]
    )
    labels = np.array([row["label"] == "malignant" for row in rows], dtype=np.int64)
    neighbors = found(images=images, labels=labels, budget=50)
    assert neighbors.keeps_rules.all()


def test_each_flag_is_of_its_own_sign():
    """With a rho that nothing can keep, all break the spacing, and none is out of reach."""
    neighbors = found(budget=10, n_retries=0, smallest_closest_pair=0.9)
    positive = neighbors.kinds == 1
    assert (neighbors.positive_spacing == ~positive).all()
    assert (neighbors.negative_spacing == positive).all()
    assert neighbors.negative_reach.all()
    assert not neighbors.keeps_rules.any()
