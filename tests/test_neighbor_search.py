import math

import numpy as np
import pytest
from sklearn.svm import SVC

from diagnet.distance import cosine_distance
from diagnet.neighbor_search import (
    Judge,
    NeighborSearch,
    Rules,
    SearchSettings,
    fresh_seeds,
    objective,
    point_of,
    rules_for,
)
from diagnet.search_space import component_space, pixel_space
from reference_neighbors import eq1, eq2


def images_and_dots(n=20, pixels=60):
    rng = np.random.default_rng(0)
    images = np.clip(0.5 + rng.normal(size=(n, 5)) @ rng.normal(size=(5, pixels)) * 0.06, 0, 1).astype(np.float32)
    return images, images.astype(np.float64) @ images.T.astype(np.float64)


def make(kind, sign=1, n_wanted=4, **settings):
    images, dots = images_and_dots()
    rng = np.random.default_rng(1)
    if kind == "pixel":
        space = pixel_space(images, 0.01, "cosine", rng=rng)
    else:
        space = component_space(images, dots, sign, 0.01, "cosine", n_components=8, rng=rng)
    return NeighborSearch(space, dots, sign, 0.01, n_wanted, SearchSettings(**settings), rng=rng), images


def test_objective_is_that_of_the_equations():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, originals, others = rng.random(4), rng.random((5, 4)), rng.random((3, 4))
        P_x, rho, gamma = rng.random(), rng.random() * 0.2, 0.01
        to_originals = cosine_distance(x[None], originals).min()
        to_others = cosine_distance(x[None], others).min()
        settings = SearchSettings(no_copies=False, spacing_weight=gamma)
        broken = rules_for(1, rho, settings).broken_by(to_originals, to_others)
        assert objective(1, P_x, broken, gamma) == pytest.approx(-eq1(x, P_x, others, gamma, rho))
        broken = rules_for(-1, rho, settings).broken_by(to_originals, to_others)
        assert objective(-1, P_x, broken, gamma) == pytest.approx(eq2(x, P_x, others, originals, gamma, rho, 3 * rho))


def test_rules():
    assert rules_for(1, 0.1, SearchSettings()) == Rules(0.1, 0.1, math.inf)
    assert rules_for(1, 0.1, SearchSettings(no_copies=False)) == Rules(0.1, 0.0, math.inf)
    assert rules_for(-1, 0.1, SearchSettings()) == Rules(0.1, 0.0, 3 * 0.1)
    assert rules_for(-1, 0.1, SearchSettings()).broken_by(0.5, np.inf) == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["pixel", "subspace"])
def test_rows_that_grow_by_differences_are_those_of_the_points(kind):
    """The dot products of every candidate, from its parent's row and a few columns, equal those of its vector."""
    search, _ = make(kind, budget=120)
    search.find(np.random.default_rng(2))
    search.find(np.random.default_rng(3))
    search._try_candidates(np.random.default_rng(4))
    n = search._judge.n_points
    assert n == 20 + 40 + 2  # originals, the pool, neighbors kept
    points, tried = search._judge.columns[:, :n].T.astype(np.float64), search._tried.astype(np.float64)
    tolerance = 1e-4 if kind == "pixel" else 1e-9  # pixels are float32
    assert search._dots.rows[:, :n] == pytest.approx(tried @ points.T, abs=tolerance)
    weighted = tried * (1.0 if search._space.weights is None else search._space.weights)
    assert search._seen.rows[:, :n] == pytest.approx(weighted @ points.T, abs=tolerance * 10)
    assert search._seen.squares == pytest.approx((weighted * tried).sum(1), abs=tolerance * 10)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_discriminator_knows_originals_pool_and_neighbors_and_no_candidate(sign, kernel):
    """P of each candidate is that of scikit-learn's machine on these points, however many were tried before it."""
    search, images = make("subspace", sign, budget=40, kernel=kernel, enforce_rules=False, spacing_weight=0.0)
    search.find(np.random.default_rng(5))
    space = search._space
    _, ranking = search._try_candidates(np.random.default_rng(6))
    points = search._judge.columns[:, : search._judge.n_points].T
    assert len(points) == 3 * len(images) + 1
    seen = np.sqrt(space.weights)
    gamma = 1 / np.count_nonzero(space.weights)
    truth = np.arange(len(points)) < len(images)

    def kernel_of(a, b):
        apart = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-gamma * apart) if kernel == "rbf" else gamma * a @ b.T

    # Originals weigh half, the pool three eighths, and the neighbor kept one.
    weights = len(points) * np.repeat([1 / 2 / 20, 3 / 8 / 40, 1 / 8], [20, 40, 1])
    machine = SVC(kernel="precomputed", tol=1e-6)
    machine.fit(kernel_of(points * seen, points * seen), truth, sample_weight=weights)
    values = machine.decision_function(kernel_of(search._tried * seen, points * seen))
    assert -sign * np.array(ranking) == pytest.approx(1 / (1 + np.exp(-values)), abs=2e-3)


