import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.reducers import SumReducer
from scipy.sparse import csr_array

import reference
from diagnet.graph import signed_graph
from diagnet.losses import SignedGraphLoss, classification_loss, edge_loss, signed_graph_loss


def random_case(seed, n=8, d=5, positive=False):
    rng = np.random.default_rng(seed)
    H = rng.normal(size=(n, d))
    signs = rng.integers(-1, 2, (n, n))
    np.fill_diagonal(signs, 0)
    return (np.abs(H) if positive else H), signs


def angular(a, b):
    return np.arccos(np.clip(1 - reference.d(a, b), -1, 1)) / np.pi


def test_closed_form():
    H = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    signs = torch.tensor([[0, 1, -1], [0, 0, 0], [0, 0, 0]])
    # dist(0, 1) = 1; dist(0, 2) = 1 - 1/sqrt(2), so the repelling term is 1/sqrt(2)
    assert signed_graph_loss(H, signs, reduction="sum").item() == pytest.approx(1 + 2**-0.5)
    assert signed_graph_loss(H, signs, margin=0.2, reduction="sum").item() == pytest.approx(1.0)
    assert signed_graph_loss(H, signs, distance="angular", reduction="sum").item() == pytest.approx(0.5 + 1 - 0.25)


@pytest.mark.parametrize(("n_attracting", "n_repelling"), [(1, 4), (4, 4), (4, 1)])
def test_what_spreading_without_regard_to_class_is_worth(n_attracting, n_repelling):
    # Each of 10 anchors has its edges to points of its own: all at one place costs n-, all at right angles n+, classes
    # apart nothing. With more repelling than attracting edges J_g falls without learning (docs/evidence/graph.md).
    n = 10 * (1 + n_attracting + n_repelling)
    signs = np.zeros((n, n), dtype=np.int64)
    for anchor in range(10):
        own = 10 + anchor * (n_attracting + n_repelling)
        signs[anchor, own : own + n_attracting] = 1
        signs[anchor, own + n_attracting : own + n_attracting + n_repelling] = -1
    classes = np.zeros(n, dtype=np.int64)
    classes[(signs < 0).any(axis=0)] = 1
    for H, expected in (
        (torch.ones(n, 3), n_repelling),
        (torch.eye(n), n_attracting),
        (torch.eye(2)[classes], 0),
    ):
        found = signed_graph_loss(H, torch.from_numpy(signs)).item()
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "angular"])
@pytest.mark.parametrize("length", [1e30, 3e38, 1e-10, 1e-30, 1e-34])
def test_embeddings_of_any_length_have_a_direction(distance, length):
    # In float32 the squares of 1e30 overflow and those of 1e-30 vanish.
    H, signs = (torch.from_numpy(each) for each in random_case(3))
    H = (H / H.abs().max()).float()
    H[2] = 0  # but a row of zeros has none
    plain = signed_graph_loss(H, signs, distance=distance)
    assert 0 < plain < torch.inf
    scaled = (H * length).requires_grad_()
    found = signed_graph_loss(scaled, signs, distance=distance)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=0)
    found.backward()
    assert scaled.grad.isfinite().all()
    assert signed_graph_loss(torch.full_like(H, 1e-41), signs, distance=distance).isfinite()


def test_lengths_do_not_change_a_digit():
    H = torch.from_numpy(random_case(4)[0])
    units = H / torch.linalg.vector_norm(H, dim=1, keepdim=True)
    found = edge_loss(H, H, *(torch.tensor([each]) for each in (0, 1, 1)))
    assert torch.equal(found, 1 - (units[0] * units[1]).sum())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), margin=st.floats(0.05, 2.0))
def test_equals_the_slow_reference(seed, margin):
    H, signs = random_case(seed)
    for name, dist in (("cosine", reference.d), ("angular", angular)):
        found = signed_graph_loss(
            torch.from_numpy(H), torch.from_numpy(signs), margin=margin, distance=name, reduction="sum"
        )
        assert found.item() == pytest.approx(reference.J_g(H, signs, margin, dist), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lam=st.floats(0, 3))
def test_both_losses_make_the_joint_one_of_the_slow_reference(seed, lam):
    H, signs = random_case(seed)
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(8, 3)), rng.integers(-1, 3, 8)
    labels[0] = 1
    parts = [torch.from_numpy(part) for part in (logits, labels, H, signs)]
    found = classification_loss(*parts[:2]) + lam * signed_graph_loss(*parts[2:])
    assert found.item() == pytest.approx(reference.J(logits, labels, H, signs, lam), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "angular"])
