"""Signed graph loss and classification loss (Eqs. 4-5), for PyTorch; training adds them (Eq. 6)."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, sparray, spmatrix
from torch import Tensor, nn
from torch.nn import functional

from diagnet.distance import Distance
from diagnet.graph import SignedGraph

Reduction = Literal["mean", "sum"]
Signs: TypeAlias = SignedGraph | Tensor | sparray | spmatrix
IndicesTuple: TypeAlias = Sequence[Tensor | ArrayLike]

_SHORTEST = 1e-36  # rows of smaller numbers count as zeros: their gradient would overflow float32


def signed_graph_loss(
    embeddings: Float[Tensor, "point feature"],
    signs: Signs,
    *,
    margin: float = 1.0,
    distance: Distance = "cosine",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Signed graph regularizer J_g (Eq. 4).

    J_g = sum over attracting edges of dist(h_i, h_j) + sum over repelling edges of max(0, m - dist(h_i, h_j)).

    Args:
        embeddings: h(x_i), any scale: both distances look at directions only.
        signs: a `SignedGraph`; or an (n, n) dense tensor, sparse tensor or scipy sparse array of -1, 0, +1, whose rows
            are anchors.
        margin: m, in units of the distance.
        distance: "cosine" (1 - cos, in [0, 2]) or "angular" (arccos(cos) / pi, in [0, 1]).
        reduction: "mean" divides by the number of anchors, rows with an edge (reading 8); "sum" is as in the paper.

    Returns:
        A scalar >= 0, in float32 at least; 0 where there is no edge.

    Raises:
        ValueError: `signs` is not (n, n), or holds another value than -1, 0 and +1.
    """
    anchors, others, values = _edges(signs, embeddings)
    return edge_loss(
        embeddings, embeddings, anchors, others, values, margin=margin, distance=distance, reduction=reduction
    )


