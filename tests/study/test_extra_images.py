from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from diagnet.batches import epoch_batches
from diagnet.config import Config
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.distance import cosine_distance
from diagnet.errors import SettingsError
from diagnet.neighbor_search import Judge
from diagnet.neighbors import NeighborSettings
from diagnet.study import extra_fits, network_fit
from diagnet.study.arms import read_arms
from diagnet.study.extra_images import (
    CHANGES,
    _Group,
    as_many_steps,
    changed_as_much,
    distances_moved,
    fresh_draws,
    hardest_seeds,
    mixed_within_class,
    smote,
    usual_seeds,
)
from diagnet.study.methods import METHODS
from diagnet.study.network_fit import Cases
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings, start

TINY = {
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 0, "n_hidden": 8},
    "neighbors": {"budget": 2},
    "training": {"epochs": 4, "batch_size": 16, "precision": "float32", "graph_weight": 0.0},
}
CONFIG = Config.from_preset("diagnet", TINY)
BESIDE = (
    "neighbors",
    "copies",
    *CHANGES,
    "mixup-within-class",
    "smote",
    "fresh-seeds",
    "common-components",
    "hard",
    "search-embedding",
    "negatives-as-class",
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def cases():
    images, labels = make_masses(42, rng=rng(), settings=PhantomSettings(size=32))
    return Cases(images, (), labels, 100 + np.arange(42) // 2)  # two masses a patient


@pytest.fixture
def trained(monkeypatch):
    """What the method under test trains on and with, without any training."""
    seen = []

    def fit_network(_, config, *place, points, on_epoch=None):
        seen.append((points, config, on_epoch))
        return lambda others: np.full(len(others.labels), float(sum(place)))

    monkeypatch.setattr(extra_fits, "fit_network", fit_network)
    return seen


@pytest.mark.parametrize("method", BESIDE)
def test_each_method_puts_one_image_of_a_class_and_patient_beside_each_original(method, cases, trained):
    METHODS[method](cases, CONFIG, 0, 0)
    points, config, _ = trained[0]
    beside = np.flatnonzero(points.kinds != 0)
    assert len(points) == 84
    np.testing.assert_array_equal(beside, np.arange(42, 84))
    np.testing.assert_array_equal(points.take(np.arange(42)), cases.images)  # untouched
    np.testing.assert_array_equal(points.relatives[beside], cases.patients[points.origins[beside]])
    images = points.take(beside)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    if method == "negatives-as-class":
        assert set(points.labels[beside]) == {2}
        np.testing.assert_array_equal(points.targets(config.training.negative_label, 3)[beside], 2)
        assert config.network.n_classes == 3
    else:
        np.testing.assert_array_equal(points.labels[beside], cases.labels[points.origins[beside]])
        np.testing.assert_array_equal(np.bincount(points.labels[beside]), np.bincount(cases.labels))
    METHODS[method](cases, CONFIG, 0, 0)
    np.testing.assert_array_equal(trained[1][0].take(beside), images)  # the same seed
    METHODS[method](cases, CONFIG, 0, 1)
    assert method == "copies" or not np.array_equal(trained[2][0].take(beside), images)


@pytest.mark.parametrize("n", [635, 636, 1054, 1055, 64, 65])
def test_twice_the_points_take_as_many_steps_and_images(n):
    plain = TrainingSettings(epochs=120)
    labels = np.zeros(2 * n, np.int64)
    twice = Points(np.zeros((2 * n, 8, 8), np.float32), labels, np.repeat([0, 1], n).astype(np.int8), labels)
    settings = as_many_steps(plain, twice)
    assert settings.epochs == 60
    n_batches = [len(epoch_batches(*each, rng())) for each in ((n, plain.batch_size), (2 * n, settings.batch_size))]
    assert n_batches[1] == 2 * n_batches[0]


@pytest.mark.parametrize("method", ["copies", "neighbors"])
def test_methods_train_for_as_many_steps(method, cases, trained):
    METHODS[method](cases, CONFIG, 0, 0)
    _, config, _ = trained[0]
    assert (config.training.epochs, config.training.batch_size) == (2, 14)  # 42 in three batches


@pytest.mark.parametrize("kind", CHANGES)
def test_changes_move_an_image_as_far_as_its_seed(kind, cases, trained):
    METHODS["neighbors"](cases, extra_fits._with_neighbors(CONFIG, positive_ratio=1.0, budget=1), 0, 0)
    METHODS[kind](cases, CONFIG, 0, 0)
    seeds, changed = trained[0][0], trained[1][0]
    np.testing.assert_array_equal(changed.origins, seeds.origins)
    beside = np.arange(42, 84)
    parents = cases.images[seeds.origins[beside]]
    moved = distances_moved(seeds.take(beside), parents)
    assert moved.min() > 0
    np.testing.assert_allclose(distances_moved(changed.take(beside), parents), moved, rtol=1e-3)


def test_a_distance_is_a_root_mean_square():
    images = np.zeros((2, 2, 2), np.float32)
    images[1, 0] = 0.5, 0.1
    np.testing.assert_allclose(distances_moved(images, np.zeros_like(images)), [0, np.sqrt(0.26 / 4)])


def test_shading_is_quadratic_and_noise_is_not():
    parents = np.full((20, 32, 32), 0.5, np.float32)
    x, y = np.meshgrid(np.arange(32.0), np.arange(32.0))
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=-1).reshape(-1, 6)
    for kind, least, most in (("shading", 0.0, 1e-6), ("noise", 0.9, 1.0)):
        moved = changed_as_much(parents, CHANGES[kind](parents, rng=rng()), np.full(20, 0.05)) - parents
        flat = moved.reshape(20, -1).T.astype(np.float64)
        left = flat - terms @ np.linalg.lstsq(terms, flat)[0]
        unexplained = np.square(left).sum(axis=0) / np.square(flat).sum(axis=0)
        assert unexplained.min() >= least
        assert unexplained.max() <= most


def test_contrast_keeps_the_order_of_grey_values(cases):
    changed = changed_as_much(cases.images, CHANGES["contrast"](cases.images, rng=rng()), np.full(42, 0.05))
    for before, after in zip(cases.images, changed, strict=True):
        assert (np.diff(after.ravel()[np.argsort(before, axis=None)]) >= 0).all()


def test_means_lie_between_two_masses_of_a_class(cases):
    made = mixed_within_class(cases.images, cases.labels, NeighborSettings(), rng())
    for image, made_of, label in zip(made, cases.images, cases.labels, strict=True):
        others = cases.images[cases.labels == label]
        # The mean of two images differs from the first along the line to the second.
        moves, lines = (image - made_of).ravel(), (others - made_of).reshape(len(others), -1)
        lengths = np.linalg.norm(lines, axis=1) * np.linalg.norm(moves)
        cosines = np.divide(lines @ moves, lengths, out=np.zeros(len(others)), where=lengths > 0)
        assert cosines.max() > 1 - 1e-4
        assert np.linalg.norm(moves) <= np.linalg.norm(lines[cosines.argmax()]) * (1 + 1e-4)


def test_smote_goes_towards_one_of_the_five_nearest_of_the_class(cases):
    made = smote(cases.images, cases.labels, NeighborSettings(), rng())
    for k, image in enumerate(made):
        own = np.flatnonzero(cases.labels == cases.labels[k])
        lines = (cases.images[own] - cases.images[k]).reshape(len(own), -1)
        nearest = lines[np.argsort(np.linalg.norm(lines, axis=1))[1:6]]
        move = (image - cases.images[k]).ravel()
        cosines = nearest @ move / np.linalg.norm(nearest, axis=1) / np.linalg.norm(move)
        assert cosines.max() > 0.99  # all components are used; values out of [0, 1] were clipped


def test_fresh_seeds_are_drawn_anew_for_each_epoch(cases, trained):
    METHODS["fresh-seeds"](cases, CONFIG, 0, 0)
    points, config, renew = trained[0]
    first = points.take(np.arange(42, 84))
    state = start(points, config.network, config.graph, config.training, seed=0)
    state.epoch = 1
    renew(state)
    second = points.take(np.arange(42, 84))
    assert (distances_moved(first, second) > 0).all()
    np.testing.assert_array_equal(points.take(np.arange(42)), cases.images)


def test_what_is_drawn_anew_reaches_the_network(cases, monkeypatch):
    scores = METHODS["fresh-seeds"](cases, CONFIG, 0, 0)(cases)
    monkeypatch.setattr(extra_fits, "fresh_draws", lambda *given, **more: lambda _: fresh_draws(*given, **more)(rng()))
    stored = METHODS["fresh-seeds"](cases, CONFIG, 0, 0)(cases)
    assert not np.array_equal(scores, stored)


def test_fresh_seeds_keep_away_from_originals(cases):
    nearest = []
    for n_retries in (0, 20):
        settings = NeighborSettings(n_retries=n_retries)
        drawn = fresh_draws(cases.images, cases.labels, settings, rng=rng())(rng(1)).reshape(42, -1)
        flat = cases.images.reshape(42, -1)
        nearest.append([])
        for label in (0, 1):
            own = cases.labels == label
            apart = cosine_distance(flat[own], flat[own])
            closest = apart[np.triu_indices(len(apart), 1)].min()
            nearest[-1].append(cosine_distance(drawn[own], flat[own]).min() / closest)
    assert min(nearest[0]) < 0.99
    assert min(nearest[1]) > 0.999


def test_fresh_seeds_lie_along_the_components_of_their_class(cases):
    settings = NeighborSettings()
    own = partial(fresh_draws, cases.images, cases.labels, settings, rng=rng())
    for common in (False, True):
        moved = (own(common=common)(rng(1)) - cases.images).reshape(42, -1)
        for label in (0, 1):
            originals = cases.images[cases.labels == label].reshape(-1, 32 * 32)
            span = np.linalg.qr((originals - originals.mean(0)).T)[0]
            moves = moved[cases.labels == label]
            outside = np.square(moves - moves @ span @ span.T).sum() / np.square(moves).sum()
            assert (outside > 0.05) == common  # the rest is what was clipped


def test_the_hardest_accepted_seed_is_taken(cases, monkeypatch):
    chances = cycle([0.9, 0.1])
    monkeypatch.setattr(Judge, "probability", lambda *_: next(chances))
    monkeypatch.setattr(_Group, "is_clear", lambda _, seeds, __: np.arange(len(seeds)) % 10 != 8)
    asked = []

    def loss(images, labels):
        asked.append((images, labels))
        return images.mean(axis=(1, 2), dtype=np.float64)

    made = hardest_seeds(cases.images, cases.labels, NeighborSettings(), loss, rng=rng())
    for label, (seeds, labels) in enumerate(asked):
        assert (labels == label).all()
        own = seeds.reshape(-1, 10, 32, 32)
        hardest = own[:, [0, 2, 4, 6]].mean(axis=(2, 3), dtype=np.float64).argmax(axis=1) * 2
        np.testing.assert_array_equal(made[cases.labels == label], own[np.arange(len(own)), hardest])


def test_the_most_usual_seed_of_the_embedding_is_taken(cases, monkeypatch):
    monkeypatch.setattr(Judge, "probability", lambda _, feature: float(feature[0] / np.linalg.norm(feature)))
    asked = []

    def embed(images):
        asked.append(images)
        bright = images.mean(axis=(1, 2))
        return np.stack([np.cos(bright), np.sin(bright)], axis=1)  # the darker, the higher is the first feature's share

    for copies, settings in enumerate((NeighborSettings(), NeighborSettings(no_copies=False))):
        made = usual_seeds(cases.images, cases.labels, settings, embed, rng=rng())
        darkest = np.empty(42)
        for label in (0, 1):
            own = cases.labels == label
            seeds = asked[-4 + 2 * label].reshape(own.sum(), 12, 32, 32)  # then the originals were asked for
            assert (seeds[:, 2:] == made[own][:, None]).all(axis=(2, 3)).any(axis=1).all()
            darkest[own] = seeds[:, 2:].mean(axis=(2, 3)).min(axis=1)
        taken = np.isclose(made.mean(axis=(1, 2)), darkest, atol=1e-5).mean()
        assert taken == 1 if copies else taken < 1  # of those that keep away from originals


def test_changes_of_stored_flips_are_refused(cases):
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"flips": "stored"})})
    with pytest.raises(SettingsError, match=r"`training\.flips` must not be stored"):
        METHODS["noise"](cases, config, 0, 0)


