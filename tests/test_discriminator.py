import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC

from diagnet.discriminator import Discriminator, probability
from reference_neighbors import P


def rbf(a, b, gamma):
    return np.exp(-gamma * ((a[:, None] - b[None]) ** 2).sum(-1))


def grown(kernel, n_originals, **options):
    discriminator = Discriminator(kernel[:n_originals, :n_originals].copy(), len(kernel) - n_originals, **options)
    for n in range(n_originals, len(kernel)):
        discriminator.add(kernel[n, :n], float(kernel[n, n]))
        discriminator.decision_value(kernel[0, : n + 1])  # refit at every step, as a search does
    return discriminator


def sklearn_values(kernel, n_originals, cost=1.0):
    labels = np.where(np.arange(len(kernel)) < n_originals, 1, -1)
    machine = SVC(C=cost, kernel="precomputed", class_weight="balanced", tol=1e-8).fit(kernel, labels)
    bounds = cost * len(labels) / 2 / np.where(labels > 0, n_originals, len(labels) - n_originals)
    is_free = np.abs(machine.dual_coef_[0]) < bounds[machine.support_] * (1 - 1e-6)
    return machine.decision_function(kernel), is_free.any()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 30), st.floats(0, 2), st.sampled_from([0.1, 1.0, 10.0])
)
def test_equals_scikit_learn(seed, n_originals, n_generated, shift, cost):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_originals + n_generated, 6))
    points[n_originals:] += shift / 2
    kernel = rbf(points, points, 1 / 6)
    discriminator = grown(kernel, n_originals, cost=cost, tolerance=1e-6)
    values = np.array([discriminator.decision_value(row) for row in kernel])
    expected, has_one_bias = sklearn_values(kernel, n_originals, cost)
    if not has_one_bias:  # every multiplier is at its bound: any bias of an interval is optimal
        expected += (values - expected).mean()
    assert values == pytest.approx(expected, abs=1e-3)


def test_equals_scikit_learn_at_its_default_tolerance_and_size():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(280, 20))
    points[200:] *= 1.3
    kernel = rbf(points, points, 1 / 20)
    discriminator = grown(kernel, 200)
    values = [discriminator.decision_value(row) for row in kernel]
    assert values == pytest.approx(sklearn_values(kernel, 200)[0], abs=1e-3)


def test_equals_scikit_learn_with_a_linear_kernel():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(60, 4))
    points[40:] += 0.7
    kernel = points @ points.T
    discriminator = grown(kernel, 40, tolerance=1e-6)
    values = [discriminator.decision_value(row) for row in kernel]
    assert values == pytest.approx(sklearn_values(kernel, 40)[0], abs=1e-3)


def test_two_points_in_closed_form():
    """One point each side: the dual is min (1 - k) a^2 - 2a on [0, C], so a = min(C, 1 / (1 - k)) and b = 0."""
    for k, expected in ((0.5, 0.5), (-1.0, 1.0)):
        discriminator = Discriminator(np.array([[1.0]]), 1)
        discriminator.add(np.array([k]), 1.0)
        a = min(1.0, 1 / (1 - k))
        assert discriminator.decision_value(np.array([1.0, k])) == pytest.approx(a * (1 - k))
        assert a * (1 - k) == pytest.approx(expected)
        assert discriminator.decision_value(np.array([k, 1.0])) == pytest.approx(-expected)


def test_nothing_to_tell_apart_yet():
    discriminator = Discriminator(np.eye(4), 2)
    assert discriminator.decision_value(np.ones(4)) == 0.0
    assert float(probability(0.0)) == 0.5


@given(st.floats(-700, 700))
def test_probability_is_the_sigmoid(value):
    assert float(probability(value)) == pytest.approx(P(value))
