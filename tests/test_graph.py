import numpy as np
import pytest
import torch
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


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 60),
    n_attracting=st.integers(0, 3),
    n_repelling=st.integers(0, 5),
    n_classes=st.integers(1, 4),
    block=st.sampled_from([1, 5, 16, 2_048]),
)
def test_of_equally_near_points_the_first_is_taken(seed, n, n_attracting, n_repelling, n_classes, block):
    rng = np.random.default_rng(seed)
    vectors = rng.choice([-1.0, 1.0], (n, 4)) * (rng.random((n, 1)) > 0.2)  # cosines are quarters; some are zero
    _, labels, kinds = random_points(seed, n, 1, n_classes)
    numbers = GraphSettings(n_attracting=n_attracting, n_repelling=n_repelling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_module, "_BLOCK", block)
        patch.setattr(graph_module, "_CHUNK", 10 * block)
        signs = dense_signs(signed_graph(vectors, labels, kinds, numbers))
    assert (signs == reference.phi(vectors, labels, kinds, n_attracting, n_repelling)).all()


@pytest.mark.parametrize("block", [7, 64, 2_048])
def test_near_ties_are_decided_in_float64(block, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((60, 1_024)), 5, axis=0)  # fives, nearer than float32 can tell apart
    vectors += 1e-4 * rng.standard_normal(vectors.shape)
    order = rng.permutation(len(vectors))
    vectors, labels = vectors[order], np.repeat([0, 1], 30 * 5)[order]
    monkeypatch.setattr(graph_module, "_BLOCK", block)
    signs = dense_signs(signed_graph(vectors, labels, np.zeros(300, dtype=np.int8), GraphSettings(n_repelling=0)))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    cosines = np.where(np.eye(300, dtype=bool) | (labels[:, None] != labels), -2, units @ units.T)
    assert (signs.argmax(axis=1) == cosines.argmax(axis=1)).all()


def test_blocks_and_the_kind_of_array_do_not_change_the_graph(monkeypatch, tmp_path):
    vectors, labels, kinds = random_points(3, 200, 8)
    vectors = vectors.astype(np.float32)
    relatives = np.random.default_rng(0).integers(0, 30, 200)
    numbers = GraphSettings(n_attracting=2, skip_same_patient=True, skip_own_neighbors=True)
    whole = dense_signs(signed_graph(vectors, labels, kinds, numbers, relatives=relatives))
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for block in (5, 7, 100):
        monkeypatch.setattr(graph_module, "_BLOCK", block)
        assert (dense_signs(signed_graph(mapped, labels, kinds, numbers, relatives=relatives)) == whole).all()


def test_points_that_are_all_alike():
    n = 3_000  # more than a block: a collapsed embedding must neither take for ever nor depend on blocks
    labels = np.arange(n) % 2
    graph = signed_graph(np.ones((n, 4), dtype=np.float32), labels, np.zeros(n, dtype=np.int8))
    assert (graph.signs[[0, 1, 2, n - 1]].indices == [1, 2, 3, 5, 7, 0, 2, 3, 4, 6, 0, 1, 3, 5, 7, 0, 1, 2, 4, 6]).all()


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
    settings = GraphSettings(skip_same_patient=True, skip_own_neighbors=True)
    signs = dense_signs(signed_graph(vectors, labels, kinds, settings, relatives=patients))
    assert signs[0, 1] == 0
    assert signs[0, 2] == 1
    assert (signs[3] == 1).sum() == 0  # the only other malignant mass is the same patient's
    with pytest.raises(ValueError, match="`relatives` must be given"):
        signed_graph(vectors, labels, kinds, GraphSettings(skip_same_patient=True, skip_own_neighbors=True))
    with pytest.raises(ValueError, match="`origins` or `relatives` must be given"):
        signed_graph(vectors, labels, kinds, GraphSettings(skip_own_neighbors=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), same_patient=st.booleans(), own_neighbors=st.booleans())
def test_the_patients_other_masses_and_a_mass_s_own_neighbors_are_two_settings(seed, same_patient, own_neighbors):
    vectors, labels, kinds = random_points(seed, 24, 5)
    rng = np.random.default_rng(seed)
    origins = rng.integers(0, 8, 24)  # eight masses and their neighbors, of four patients
    patients = origins // 2
    numbers = GraphSettings(n_attracting=2, skip_same_patient=same_patient, skip_own_neighbors=own_neighbors)
    signs = dense_signs(signed_graph(vectors, labels, kinds, numbers, relatives=patients, origins=origins))
    for i in np.flatnonzero(kinds >= 0):
        own, of_patient = origins == origins[i], patients == patients[i]
        allowed = ~(own & own_neighbors) & ~(of_patient & ~own & same_patient)
        allowed[i] = False
        pool = np.flatnonzero((labels == labels[i]) & (kinds >= 0) & allowed)
        nearest = sorted(pool, key=lambda j: reference.d(vectors[i], vectors[j]))[:2]
        assert sorted(nearest) == np.flatnonzero(signs[i] > 0).tolist()


def test_the_old_name_stands_for_both():
    with pytest.warns(FutureWarning, match="`skip_relatives` is now `skip_same_patient` and `skip_own_neighbors`"):
        assert GraphSettings(skip_relatives=True) == GraphSettings(skip_same_patient=True, skip_own_neighbors=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), n_patients=st.integers(1, 8))
def test_relatives_change_nothing_but_who_attracts(seed, n, n_patients):
    vectors, labels, kinds = random_points(seed, n, 5)
    patients = np.random.default_rng(seed).integers(0, n_patients, n)
    settings = GraphSettings(n_attracting=2, skip_same_patient=True, skip_own_neighbors=True)
    signs = dense_signs(signed_graph(vectors, labels, kinds, settings, relatives=patients))
    assert ((signs < 0) == (reference.phi(vectors, labels, kinds, 2, 4) < 0)).all()
    for i in np.flatnonzero(kinds >= 0):
        strangers = np.flatnonzero((labels == labels[i]) & (kinds >= 0) & (patients != patients[i]))
        nearest = sorted(strangers, key=lambda j: reference.d(vectors[i], vectors[j]))[:2]
        assert sorted(nearest) == np.flatnonzero(signs[i] > 0).tolist()


@pytest.mark.usefixtures("unchecked_shapes")
def test_refuses_what_it_cannot_connect():
    vectors, labels, kinds = random_points(0, 10, 3)
    with pytest.raises(ValueError, match="one entry a point"):
        signed_graph(vectors, labels[:9], kinds)
    for bad in (np.nan, np.inf, -np.inf):
        vectors[2, 1] = bad
        with pytest.raises(ValueError, match="must be finite"):
            signed_graph(vectors, labels, kinds)


def test_lists_and_tensors_without_kinds_are_the_graph_of_originals():
    vectors, labels = np.random.default_rng(0).random((12, 4)), np.arange(12) % 2
    expected = dense_signs(signed_graph(vectors, labels, np.zeros(12, np.int8)))
    assert (dense_signs(signed_graph(torch.from_numpy(vectors), torch.from_numpy(labels))) == expected).all()
    assert (dense_signs(signed_graph(vectors.tolist(), labels.tolist())) == expected).all()
    with pytest.raises(ValueError, match="`vectors` must be"):
        signed_graph(vectors[0], labels)