def edge_loss(
    anchor_embeddings: Float[Tensor, "anchor feature"],
    other_embeddings: Float[Tensor, "other feature"],
    anchors: Int[Tensor, "edge"],
    others: Int[Tensor, "edge"],
    values: Float[Tensor, "edge"] | Int[Tensor, "edge"],
    *,
    margin: float = 1.0,
    distance: Distance = "cosine",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Eq. 4 over a list of edges from `anchors` (rows of one table) to `others` (rows of another)."""
    dist = _edge_distance(anchor_embeddings, other_embeddings, anchors, others, distance)
    terms = torch.where(values > 0, dist, functional.relu(margin - dist))  # Eq. 4
    total = terms.sum()
    if reduction == "sum":
        return total
    return total / max(1, int(torch.unique(anchors).numel()))


def classification_loss(logits: Float[Tensor, "point class"], labels: Int[Tensor, "point"]) -> Float[Tensor, ""]:
    """Cross-entropy J_l (Eq. 5), mean over the points.

    A label of -1 leaves its point out; -2 asks for even odds of all classes (reading 7).
    """
    logits = logits.float()
    total = functional.cross_entropy(logits, labels.clamp_min(-1), ignore_index=-1, reduction="sum")
    total = total - (functional.log_softmax(logits, dim=1).mean(dim=1) * (labels == -2)).sum()
    return total / (labels != -1).sum().clamp_min(1)  # Eq. 5


class SignedGraphLoss(nn.Module):
    """`signed_graph_loss` as a module, also callable the way pytorch-metric-learning calls its losses.

    Example:
        >>> loss = SignedGraphLoss(margin=1.0)
        >>> loss(embeddings, signs)  # doctest: +SKIP
        >>> loss(embeddings, labels, indices_tuple=miner(embeddings, labels))  # doctest: +SKIP
    """

    def __init__(self, margin: float = 1.0, distance: Distance = "cosine", reduction: Reduction = "mean") -> None:
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(f"`distance` must be 'cosine' or 'angular', got {distance!r}")
        if reduction not in get_args(Reduction):
            raise ValueError(f"`reduction` must be 'mean' or 'sum', got {reduction!r}")
        self.margin = margin
        self.distance: Distance = distance
        self.reduction: Reduction = reduction

    def forward(
        self,
        embeddings: Float[Tensor, "point feature"],
        signs: Signs | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Float[Tensor, "reference feature"] | None = None,
        ref_labels: Int[Tensor, "reference"] | None = None,
        *,
        labels: Int[Tensor, "point"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute Eq. 4.

        Args:
            embeddings: h(x_i).
            signs: the signed graph, as in `signed_graph_loss`; or the (n,) labels, as pytorch-metric-learning passes
                them.
            indices_tuple: (anchors, attracted, anchors, repelled) from a pair miner, or (anchors, attracted, repelled)
                from a triplet miner: tensors, arrays or lists of whole numbers; wins over `signs` and labels.
            ref_emb: what the second indices of `indices_tuple` point into; `embeddings` by default.
            ref_labels: labels of `ref_emb`, where pairs come from labels alone.
            labels: (n,), optional: without `indices_tuple`, equal labels attract and others repel.

        Raises:
            ValueError: neither a graph, nor labels, nor an `indices_tuple` came, or the one that came cannot be used.
        """
        if isinstance(signs, Tensor) and signs.layout == torch.strided and signs.ndim == 1:
            signs, labels = None, signs
        reference = embeddings if ref_emb is None else ref_emb
        if indices_tuple is not None:
            parts = _indices(indices_tuple, embeddings.device)
            anchors, attracted, repelled = parts[0], parts[1], parts[-1]
            repelled_from = parts[2] if len(parts) == 4 else anchors
            edges = (
                torch.cat([anchors, repelled_from]),
                torch.cat([attracted, repelled]),
                torch.cat([torch.ones_like(anchors), -torch.ones_like(repelled_from)]),
            )
        elif signs is not None:
            edges = _edges(signs, embeddings)
        elif labels is not None:
            edges = _label_edges(labels, ref_labels if ref_emb is not None else None)
        else:
            raise ValueError("`signs`, `labels` or `indices_tuple` must be given, got none of them")
        return edge_loss(
            embeddings,
            reference,
            *edges,
            margin=self.margin,
            distance=self.distance,
            reduction=self.reduction,
        )


def _edges(signs: Signs, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the non-zero entries of an (n, n) graph over n embeddings."""
    if not isinstance(signs, Tensor):
        matrix = coo_array(signs.signs if isinstance(signs, SignedGraph) else signs)
        shape = matrix.shape
        rows, columns = (torch.from_numpy(part.astype("int64")) for part in matrix.coords)
        values = torch.from_numpy(matrix.data)
    elif signs.layout == torch.strided:
        shape = tuple(signs.shape)
        rows, columns = torch.atleast_2d(signs).nonzero(as_tuple=True)
        values = torch.atleast_2d(signs)[rows, columns]
    else:
        sparse = signs.to_sparse(layout=torch.sparse_coo).coalesce()
        shape = tuple(sparse.shape)
        (rows, columns), values = sparse.indices(), sparse.values()
    if shape != (len(embeddings), len(embeddings)):
        raise ValueError(f"`signs` must be ({len(embeddings)}, {len(embeddings)}), got {tuple(shape)}")
    strange = values[(values != 0) & (values != 1) & (values != -1)]
    if len(strange):
        raise ValueError(f"`signs` must hold -1, 0 and +1 alone, got {strange[0].item()}")
    present = values != 0
    device = embeddings.device
    return rows[present].to(device), columns[present].to(device), values[present].to(device)


def _indices(given: IndicesTuple, device: torch.device) -> list[Tensor]:
    """The parts of an `indices_tuple` as indices; an empty list is one of no pairs."""
    if len(given) not in (3, 4):
        raise ValueError(f"`indices_tuple` must have 3 or 4 parts, got {len(given)}")
    parts = [torch.as_tensor(part, device=device) for part in given]
    if any(part.ndim != 1 or (len(part) and (part.is_floating_point() or part.dtype == torch.bool)) for part in parts):
        raise ValueError("`indices_tuple` must hold whole numbers in one dimension, got others")
    return [part.long() for part in parts]


def _label_edges(labels: Tensor, ref_labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs: equal labels attract, others repel; a point is not paired with itself."""
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)[None, :]
    values = same.long() * 2 - 1
    if ref_labels is None:
        values.fill_diagonal_(0)
    rows, columns = values.nonzero(as_tuple=True)
    return rows, columns, values[rows, columns]


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length one, however long they were; a row of zeros has no direction and stays zero."""
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    # First by a power of two, which changes no digit, so that no square over- or underflows.
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    exponents = torch.where(largest < _SHORTEST, 0, torch.frexp(largest).exponent)
    vectors = vectors * torch.exp2(-exponents.to(vectors.dtype))
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, 1.0)


def _edge_distance(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor, distance: Distance) -> Tensor:
    """dist(h_i, h_j) of each edge; a vector without direction is at right angles to everything."""
    left_units = _unit(left)
    a, b = left_units[rows], (left_units if right is left else _unit(right))[columns]
    if distance == "cosine":
        return 1.0 - (a * b).sum(dim=1)
    # 2 atan2(|a - b|, |a + b|) is the angle without arccos's infinite slope at equal rows (and at opposite ones).
    angle = 2.0 * torch.atan2(torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(a + b, dim=1))
    return angle / torch.pi
