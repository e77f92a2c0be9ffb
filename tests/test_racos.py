import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diagnet.racos import Racos, RacosSettings, minimize


def sphere(x):
    return float(((x - 0.3) ** 2).sum())


def box(n):
    return np.full(n, -1.0), np.full(n, 1.0)


def test_finds_the_bottom_of_a_bowl():
    for seed in range(5):
        found = minimize(sphere, *box(5), budget=1000, rng=np.random.default_rng(seed))
        assert found.fun < 1e-3
        assert found.fun == sphere(found.x)
        assert found.nfev == 1000
        assert found.success


def test_handles_a_discrete_objective():
    """Many ties: values are integers, a copy of the best is never an improvement."""
    found = minimize(
        lambda x: float(np.round(x * 4).astype(int).__abs__().sum()),
        *box(20),
        budget=2000,
        rng=np.random.default_rng(0),
    )
    assert found.fun <= 4


def test_a_proposal_differs_from_an_elite_in_few_coordinates():
    for n, n_free in ((10, 1), (300, 2), (2000, 3)):
        search = Racos(*box(n), rng=np.random.default_rng(0), settings=RacosSettings(exploitation=1.0))
        told = []
        for i in range(60):
            x = search.ask()
            if i >= 12:
                elites = sorted(told, key=lambda pair: pair[1])[:2]
                assert min(int((x != elite).sum()) for elite, _ in elites) <= n_free
            told.append((x, sphere(x)))
            search.tell(*told[-1])


def test_proposals_lie_where_none_of_the_rest_does():
    """Reference for the region: the cuts hold the elite, and no other point is inside all of them."""
    rng = np.random.default_rng(3)
    search = Racos(*box(4), rng=rng)
    for _ in range(40):
        x = search.ask()
        search.tell(x, sphere(x))
    for elite in search._order[:2]:
        for _ in range(50):
            region = search._region(elite)
            inside = [all(low <= search._points[s, j] <= high for j, (low, high) in region.items()) for s in range(12)]
            assert inside[elite]
            assert not any(inside[s] for s in search._order[2:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(2, 6))
def test_stays_in_the_box_and_remembers_the_best(seed, n, n_samples):
    rng = np.random.default_rng(seed)
    lower, upper = np.zeros(n), rng.random(n)
    upper[0] = 0.0  # an edge of no length
    search = Racos(lower, upper, rng=rng, settings=RacosSettings(n_samples=n_samples, n_elites=1))
    values = []
    for _ in range(50):
        x = search.ask()
        assert ((x >= lower) & (x <= upper)).all()
        values.append(float(np.round(sphere(x), 1)))  # with ties
        search.tell(x, values[-1])
    assert search.best[1] == min(values)
    assert sorted(search._values) == sorted(values)[:n_samples]


def test_equal_points_do_not_hang_the_search():
    seeds = np.full((12, 6), 0.25)
    search = Racos(*box(6), seeds=seeds, rng=np.random.default_rng(0))
    for _ in range(100):
        search.tell(search.ask(), 1.0)
    assert search.best[1] == 1.0


def test_points_that_share_most_coordinates_are_told_apart():
    """As images of one parent: 2 of 50,000 coordinates differ, and no random draw would find them."""
    seeds = np.zeros((12, 50_000))
    seeds[np.arange(12), np.arange(12)] = 0.5
    search = Racos(*box(50_000), seeds=seeds, rng=np.random.default_rng(0))
    for i in range(12):
        search.tell(search.ask(), float(i))
    region = search._region(0)
    assert set(region) <= set(range(12))
    assert len(region) >= 1


def test_seeds_are_asked_first_and_any_point_may_be_told():
    seeds = np.array([[0.1, 0.2], [0.3, 0.4]])
    search = Racos(*box(2), seeds=seeds, rng=np.random.default_rng(0))
    assert (search.ask() == seeds[0]).all()
    assert (search.ask() == seeds[1]).all()
    search.ask()  # nothing was told yet: uniform
    search.tell(np.array([0.9, 0.9]), -5.0)
    x, value = search.best
    assert value == -5.0
    assert (x == 0.9).all()


def test_the_same_seed_gives_the_same_search():
    runs = [minimize(sphere, *box(30), budget=200, rng=np.random.default_rng(8)) for _ in range(2)]
    assert (runs[0].x == runs[1].x).all()


def test_a_budget_below_the_sample_size_evaluates_the_start_alone():
    found = minimize(sphere, *box(3), budget=5, rng=np.random.default_rng(0))
    assert found.nfev == 5
    assert found.fun == sphere(found.x)


def test_infinite_values_are_allowed_and_nan_is_not():
    found = minimize(lambda x: np.inf if x[0] < 0 else sphere(x), *box(3), budget=300, rng=np.random.default_rng(0))
    assert np.isfinite(found.fun)
    search = Racos(*box(2), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`value` must be a number, got NaN"):
        search.tell(search.ask(), float("nan"))


@pytest.mark.usefixtures("unchecked_shapes")
def test_refuses_what_it_cannot_search():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`budget` must be at least 1, got 0"):
        minimize(sphere, *box(2), budget=0, rng=rng)
    with pytest.raises(ValueError, match="`lower` and `upper` must be two vectors"):
        Racos(np.zeros(2), np.ones(3), rng=rng)
    with pytest.raises(ValueError, match="`lower` must be finite and at most `upper`"):
        Racos(np.ones(2), np.zeros(2), rng=rng)
    with pytest.raises(ValueError, match="`seeds` must be rows of 2 coordinates"):
        Racos(*box(2), seeds=np.zeros((3, 1)), rng=rng)
    with pytest.raises(ValueError, match="`seeds` must lie in the box"):
        Racos(*box(2), seeds=np.full((1, 2), 2.0), rng=rng)
    search = Racos(*box(2), rng=rng)
    with pytest.raises(ValueError, match="`best` must be read after the first `tell`"):
        _ = search.best
    with pytest.raises(ValueError, match="`x` must have 2 coordinates"):
        search.tell(np.zeros(3), 0.0)
    with pytest.raises(ValidationError, match="`n_elites` must be below `n_samples`"):
        RacosSettings(n_samples=3, n_elites=3)


def test_the_better_of_two_elites_is_drawn_eight_times_in_nine():
    search = Racos(*box(4), rng=np.random.default_rng(0), settings=RacosSettings(exploitation=1.0))
    for _ in range(12):
        x = search.ask()
        search.tell(x, sphere(x))
    parents = [search.ask_sparse().parent for _ in range(500)]
    assert set(parents) == set(search._order[:2])
    assert parents.count(search._order[0]) / 500 == pytest.approx(8 / 9, abs=0.05)