def test_gradient(distance):
    H, signs = random_case(3)
    H = torch.from_numpy(H).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h: signed_graph_loss(h, torch.from_numpy(signs), margin=1.3, distance=distance), (H,)
    )


@pytest.mark.parametrize("distance", ["cosine", "angular"])
def test_gradients_are_finite_at_equal_opposite_and_zero_rows(distance):
    H = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    for signs in (torch.ones(5, 5), -torch.ones(5, 5)):
        H.grad = None
        signed_graph_loss(H, signs, distance=distance).backward()
        assert torch.isfinite(H.grad).all()
        assert H.grad.abs().max() < 100


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")  # PyTorch says so of all CSR tensors
def test_every_way_to_give_the_graph_gives_the_same_loss():
    H, signs = random_case(4)
    H, dense = torch.from_numpy(H), torch.from_numpy(signs)
    expected = signed_graph_loss(H, dense)
    for other in (
        dense.double(),
        dense.to(torch.int8),
        dense.to_sparse(),
        dense.float().to_sparse(layout=torch.sparse_csr),
        csr_array(signs.astype(np.int8)),
    ):
        assert torch.allclose(signed_graph_loss(H, other), expected)


def test_mean_divides_by_the_number_of_anchors():
    H, signs = random_case(5)
    signs[2:5] = 0
    H, signs = torch.from_numpy(H), torch.from_numpy(signs)
    n_anchors = int((signs != 0).any(1).sum())
    total = signed_graph_loss(H, signs, reduction="sum")
    assert torch.allclose(signed_graph_loss(H, signs) * n_anchors, total)


def test_no_edges_is_zero_and_differentiable():
    H = torch.randn(3, 2, requires_grad=True)
    loss = signed_graph_loss(H, torch.zeros(3, 3))
    loss.backward()
    assert loss.item() == 0
    assert (H.grad == 0).all()


def test_equals_contrastive_loss_of_pytorch_metric_learning():
    # Trap 7: with 1 - cos and m = 1, J_g = sum (1 - s) over attracting + sum max(0, s) over repelling edges.
    H, signs = random_case(6)
    H, signs = torch.from_numpy(H), torch.from_numpy(signs)
    a1, p = (signs > 0).nonzero(as_tuple=True)
    a2, n = (signs < 0).nonzero(as_tuple=True)
    peer = ContrastiveLoss(pos_margin=1, neg_margin=0, distance=CosineSimilarity(), reducer=SumReducer())
    labels = torch.arange(len(H))
    expected = peer(H, labels, indices_tuple=(a1, p, a2, n))
    assert signed_graph_loss(H, signs, reduction="sum").item() == pytest.approx(expected.item(), rel=1e-6)
    module = SignedGraphLoss(reduction="sum")
    assert module(H, labels, indices_tuple=(a1, p, a2, n)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_equals_the_signed_laplacian_while_every_hinge_is_active():
    # Trap 7: tr(H^T L H) + m |E-| with unit rows, L = D - A, A = Phi symmetrized by halves, D its row sums.
    H, signs = random_case(7, positive=True)  # all cosines are positive: every hinge with m = 1 is active
    units = H / np.linalg.norm(H, axis=1, keepdims=True)
    A = (signs + signs.T) / 2
    L = np.diag(A.sum(axis=1)) - A
    expected = np.trace(units.T @ L @ units) + (signs < 0).sum()
    found = signed_graph_loss(torch.from_numpy(H), torch.from_numpy(signs), reduction="sum")
    assert found.item() == pytest.approx(expected)


def test_module_takes_graphs_labels_miners_and_references():
    H = torch.randn(8, 4)
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    loss = SignedGraphLoss()
    same = (labels[:, None] == labels).long() * 2 - 1
    same.fill_diagonal_(0)
    assert torch.allclose(loss(H, labels), loss(H, same))
    assert torch.allclose(loss(H, labels=labels), loss(H, same))
    assert torch.isfinite(loss(H, labels, indices_tuple=MultiSimilarityMiner()(H, labels)))
    pairs = (torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), torch.tensor([2]))
    bank = torch.randn(5, 4)
    alone = edge_loss(H, bank, torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([1, -1]))
    assert torch.allclose(loss(H, indices_tuple=pairs, ref_emb=bank), alone)


