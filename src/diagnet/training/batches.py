"""Mini-batches for the signed graph loss: who is passed through the network, and which edges are seen."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Int8
from numpy.typing import NDArray
from scipy.sparse import csr_array

from diagnet.graph import SignedGraph

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
