"""Mini-batches for the signed graph loss: which points are passed through the network, and which edges are seen."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from diagnet.distance import Distance
from diagnet.graph import SignedGraph
from diagnet.losses import Reduction, edge_loss

Batching = Literal["bank", "packed", "exact"]


@dataclass(frozen=True, slots=True)
class Edges:
    """Signed edges between `n_rows` points given one after the other.

    Attributes:
        points: the points the positions below refer to; the batch's own come first.
        anchors: position of each edge's anchor in `points`.
        others: position of each edge's other end in `points`.
        signs: +1 or -1 for each edge.
    """

    points: Int[np.ndarray, "row"]
    anchors: Int[np.ndarray, "edge"]
    others: Int[np.ndarray, "edge"]
    signs: Int8[np.ndarray, "edge"]


def epoch_batches(n_points: int, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffle the points into batches of nearly equal size: each point exactly once an epoch."""
    n_batches = max(1, -(-n_points // batch_size))
    return np.array_split(rng.permutation(n_points).astype(np.int64), n_batches)


class Neighborhoods:
    """Looks up the edges of a batch in a signed graph."""

    def __init__(self, graph: SignedGraph) -> None:
        self._outgoing: csr_array = graph.signs.tocsr()
        self._incoming: csr_array = graph.signs.T.tocsr()
        self.n_anchors = len(graph.anchors)

    def packed_batches(self, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Shuffle the points so that an anchor and its graph neighbors share a batch: each point once an epoch.

        A point drawn at random brings those of its neighbors that no other has brought; such groups follow one
        another, cut into batches of the sizes of `epoch_batches`.
        """
        n_points = self._outgoing.shape[0]
        starts, others = self._outgoing.indptr, self._outgoing.indices
        is_placed = np.zeros(n_points, dtype=bool)
        order: list[int] = []
        for point in rng.permutation(n_points).tolist():
            if is_placed[point]:
                continue
            near = others[starts[point] : starts[point + 1]]
            group = [point, *near[~is_placed[near]].tolist()]
            is_placed[group] = True
            order += group
        n_batches = max(1, -(-n_points // batch_size))
        return np.array_split(np.array(order, dtype=np.int64), n_batches)

    def outgoing(self, batch: Int[np.ndarray, "point"]) -> Edges:
        """Edges whose anchor is in the batch: their sum over an epoch's batches is Eq. 4."""
        anchors, others, signs = _rows(self._outgoing, batch)
        return _edges(batch, anchors, others, signs)

    def incident(self, batch: Int[np.ndarray, "point"]) -> Edges:
        """Edges with either end in the batch.

        With the end outside the batch held fixed (a memory bank), the gradients of an epoch's batches add up to
        that of Eq. 4: each edge pulls at each of its ends once.
        """
        anchors, others, signs = _rows(self._outgoing, batch)
        ends, starts, back_signs = _rows(self._incoming, batch)
        new = ~np.isin(starts, batch)  # an edge inside the batch is already there
        return _edges(
            batch,
            np.concatenate([anchors, starts[new]]),
            np.concatenate([others, ends[new]]),
            np.concatenate([signs, back_signs[new]]),
        )


def batch_loss(
    embeddings: Float[Tensor, "row feature"],
    edges: Edges,
    bank: Float[Tensor, "point feature"],
    *,
    n_batch: int,
    n_anchors: int,
    margin: float = 1.0,
    distance: Distance = "cosine",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Estimate J_g (Eq. 4) from a batch's edges; an end that was not passed through the network is the bank's, fixed.

    Args:
        embeddings: of the first of the edges' points, with gradient.
        edges: of the batch.
        bank: last seen embedding of each point.
        n_batch: points of the batch itself.
        n_anchors: anchors of the whole graph.
        margin: as in `signed_graph_loss`.
        distance: as in `signed_graph_loss`.
        reduction: as in `signed_graph_loss`.
    """
    outside = torch.from_numpy(edges.points[len(embeddings) :]).to(bank.device)
    table = torch.cat([embeddings, bank[outside]])
    ends = (torch.from_numpy(part).to(bank.device) for part in (edges.anchors, edges.others, edges.signs))
    total = edge_loss(table, table, *ends, margin=margin, distance=distance, reduction="sum")
    if reduction == "sum":
        return total
    # The batch's fraction of the anchors: an epoch's steps then average to J_g over the number of anchors.
    return total * (len(bank) / (n_batch * max(1, n_anchors)))


class BatchedGraphLoss(nn.Module):
    """J_g (Eq. 4) over shuffled mini-batches in which nearly no edge has both of its ends.

    It keeps the last embedding of each point (a memory bank), and takes from there the ends that a batch does not
    have. So every edge counts, at no further pass through the network. Ends never seen so far are left out.

    Args:
        graph: over all training points.
        margin: as in `signed_graph_loss`.
        distance: as in `signed_graph_loss`.
        reduction: "mean": the average over an epoch's batches is J_g; "sum": their sum is.

    Example:
        >>> graph_loss = BatchedGraphLoss(signed_graph(vectors, labels))  # doctest: +SKIP
        >>> for images, labels, index in loader:  # doctest: +SKIP
        ...     embeddings = body(images)
        ...     loss = cross_entropy(head(embeddings), labels) + 0.05 * graph_loss(embeddings, index)
    """

    bank: Tensor | None
    is_known: Tensor
    _neighborhoods: Neighborhoods

    def __init__(
        self,
        graph: SignedGraph,
        *,
        margin: float = 1.0,
        distance: Distance = "cosine",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.margin, self.distance, self.reduction = margin, distance, reduction
        self._neighborhoods, self._n_points = Neighborhoods(graph), graph.n_points
        self.register_buffer("bank", None)
        self.register_buffer("is_known", torch.zeros(graph.n_points, dtype=torch.bool))

    def forward(self, embeddings: Float[Tensor, "row feature"], index: ArrayLike | Tensor) -> Float[Tensor, ""]:
        """Estimate J_g and remember the batch's embeddings.

        Args:
            embeddings: h(x_i) of the batch, with gradient.
            index: which points of the graph they are, each at most once.

        Raises:
            ValueError: `index` has another length, names a point twice, or one that the graph does not have.
        """
        batch = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if batch.shape != (len(embeddings),) or batch.dtype.kind not in "iu":
            raise ValueError(
                f"`index` must be {len(embeddings)} whole numbers, got {batch.dtype} of shape {batch.shape}"
            )
        if len(np.unique(batch)) < len(batch):
            raise ValueError("`index` must name each point once, got one of them twice")
        if len(batch) and not 0 <= batch.min() <= batch.max() < self._n_points:
            raise ValueError(f"`index` must lie in 0 to {self._n_points - 1}, got {batch.min()} to {batch.max()}")
        if self.bank is None:
            self.bank = embeddings.new_zeros((self._n_points, embeddings.shape[1]))
        batch = batch.astype(np.int64)
        place = torch.from_numpy(batch).to(self.bank.device)
        self.bank[place], self.is_known[place] = embeddings.detach(), True
        edges = self._neighborhoods.incident(batch)
        known = self.is_known.cpu().numpy()[edges.points]
        kept = known[edges.anchors] & known[edges.others]
        edges = Edges(edges.points, edges.anchors[kept], edges.others[kept], edges.signs[kept])
        return batch_loss(
            embeddings,
            edges,
            self.bank,
            n_batch=max(1, len(batch)),
            n_anchors=self._neighborhoods.n_anchors,
            margin=self.margin,
            distance=self.distance,
            reduction=self.reduction,
        )


def _rows(matrix: csr_array, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Row, column and value of each entry in the given rows."""
    picked = matrix[rows].tocoo()
    return rows[picked.row], picked.col.astype(np.int64), picked.data.astype(np.int8)


def _edges(
    batch: NDArray[np.int64], anchors: NDArray[np.int64], others: NDArray[np.int64], signs: NDArray[np.int8]
) -> Edges:
    """Renumber point indices into positions, the batch's points first."""
    outside = np.setdiff1d(np.concatenate([anchors, others]), batch)
    points = np.concatenate([batch, outside])
    order = np.argsort(points)
    ends = order[np.searchsorted(points, np.concatenate([anchors, others]), sorter=order)]
    return Edges(points, ends[: len(anchors)], ends[len(anchors) :], signs)
