"""Signed nearest-neighbor graph over originals and their adversarial neighbors (Sec. 3.2, Eq. 3)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int8
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.sparse import csr_array
from torch import Tensor

from diagnet.arrays import Kinds, Labels, Vectors

_BLOCK = 16_384  # columns compared at once: a block of anchors x columns stays near 128 MB
_ANCHORS = 2_048


class GraphSettings(BaseModel, frozen=True, extra="forbid"):
    """How the signed graph is built (readings 3-6)."""

    n_attracting: int = Field(1, ge=0, description="n+: nearest points of the own class an anchor is drawn to")
    n_repelling: int = Field(4, ge=0, description="n-: nearest points an anchor is pushed from")
    space: Literal["image", "embedding"] = Field(
        "image",
        description="where distances are taken: grey values (once) or the network's embedding (refreshed)",
    )
    refresh_epochs: int = Field(5, ge=1, description="with space = embedding: epochs between two graphs")
    skip_relatives: bool = Field(
        False, description="never attract to a point of the same patient, a descendant included (reading 5)"
    )


@dataclass(frozen=True, slots=True)
class SignedGraph:
    """A signed graph: `signs[i, j]` is +1 where anchor i is attracted to j, -1 where it is repelled (Eq. 3)."""

    signs: csr_array

    @property
    def n_points(self) -> int:
        """Number of points N."""
        return int(self.signs.shape[0])

    @property
    def anchors(self) -> Int[np.ndarray, "anchor"]:
        """Rows with at least one edge."""
        return np.flatnonzero(np.diff(self.signs.indptr)).astype(np.int64)

    @property
    def n_attracting_edges(self) -> int:
        """How many edges attract."""
        return int((self.signs.data > 0).sum())

    @property
    def n_repelling_edges(self) -> int:
        """How many edges repel."""
        return int((self.signs.data < 0).sum())


def signed_graph(
    vectors: Vectors,
    labels: Labels,
    kinds: Kinds,
    settings: GraphSettings = GraphSettings(),  # noqa: B008 -- frozen, so sharing it is safe
    *,
    relatives: Int[np.ndarray, "point"] | None = None,
) -> SignedGraph:
    """Connect each anchor with its nearest points of either sign (Eq. 3).

    phi_ij = +1 for x_j among the n+ nearest of {X_c, X_c+}, -1 for x_j among the n- nearest of
    {X_-c, X_c-}, c the class of x_i, by cosine distance. Anchors are originals and positive neighbors: a negative
    neighbor as an anchor would be drawn to and pushed from the same points (reading 5). A point is never its
    own neighbor. The search is exact, in blocks: the N x N matrix is never made.

    Args:
        vectors: one row a point; only directions matter.
        labels: class of each point, a negative neighbor's being the class it was made from.
        kinds: 0 original, +1 positive neighbor, -1 negative neighbor.
        settings: numbers of edges and options.
        relatives: a group (patient) for each point; read when `settings.skip_relatives` is on.

    Returns:
        The graph; an anchor has fewer edges than asked for only where its pool has fewer points.

    Raises:
        ValueError: lengths differ, or a vector is not finite.
    """
    n_points = len(vectors)
    if not len(labels) == len(kinds) == n_points:
        raise ValueError(
            f"`labels` and `kinds` must have one entry a point, got {len(labels)} and {len(kinds)} for {n_points}"
        )
    if settings.skip_relatives and relatives is None:
        raise ValueError("`relatives` must be given when `skip_relatives` is on, got None")
    if not np.isfinite(vectors).all():
        raise ValueError("`vectors` must be finite, got NaN or infinity")
    units = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    norms = torch.linalg.vector_norm(units, dim=1, keepdim=True)
    units = units / torch.where(norms > 0, norms, 1.0)

    rows, columns, signs = [], [], []
    for label in np.unique(labels):
        own = (labels == label) & (kinds >= 0)  # {X_c, X_c+}: the anchors, and what attracts them
        members, others = np.flatnonzero(own), np.flatnonzero(~own)  # the rest is {X_-c, X_c-} (Eq. 3)
        groups = relatives if settings.skip_relatives and relatives is not None else np.arange(n_points)
        for pool, n_edges, sign, excluded in (
            (members, settings.n_attracting, 1, groups),
            (others, settings.n_repelling, -1, None),
        ):
            found, valid = _nearest(units, members, pool, n_edges, excluded)
            rows.append(np.repeat(members, found.shape[1])[valid.ravel()])
            columns.append(found.ravel()[valid.ravel()])
            signs.append(np.full(int(valid.sum()), sign, dtype=np.int8))
    matrix = csr_array(
        (np.concatenate(signs), (np.concatenate(rows), np.concatenate(columns))), shape=(n_points, n_points)
    )
    matrix.sort_indices()
    return SignedGraph(matrix)


def _nearest(
    units: Float32[Tensor, "point feature"],
    anchors: NDArray[np.int64],
    pool: NDArray[np.int64],
    n_nearest: int,
    groups: Int[np.ndarray, "point"] | None,
) -> tuple[Int[np.ndarray, "anchor k"], Bool[np.ndarray, "anchor k"]]:
    """Indices of each anchor's nearest points of `pool`, outside its own group, and which of them exist."""
    k = min(n_nearest, len(pool))
    indices = np.zeros((len(anchors), k), dtype=np.int64)
    valid = np.zeros((len(anchors), k), dtype=bool)
    if k == 0:
        return indices, valid
    group_of = None if groups is None else torch.from_numpy(np.ascontiguousarray(groups))
    for start in range(0, len(anchors), _ANCHORS):
        rows = torch.from_numpy(anchors[start : start + _ANCHORS])
        queries = units[rows]
        best = torch.full((len(rows), 0), -torch.inf)
        best_at = torch.zeros((len(rows), 0), dtype=torch.int64)
        for left in range(0, len(pool), _BLOCK):
            block = torch.from_numpy(pool[left : left + _BLOCK])
            similarity = queries @ units[block].T
            if group_of is not None:
                similarity.masked_fill_(group_of[rows][:, None] == group_of[block][None, :], -torch.inf)
            top = similarity.topk(min(k, len(block)), dim=1)
            best = torch.cat([best, top.values], dim=1)
            best_at = torch.cat([best_at, block[top.indices]], dim=1)
            keep = best.topk(min(k, best.shape[1]), dim=1)
            best, best_at = keep.values, best_at.gather(1, keep.indices)
        stop = start + len(rows)
        indices[start:stop] = best_at.numpy()
        valid[start:stop] = torch.isfinite(best).numpy()
    return indices, valid


def dense_signs(graph: SignedGraph) -> Int8[np.ndarray, "point point"]:
    """The graph as a full matrix, for small graphs and tests."""
    return np.asarray(graph.signs.todense(), dtype=np.int8)