def test_the_candidate_that_ranks_first_wins():
    """Of those that keep the rules, the one most probable; its P is told by a judge that saw seeds of its own only."""
    one, two = make("subspace", budget=60)[0], make("subspace", budget=60)[0]
    found = one.find(np.random.default_rng(6))
    origins, ranking = two._try_candidates(np.random.default_rng(6))
    first = int(np.argmin(ranking))
    assert ranking[first] < min(ranking[:10])  # of the ten seeds
    assert found.parent == origins[first]
    image = two._space.image(origins[first], two._tried[first])
    assert np.array_equal(found.image, image)
    judge = two._outside_judge
    assert judge.n_points == 2 * 20
    pools = [judge.columns[:, 20:40], two._judge.columns[:, 20:60]]
    assert not (pools[0][:, :, None] == pools[1][:, None]).all(axis=0).any()
    assert found.probability == judge.probability(two._space.vector(image))
    assert one._outside_judge.n_points == 2 * 20  # nor does it learn the neighbor


def starts_and_find(search, rng):
    """A neighbor, and the images of all seeds that its searches started from."""
    starts, draw = [], search._starts

    def recorded(rng):
        parents, seeds = draw(rng)
        starts.extend(
            search._space.image(parent, point_of(search._space, parent, z))
            for parent, z in zip(parents, seeds, strict=True)
        )
        return parents, seeds

    search._starts = recorded
    found = search.find(rng)
    search._starts = draw
    return np.stack(starts), found


@pytest.mark.parametrize("kind", ["pixel", "subspace"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_neighbor_differs_from_every_start_seed_and_is_better(kind, sign):
    search, images = make(kind, sign, n_wanted=5, budget=50)
    dots = images.astype(np.float64) @ images.T.astype(np.float64)
    judge = Judge(search._space, dots, "rbf", 200)
    judge.learn(fresh_seeds(search._space, 5, rng=np.random.default_rng(7)))
    differs, gains = [], []
    for i in range(5):
        starts, found = starts_and_find(search, np.random.default_rng(i))
        differs.append(not (starts == found.image).all(axis=1).any())
        winner, *seeds = (judge.probability(search._space.vector(x)) for x in (found.image, *starts))
        gains.append(sign * winner - float(np.mean(sign * np.array(seeds))))
    assert np.mean(differs) >= 0.9
    assert np.mean(gains) > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_candidate_that_breaks_a_rule_ranks_behind_all_that_keep_them(sign):
    """The worst that keeps the rules: no original at all for a positive neighbor, a copy for a negative one."""
    search, _ = make("subspace", sign)
    worst, best = (0.0, 1.0) if sign > 0 else (1.0, 0.0)
    assert search._ranking(worst, 0.0) < search._ranking(best, 1e-9) < search._ranking(best, 1e-3)
    by_gamma_alone, _ = make("subspace", sign, enforce_rules=False)
    assert by_gamma_alone._ranking(worst, 0.0) > by_gamma_alone._ranking(best, 1e-9)


def test_a_rule_that_nothing_can_keep_is_reported_by_its_least_breach():
    images, dots = images_and_dots()
    space = component_space(images, dots, 1, 0.01, "cosine", n_components=8, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    search = NeighborSearch(space, dots, 1, 1.5, 1, SearchSettings(budget=15, n_retries=1), rng=rng)
    found = search.find(np.random.default_rng(0))
    assert np.isfinite(found.image).all()
    assert cosine_distance(found.image[None], images).min() < 1.5
