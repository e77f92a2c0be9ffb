import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from diagnet import graph as graph_module
from diagnet.graph import GraphSettings, dense_signs, signed_graph

ON_A_CIRCLE = np.deg2rad([0.0, 10.0, 30.0, 32.0, 60.0, 95.0])


def circle(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def random_points(seed, n, d, n_classes=2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    kinds = rng.choice([0, 0, 0, 1, -1], n).astype(np.int8)
    return rng.random((n, d)), labels, kinds


def test_a_hand_drawn_graph():
    labels = np.array([0, 0, 1, 1, 0, 1])
    kinds = np.array([0, 0, 0, 0, -1, 0], dtype=np.int8)
    signs = dense_signs(signed_graph(circle(ON_A_CIRCLE), labels, kinds, GraphSettings(n_repelling=1)))
    expected = np.zeros((6, 6), dtype=np.int8)
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = expected[5, 3] = 1
    expected[0, 2] = expected[1, 2] = expected[2, 1] = expected[3, 1] = -1
    expected[5, 4] = -1  # the other class's negative neighbor repels too
    # benign's own negative neighbor (60 degrees) is farther from 0 and 1 than the malignant point at 30 degrees
    assert (signs == expected).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(4, 24),
    n_attracting=st.integers(0, 3),
    n_repelling=st.integers(0, 5),
    n_classes=st.integers(2, 4),
)
def test_equals_the_slow_reference(seed, n, n_attracting, n_repelling, n_classes):
    vectors, labels, kinds = random_points(seed, n, 5, n_classes)
    graph = signed_graph(vectors, labels, kinds, GraphSettings(n_attracting=n_attracting, n_repelling=n_repelling))
    assert (dense_signs(graph) == reference.phi(vectors, labels, kinds, n_attracting, n_repelling)).all()


def test_blocks_do_not_change_the_graph(monkeypatch):
    vectors, labels, kinds = random_points(3, 200, 8)
    whole = dense_signs(signed_graph(vectors, labels, kinds))
    monkeypatch.setattr(graph_module, "_BLOCK", 7)
    monkeypatch.setattr(graph_module, "_ANCHORS", 11)
    assert (dense_signs(signed_graph(vectors, labels, kinds)) == whole).all()


def test_laws():
    vectors, labels, kinds = random_points(5, 60, 6)
    graph = signed_graph(vectors, labels, kinds, GraphSettings(n_attracting=2, n_repelling=3))
    signs = dense_signs(graph)
    assert (np.diag(signs) == 0).all()
    assert (signs[kinds < 0] == 0).all()  # negative neighbors are no anchors (reading 5)
    assert (graph.anchors == np.flatnonzero(kinds >= 0)).all()
    assert graph.n_attracting_edges == 2 * len(graph.anchors)
    assert graph.n_repelling_edges == 3 * len(graph.anchors)
    scaled = vectors * np.random.default_rng(0).uniform(0.5, 2.0, (60, 1))
    rescaled = signed_graph(scaled, labels, kinds, GraphSettings(n_attracting=2, n_repelling=3))
    assert (dense_signs(rescaled) == signs).all()
    order = np.random.default_rng(1).permutation(60)
    shuffled = dense_signs(
        signed_graph(vectors[order], labels[order], kinds[order], GraphSettings(n_attracting=2, n_repelling=3))
    )
    assert (shuffled == signs[np.ix_(order, order)]).all()


def test_relatives_do_not_attract():
    vectors = circle(ON_A_CIRCLE)
    labels = np.array([0, 0, 0, 1, 0, 1])
    patients = np.array([7, 7, 8, 9, 8, 9])
    kinds = np.zeros(6, dtype=np.int8)
    settings = GraphSettings(skip_relatives=True)
    signs = dense_signs(signed_graph(vectors, labels, kinds, settings, relatives=patients))
    assert signs[0, 1] == 0
    assert signs[0, 2] == 1
    assert (signs[3] == 1).sum() == 0  # the only other malignant mass is the same patient's
    with pytest.raises(ValueError, match="`relatives` must be given"):
        signed_graph(vectors, labels, kinds, GraphSettings(skip_relatives=True))


@pytest.mark.usefixtures("unchecked_shapes")
def test_refuses_what_it_cannot_connect():
    vectors, labels, kinds = random_points(0, 10, 3)
    with pytest.raises(ValueError, match="one entry a point"):
        signed_graph(vectors, labels[:9], kinds)
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        signed_graph(vectors, labels, kinds)
