import math

import numpy as np
import pytest

from diagnet.distance import cosine_distance
from diagnet.neighbor_search import NeighborSearch, Rules, SearchSettings, objective, rules_for
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
    return NeighborSearch(space, dots, sign, 0.01, n_wanted, SearchSettings(**settings)), images


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
    n = search._n_kept
    points = np.concatenate([search._columns[:, :n].T, search._tried]).astype(np.float64)
    size = len(points)
    candidates = slice(n, size)
    tolerance = 1e-4 if kind == "pixel" else 1e-9  # pixels are float32
    assert search._dots.rows[candidates, :size] == pytest.approx(points[candidates] @ points.T, abs=tolerance)
    weights = search._space.weights
    seen = points * (1.0 if weights is None else weights) @ points.T
    assert search._seen.rows[candidates, :size] == pytest.approx(seen[candidates], abs=tolerance * 10)
    assert search._seen.squares[candidates] == pytest.approx(seen.diagonal()[candidates], abs=tolerance * 10)


def test_the_candidate_that_ranks_first_wins():
    """Of those that keep the rules, the one most probable under the last discriminator, without its own term."""
    one, _ = make("subspace", budget=60)
    two, _ = make("subspace", budget=60)
    for search in (one, two):
        search.find(np.random.default_rng(5))  # now there is something to tell apart
    found = one.find(np.random.default_rng(6))
    origins, broken, values = two._try_candidates(np.random.default_rng(6))
    assert max(values) > min(values)
    first = max((value, t) for t, value in enumerate(values) if broken[t] == 0)[1]
    assert found.parent == origins[first]
    assert found.image == pytest.approx(two._space.image(origins[first], two._tried[first]))
    assert found.probability == pytest.approx(1 / (1 + math.exp(-values[first])))


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
    search = NeighborSearch(space, dots, 1, 1.5, 1, SearchSettings(budget=15, n_retries=1))
    found = search.find(np.random.default_rng(0))
    assert np.isfinite(found.image).all()
    assert cosine_distance(found.image[None], images).min() < 1.5
