import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from diagnet.batches import BatchedGraphLoss, Neighborhoods, batch_loss, epoch_batches
from diagnet.graph import GraphSettings, SignedGraph, dense_signs, signed_graph
from diagnet.losses import edge_loss, signed_graph_loss
from diagnet.training.graph_term import whole_graph_term
from diagnet.training.state import TrainingSettings


@pytest.fixture
def graph():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    kinds = rng.choice([0, 0, 0, 1, -1], 40).astype(np.int8)
    return signed_graph(rng.random((40, 6)), labels, kinds, GraphSettings(n_attracting=2, n_repelling=3))


def test_each_point_comes_exactly_once_an_epoch():
    batches = epoch_batches(103, 16, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(103))
    assert {len(batch) for batch in batches} <= {14, 15}
    assert not np.array_equal(batches[0], epoch_batches(103, 16, np.random.default_rng(1))[0])


def test_edges_are_the_graphs(graph):
    signs = dense_signs(graph)
    batch = np.array([5, 17, 2, 30])
    outgoing = Neighborhoods(graph).outgoing(batch)
    found = np.zeros_like(signs)
    found[outgoing.points[outgoing.anchors], outgoing.points[outgoing.others]] = outgoing.signs
    expected = np.zeros_like(signs)
    expected[batch] = signs[batch]
    assert (found == expected).all()
    incident = Neighborhoods(graph).incident(batch)
    found = np.zeros_like(signs)
    found[incident.points[incident.anchors], incident.points[incident.others]] = incident.signs
    expected[:, batch] = signs[:, batch]
    assert (found == expected).all()
    assert len(incident.signs) == np.count_nonzero(expected)  # an edge inside the batch counts once
    assert (incident.points[:4] == batch).all()


def test_outgoing_edges_over_an_epoch_are_eq_4_with_its_gradient(graph):
    H = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    signed_graph_loss(H, graph.signs, reduction="sum").backward()
    expected, H.grad = H.grad, None
    for batch in epoch_batches(40, 7, np.random.default_rng(0)):
        edges = Neighborhoods(graph).outgoing(batch)
        rows = H[edges.points]
        ends = (torch.from_numpy(part) for part in (edges.anchors, edges.others, edges.signs))
        edge_loss(rows, rows, *ends, reduction="sum").backward()
    assert torch.allclose(H.grad, expected)


def test_incident_edges_with_a_fixed_far_end_add_up_to_the_gradient_of_eq_4(graph):
    H = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    signed_graph_loss(H, graph.signs, reduction="sum").backward()
    expected, H.grad = H.grad, None
    bank = H.detach()
    for batch in epoch_batches(40, 7, np.random.default_rng(0)):
        edges = Neighborhoods(graph).incident(batch)
        rows = torch.cat([H[batch], bank[edges.points[len(batch) :]]])
        ends = (torch.from_numpy(part) for part in (edges.anchors, edges.others, edges.signs))
        edge_loss(rows, rows, *ends, reduction="sum").backward()
    assert torch.allclose(H.grad, expected)


def terms_of_an_epoch(graph, H, bank, settings):
    """Size and J_g of each batch, as training has them; batches of unequal size, so that no weight goes unseen."""
    neighborhoods = Neighborhoods(graph)
    for batch in np.split(np.random.default_rng(0).permutation(40), [3, 10, 12, 25]):
        if settings.batching == "exact":
            edges = neighborhoods.outgoing(batch)
            passed = edges.points
        else:
            edges, passed = neighborhoods.incident(batch), batch
        term = batch_loss(
            H[passed],
            edges,
            bank,
            n_batch=len(batch),
            n_anchors=neighborhoods.n_anchors,
            margin=settings.margin,
            reduction=settings.reduction,
        )
        yield len(batch), term