def test_the_output_for_negative_neighbors_is_not_scored(cases, monkeypatch):
    logits = np.tile(np.array([1.0, 3.0, 90.0], np.float32), (42, 1))
    monkeypatch.setattr(network_fit, "embeddings_and_logits", lambda *_: (logits, logits))
    monkeypatch.setattr(network_fit, "train", lambda *_, **__: None)
    np.testing.assert_allclose(METHODS["negatives-as-class"](cases, CONFIG, 0, 0)(cases), 2)


def test_arms_of_the_evidence_have_the_method_they_are_named_for():
    base = Config.from_preset("diagnet", {"training": {"epochs": 120, "graph_weight": 0.0}})
    arms = {arm.name: arm for arm in read_arms(Path(__file__).parents[2] / "evidence" / "apart.toml", base)}
    assert set(BESIDE) - set(arms) == {"neighbors"}
    for name, arm in arms.items():
        config = arm.config(base)
        assert config.training == base.training
        assert arm.method == {"plain-120": "network"}.get(name, name if name in BESIDE else "neighbors")
        if arm.method == "neighbors":
            budget = {"seeds": 1, "search": 200}.get(name) or int(name.removeprefix("search-"))
            assert (config.neighbors.positive_ratio, config.neighbors.negative_ratio) == (1, 0)
            assert config.neighbors.budget == budget