def test_laws():
    H, signs = random_case(8)
    H, signs = torch.from_numpy(H), torch.from_numpy(signs)
    loss = signed_graph_loss(H, signs)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert torch.allclose(signed_graph_loss(H @ rotation, signs), loss)
    assert torch.allclose(signed_graph_loss(H * torch.rand(8, 1, dtype=torch.float64).add(0.1), signs), loss)
    assert signed_graph_loss(H, signs, margin=1.5) >= loss
    assert loss >= 0


def test_half_precision_is_summed_in_float32():
    H, signs = random_case(9)
    loss = signed_graph_loss(torch.from_numpy(H).to(torch.bfloat16), torch.from_numpy(signs))
    assert loss.dtype == torch.float32


def test_points_without_a_label_are_left_out():
    logits = torch.randn(4, 2)
    labels = torch.tensor([0, -1, 1, -1])
    assert torch.allclose(classification_loss(logits, labels), classification_loss(logits[[0, 2]], labels[[0, 2]]))
    assert classification_loss(logits, torch.full((4,), -1)).item() == 0


def test_points_of_no_class_ask_for_even_odds():
    logits = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, -2, 1, -1])
    one_hot = torch.tensor([[1, 0], [0.5, 0.5], [0, 1], [0, 0]])
    expected = -(one_hot * torch.log_softmax(logits.float(), dim=1)).sum() / 3
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    even = torch.zeros(1, 2, requires_grad=True)
    classification_loss(even, torch.tensor([-2])).backward()
    assert even.grad.abs().max() == 0


@pytest.mark.usefixtures("unchecked_shapes")
def test_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match=r"`signs` must be \(4, 4\), got \(3, 3\)"):
        signed_graph_loss(torch.randn(4, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="must be given"):
        SignedGraphLoss()(torch.randn(4, 2))
    with pytest.raises(ValueError, match="`distance` must be"):
        SignedGraphLoss(distance="euclidean")
    with pytest.raises(ValueError, match="`reduction` must be"):
        SignedGraphLoss(reduction="max")


def test_triplets_are_pairs_that_share_their_anchor():
    """The 3-tuples of pytorch-metric-learning's triplet miners."""
    H, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 1, 1, 1])
    a, p, n = torch.tensor([0, 0, 3]), torch.tensor([1, 2, 4]), torch.tensor([3, 4, 1])
    loss = SignedGraphLoss(reduction="sum")
    assert torch.equal(loss(H, labels, (a, p, n)), loss(H, labels, (a, p, a, n)))


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor], ids=["lists", "numpy", "tensors"])
@pytest.mark.parametrize("parts", [([0, 1], [1, 0], [2, 2]), ([0, 1], [1, 0], [0, 1], [2, 2])], ids=["3", "4"])
def test_indices_may_be_lists_arrays_or_tensors(kind, parts):
    H = torch.from_numpy(random_case(3, n=3)[0])
    signs = torch.tensor([[0, 1, -1], [1, 0, -1], [0, 0, 0]])
    found = SignedGraphLoss()(H, indices_tuple=tuple(kind(part) for part in parts))
    assert found.item() == pytest.approx(signed_graph_loss(H, signs).item(), abs=1e-12)


@pytest.mark.parametrize("kind", [csr_array, torch.tensor, lambda rows: torch.tensor(rows).to_sparse()])
def test_weights_between_the_signs_are_refused_not_rounded(kind):
    signs = kind([[0, 0.5], [0, 0]])
    with pytest.raises(ValueError, match=r"`signs` must hold -1, 0 and \+1 alone, got 0.5"):
        signed_graph_loss(torch.eye(2), signs)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0], [1]), "must have 3 or 4 parts, got 2"),
        (([0.5], [1], [2]), "must hold whole numbers"),
        (([[0]], [1], [2]), "must hold whole numbers"),
    ],
)
def test_indices_that_are_none_are_told(parts, message):
    with pytest.raises(ValueError, match=f"`indices_tuple` {message}"):
        SignedGraphLoss()(torch.eye(3), indices_tuple=parts)


def test_the_loss_takes_a_signed_graph():
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    graph = signed_graph(vectors, torch.arange(12) % 2)
    assert SignedGraphLoss()(vectors, graph) == SignedGraphLoss()(vectors, graph.signs) > 0