@pytest.mark.parametrize("batching", ["bank", "exact"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lambda_weighs_a_batchs_j_g_as_it_weighs_the_wholes(graph, reduction, batching):
    # Reduction "mean": a batch's J_g estimates the whole one, so that their mean over an epoch's points is J_g.
    # "sum": it is a part of the whole one, so that their sum is J_g.
    settings = TrainingSettings(reduction=reduction, batching=batching, margin=0.9)
    H = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    bank = H.detach()
    whole = signed_graph_loss(H, graph.signs, margin=0.9, reduction=reduction)
    whole.backward()
    expected, H.grad = H.grad, None
    assert 0 < len(graph.anchors) < 40  # the number of anchors is not that of the points
    assert whole_graph_term(graph, bank, settings) == pytest.approx(whole.item())
    total = 0.0
    for n_batch, term in terms_of_an_epoch(graph, H, bank, settings):
        share = n_batch / 40 if reduction == "mean" else 1.0
        (share * term).backward()
        total += share * term.item()
    assert torch.allclose(H.grad, expected)
    if batching == "exact":
        assert total == pytest.approx(whole.item())
    else:  # an edge between two batches is seen from both of its ends, and pulls at one each time
        assert whole.item() < total < 2 * whole.item()


def test_a_batch_without_edges():
    edges = Neighborhoods(SignedGraph(csr_array((4, 4), dtype=np.int8))).incident(np.array([2, 0]))
    assert len(edges.signs) == 0
    assert (edges.points == [2, 0]).all()


def test_packed_batches_hold_each_point_once_and_keep_neighbors_together(graph):
    neighborhoods = Neighborhoods(graph)
    batches = neighborhoods.packed_batches(8, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [8] * 5
    assert sorted(np.concatenate(batches)) == list(range(40))

    def edges_inside(batches):
        return sum(np.count_nonzero(dense_signs(graph)[np.ix_(batch, batch)]) for batch in batches)

    shuffled = [epoch_batches(40, 8, np.random.default_rng(seed)) for seed in range(20)]
    assert edges_inside(batches) > max(map(edges_inside, shuffled))
    again = neighborhoods.packed_batches(8, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("batching", ["bank", "packed", "exact"])
def test_one_epoch_uses_every_edge(graph, batching):
    neighborhoods, rng = Neighborhoods(graph), np.random.default_rng(0)
    batches = neighborhoods.packed_batches(7, rng) if batching == "packed" else epoch_batches(40, 7, rng)
    used = np.zeros((40, 40), bool)
    for batch in batches:
        edges = neighborhoods.outgoing(batch) if batching == "exact" else neighborhoods.incident(batch)
        used[edges.points[edges.anchors], edges.points[edges.others]] = True
    assert (used == (dense_signs(graph) != 0)).all()


def test_banked_loss_is_eq_4_once_every_point_was_seen(graph):
    H = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    whole = signed_graph_loss(H, graph, reduction="sum")
    whole.backward()
    expected, H.grad = H.grad, None
    loss = BatchedGraphLoss(graph, reduction="sum")
    batches = epoch_batches(40, 7, np.random.default_rng(0))
    first = [loss(H[batch], torch.from_numpy(batch)).item() for batch in batches]
    assert first[0] < first[-1]  # ends that nothing is known of are left out
    for batch in epoch_batches(40, 7, np.random.default_rng(1)):
        loss(H[batch], batch).backward()
    assert torch.allclose(H.grad, expected)


def test_banked_loss_by_the_mean_averages_to_eq_4_where_a_batch_is_everything(graph):
    H = torch.randn(40, 5, dtype=torch.float64)
    order = np.random.default_rng(0).permutation(40)
    assert BatchedGraphLoss(graph)(H[order], order).item() == pytest.approx(signed_graph_loss(H, graph).item())


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [0, 1, 40], [0.0, 1.0, 2.0], [-1, 0, 1]])
def test_banked_loss_refuses_an_index_that_is_none(graph, index):
    with pytest.raises(ValueError, match="`index` must"):
        BatchedGraphLoss(graph)(torch.zeros(3, 5), index)


def test_edges_among_points_are_the_graphs(graph):
    points = [5, 17, 2, 30, 9]
    assert (dense_signs(graph.among(torch.tensor(points))) == dense_signs(graph)[np.ix_(points, points)]).all()
