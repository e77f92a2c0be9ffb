import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diagnet.distance import angular_distance, angular_of_dots, cosine_distance, cosine_of_dots
from reference_neighbors import d_angular, d_cosine

ROWS = hnp.arrays(
    np.float64, (4, 3), elements=st.floats(-1e3, 1e3, allow_nan=False).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
)


def test_closed_forms():
    a = np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 5.0]])
    root = math.sqrt(0.5)
    assert cosine_distance(a[:1], a) == pytest.approx(np.array([[0.0, 1.0, 2.0, 1 - root]]))
    assert angular_distance(a[:1], a) == pytest.approx(np.array([[0.0, 0.5, 1.0, 0.25]]))


def test_a_zero_vector_is_at_the_middle_of_the_range():
    a = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert (cosine_distance(a, a)[0] == 1.0).all()
    assert (cosine_distance(a, a)[:, 0] == 1.0).all()
    assert (angular_distance(a, a)[0] == 0.5).all()
    assert (angular_distance(a, a)[:, 0] == 0.5).all()


@given(ROWS, ROWS)
def test_equals_the_slow_reference(a, b):
    for i in range(4):
        for j in range(4):
            assert cosine_distance(a, b)[i, j] == pytest.approx(d_cosine(a[i], b[j]), abs=1e-12)
            assert angular_distance(a, b)[i, j] == pytest.approx(d_angular(a[i], b[j]), abs=1e-7)


@given(ROWS, ROWS)
def test_laws(a, b):
    for distance, top in ((cosine_distance, 2.0), (angular_distance, 1.0)):
        found = distance(a, b)
        assert found.min() >= 0
        assert found.max() <= top
        assert found == pytest.approx(distance(b, a).T, abs=1e-12)  # symmetry
        assert found == pytest.approx(distance(a * 7.0, b * 0.5), abs=1e-9)  # scale does not matter


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-4, 1.0, math.pi - 1e-9])
def test_angular_distance_keeps_its_digits(angle):
    a, b = np.array([[1.0, 0.0]]), np.array([[math.cos(angle), math.sin(angle)]])
    assert angular_distance(a, b)[0, 0] == pytest.approx(angle / math.pi, rel=1e-6)


def test_tiny_and_huge_vectors_keep_their_direction():
    a = np.array([[1e-300, 0.0], [1e300, 1e300]])
    assert cosine_distance(a, a)[0, 1] == pytest.approx(1 - math.sqrt(0.5))
    assert angular_distance(a, a)[0, 1] == pytest.approx(0.25)


def test_distances_of_dot_products():
    rng = np.random.default_rng(0)
    units = rng.normal(size=(5, 7))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    dots = units @ units.T
    assert cosine_of_dots(dots) == pytest.approx(cosine_distance(units, units), abs=1e-12)
    assert angular_of_dots(dots) == pytest.approx(angular_distance(units, units), abs=1e-7)


def test_float32_is_computed_in_float64():
    a = np.random.default_rng(0).random((3, 100), dtype=np.float32)
    assert cosine_distance(a, a).dtype == np.float64
    assert cosine_distance(a, a) == pytest.approx(cosine_distance(a.astype(np.float64), a.astype(np.float64)))
