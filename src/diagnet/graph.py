"""Signed nearest-neighbor graph over originals and their adversarial neighbors (Sec. 3.2, Eq. 3)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise, product
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, Int8
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field, model_validator
from scipy.sparse import csr_array

from diagnet.arrays import Vectors, as_array
from diagnet.renamed import by_new_names

_BLOCK = 2_048  # points of either side of a block of products: 16 MB
_CHUNK = 4_000_000  # numbers of `vectors` made float64 at once: 32 MB
_GROUPS = 8  # similarities of which a first look takes only the largest
_SPARE = 4  # candidates kept beyond those asked for, because float32 may order near ties wrongly
_ROUNDING = 1e-5  # well above the error of a float32 cosine: what is closer is decided in float64
_NONE = -2.0  # below every cosine: there is no such point


class GraphSettings(BaseModel, frozen=True, extra="forbid"):
    """How the signed graph is built (readings 3-6)."""

    _by_new_names = model_validator(mode="before")(by_new_names)

    n_attracting: int = Field(1, ge=0, description="n+: nearest points of the own class an anchor is drawn to")
    n_repelling: int = Field(4, ge=0, description="n-: nearest points an anchor is pushed from")
    space: Literal["image", "embedding"] = Field(
        "image",
        description="where distances are taken: grey values (once) or the network's embedding (refreshed)",
    )
    refresh_epochs: int = Field(5, ge=1, description="with space = embedding: epochs between two graphs")
    skip_same_patient: bool = Field(
        False, description="never attract to another mass of the same patient, or to its neighbors (reading 5)"
    )
    skip_own_neighbors: bool = Field(
        False, description="never attract a mass to its own neighbors and stored flips, or these to each other"
    )


@dataclass(frozen=True, slots=True)
class SignedGraph:
    """A signed graph: `signs[i, j]` is +1 where anchor i is attracted to j, -1 where it is repelled (Eq. 3)."""

    signs: csr_array

    @property
    def n_points(self) -> int:
        """Number of points N: rows, and columns, of `signs`."""
        return int(self.signs.shape[0])

    @property
    def anchors(self) -> Int[np.ndarray, "anchor"]:
        """Indices of the anchors: points with at least one edge of their own."""
        return np.flatnonzero(np.diff(self.signs.indptr)).astype(np.int64)

    @property
    def n_attracting_edges(self) -> int:
        """Number of edges with sign +1, each anchor's counted by itself."""
        return int((self.signs.data > 0).sum())

    @property
    def n_repelling_edges(self) -> int:
        """Number of edges with sign -1, each anchor's counted by itself."""
        return int((self.signs.data < 0).sum())

    def among(self, points: ArrayLike) -> "SignedGraph":
        """The edges that have both of their ends among some points, in their order: what a batch sees of the graph.

        Few edges have, in shuffled batches: see `diagnet.batches.BatchedGraphLoss`.

        Args:
            points: their indices, a list, an array or a tensor.
        """
        chosen = as_array(points)
        return SignedGraph(csr_array(self.signs[chosen][:, chosen]))


def signed_graph(
    vectors: ArrayLike,
    labels: ArrayLike,
    kinds: ArrayLike | None = None,
    settings: GraphSettings = GraphSettings(),  # noqa: B008 -- frozen, so sharing it is safe
    *,
    relatives: ArrayLike | None = None,
    origins: ArrayLike | None = None,
) -> SignedGraph:
    """Connect each anchor with its nearest points of either sign (Eq. 3).

    phi_ij = +1 for x_j among the n+ nearest of {X_c, X_c+}, -1 for x_j among the n- nearest of
    {X_-c, X_c-}, c the class of x_i, by cosine distance. Anchors are originals and positive neighbors: a negative
    neighbor as an anchor would be drawn to and pushed from the same points (reading 5). A point is never its
    own neighbor; of equally near points the first is taken. The search is exact: what float32 cannot tell apart is
    decided in float64 (among the nearest few: of many copies of a point any may be taken). It goes in blocks, so that
    the N x N matrix is never made, and multiplies each pair of points once.

    Arrays, lists and PyTorch tensors are taken alike.

    Args:
        vectors: (n, features), one row a point; only directions matter.
        labels: (n,) class of each point, a negative neighbor's being the class it was made from.
        kinds: (n,) 0 original, +1 positive neighbor, -1 negative neighbor; None: all are originals.
        settings: numbers of edges and options.
        relatives: a group (patient) for each point; read when `settings.skip_same_patient` is on.
        origins: the mass each point comes from, itself or as a neighbor; read when one of the two skips is on. By
            default all points of a patient come from one mass.

    Returns:
        The graph; an anchor has fewer edges than asked for only where its pool has fewer points.

    Raises:
        ValueError: `vectors` is not (n, features), lengths differ, or a vector is not finite.
    """
    vectors, labels = as_array(vectors), as_array(labels)
    if vectors.ndim != 2:
        raise ValueError(f"`vectors` must be (points, features), got the shape {vectors.shape}")
    n_points = len(vectors)
    kinds = np.zeros(n_points, np.int8) if kinds is None else as_array(kinds)
    relatives, origins = (None if each is None else as_array(each) for each in (relatives, origins))
    if not labels.shape == kinds.shape == (n_points,):
        raise ValueError(
            f"`labels` and `kinds` must have one entry a point, got {labels.shape} and {kinds.shape} for {n_points}"
        )
    if settings.skip_same_patient and relatives is None:
        raise ValueError("`relatives` must be given when `skip_same_patient` is on, got None")
    origins = relatives if origins is None else origins
    if settings.skip_own_neighbors and origins is None:
        raise ValueError("`origins` or `relatives` must be given when `skip_own_neighbors` is on, got None")
    # Each class in a row, negative neighbors last: all pairs of two such parts then have one sign.
    classes, part = np.unique(labels, return_inverse=True)
    part = np.where(kinds >= 0, part, len(classes))
    order, n_anchors = np.argsort(part, kind="stable"), int((kinds >= 0).sum())
    borders = [*np.unique(part[order], return_index=True)[1].tolist(), n_points]
    parts = [slice(*ends) for ends in pairwise(borders)]
    units = _unit_vectors(vectors, order)

    attracting, repelling = (_Nearest(n_anchors, n) for n in (settings.n_attracting, settings.n_repelling))
    for this, other in combinations_with_replacement(parts, 2):
        if this.start >= n_anchors:
            continue  # negative neighbors are no anchors
        if this is other and settings.n_attracting > 0:  # {X_c, X_c+} (Eq. 3)
            patients = relatives[order[this]] if settings.skip_same_patient and relatives is not None else None
            masses = origins[order[this]] if origins is not None else None
            own = _search_own(units[this], settings.n_attracting, patients, masses, settings.skip_own_neighbors)
            attracting.merge(this, own, order[this])
        if this is not other and settings.n_repelling > 0:  # {X_-c, X_c-}
            found, found_back = _search_both(units[this], units[other], settings.n_repelling)
            repelling.merge(this, found, order[other])
            if other.start < n_anchors:
                repelling.merge(other, found_back, order[this])

    drawn, pushed = attracting.edges(units, order), repelling.edges(units, order)
    signs = np.repeat(np.array([1, -1], dtype=np.int8), [drawn.shape[1], pushed.shape[1]])
    matrix = csr_array((signs, np.concatenate([drawn, pushed], axis=1)), shape=(n_points, n_points))
    matrix.sort_indices()
    return SignedGraph(matrix)


class _Nearest:
    """The points found nearest to each anchor so far, nearest first, and of equally near ones the first."""

    def __init__(self, n_anchors: int, n_nearest: int) -> None:
        self._n_nearest, self._n_kept = n_nearest, n_nearest + _SPARE
        self._similarity = np.full((n_anchors, self._n_kept), _NONE, dtype=np.float32)
        self._points = np.full((n_anchors, self._n_kept), -1, dtype=np.int64)

    def offer(
        self, anchors: slice, points: slice, similarity: Float32[np.ndarray, "row column"], *, by_row: bool
    ) -> None:
        """Take in a block of products, an anchor a row or a column; each must be offered its points in their order."""
        kept, kept_points = self._similarity[anchors], self._points[anchors]
        floor = kept[:, -1]
        if floor.min() == _NONE:  # else all of the first block would pass
            floor = np.maximum(floor, _reached(similarity if by_row else similarity.T, self._n_kept))
        # One look at every product; few pass, and only those cost more.
        above = np.flatnonzero(similarity > (floor[:, None] if by_row else floor))
        row, column = np.divmod(above, similarity.shape[1])
        anchor, point = (row, column) if by_row else (column, row)

        changed = np.flatnonzero(np.bincount(anchor, minlength=len(kept)))
        value = np.concatenate([kept[changed].ravel(), similarity[row, column]])
        point = np.concatenate([kept_points[changed].ravel(), point + points.start])
        anchor = np.concatenate([np.repeat(changed, self._n_kept), anchor])
        # By anchor, then the nearest, then the first: one stable sort, as a quarter of a cosine never reaches 1 / 2.
        ranked = np.argsort(anchor - value.astype(np.float64) / 4, kind="stable")
        count = np.bincount(anchor)[changed]
        best = ranked[(count.cumsum() - count)[:, None] + np.arange(self._n_kept)]
        kept[changed], kept_points[changed] = value[best], point[best]

    def merge(self, anchors: slice, found: "_Nearest", names: Int[np.ndarray, "point"]) -> None:
        """Take in what was found for some anchors in another part, whose point i is called `names[i]`."""
        similarity = np.concatenate([self._similarity[anchors], found._similarity], axis=1)
        renamed = np.where(found._points < 0, -1, names[found._points])
        points = np.concatenate([self._points[anchors], renamed], axis=1)
        ranked = np.lexsort((points, -similarity))[:, : self._n_kept]
        self._similarity[anchors] = np.take_along_axis(similarity, ranked, axis=1)
        self._points[anchors] = np.take_along_axis(points, ranked, axis=1)

    def edges(
        self, units: Float32[np.ndarray, "point feature"], order: Int[np.ndarray, "point"]
    ) -> Int[np.ndarray, "2 edge"]:
        """Anchors and their nearest points, near ties decided in float64; row i of `units` is point `order[i]`."""
        k, place = self._n_nearest, np.argsort(order)
        close = self._similarity[:, k - 1] - self._similarity[:, k] < _ROUNDING
        unsure = np.flatnonzero(close & (self._points[:, k] >= 0)) if k > 0 else place[:0]
        for chunk in _chunks(len(unsure), self._n_kept * units.shape[1]):
            anchors = unsure[chunk]
            points = self._points[anchors]
            products = units[place[points]].astype(np.float64)
            products *= units[anchors, None]
            similarity = np.where(points < 0, _NONE, products.sum(axis=2))
            self._points[anchors] = np.take_along_axis(points, np.lexsort((points, -similarity)), axis=1)
        anchor, rank = np.nonzero(self._points[:, :k] >= 0)
        return np.stack([order[anchor], self._points[anchor, rank]])


def _search_own(
    units: Float32[np.ndarray, "point feature"],
    n_nearest: int,
    patients: Int[np.ndarray, "point"] | None,
    masses: Int[np.ndarray, "point"] | None,
    skips_own: bool,
) -> _Nearest:
    """The nearest other points of each point: none of its patient's others, or of its own mass, as asked."""
    found = _Nearest(len(units), n_nearest)
    blocks = _blocks(len(units))
    for rows, columns in combinations_with_replacement(blocks, 2):
        similarity = units[rows] @ units[columns].T
        if patients is not None or skips_own:
            own = np.False_ if masses is None else masses[rows, None] == masses[columns]
            same_patient = np.False_ if patients is None else patients[rows, None] == patients[columns]
            similarity[(own & skips_own) | (same_patient & ~own)] = -np.inf
        if rows is columns:
            np.fill_diagonal(similarity, -np.inf)
        else:
            found.offer(columns, rows, similarity, by_row=False)
        found.offer(rows, columns, similarity, by_row=True)
    return found


def _search_both(
    these: Float32[np.ndarray, "point feature"], others: Float32[np.ndarray, "other feature"], n_nearest: int
) -> tuple[_Nearest, _Nearest]:
    """The nearest of `others` for each of `these`, and the nearest of `these` for each of `others`."""
    found, found_back = _Nearest(len(these), n_nearest), _Nearest(len(others), n_nearest)
    for rows, columns in product(_blocks(len(these)), _blocks(len(others))):
        similarity = these[rows] @ others[columns].T
        found.offer(rows, columns, similarity, by_row=True)
        found_back.offer(columns, rows, similarity, by_row=False)
    return found, found_back


def _reached(similarity: Float32[np.ndarray, "anchor point"], n: int) -> Float32[np.ndarray, "anchor"]:
    """A number that the similarity of at least n points exceeds: just below the n-th largest of maxima."""
    width = similarity.shape[1] // _GROUPS
    if width < n:
        return np.full(len(similarity), _NONE, dtype=np.float32)
    maxima = similarity[:, : width * _GROUPS].reshape(len(similarity), _GROUPS, width).max(axis=1)
    best = np.partition(np.ascontiguousarray(maxima), -n, axis=1)[:, -n]
    return np.nextafter(best, np.float32(_NONE))


def _unit_vectors(vectors: Vectors, order: Int[np.ndarray, "point"]) -> Float32[np.ndarray, "point feature"]:
    """Vectors of length 1 (or 0) in the given order, the one copy of the data that is made."""
    units = np.empty(vectors.shape, dtype=np.float32)
    for chunk in _chunks(*vectors.shape):
        some = vectors[order[chunk]].astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", some, some))
        if not np.isfinite(norms).all():
            raise ValueError("`vectors` must be finite, got NaN or infinity")
        np.divide(some, np.where(norms > 0, norms, 1.0)[:, None], out=units[chunk], casting="same_kind")
    return units


def _chunks(n_rows: int, row_size: int) -> Iterator[slice]:
    """Slices of rows that hold about _CHUNK numbers each."""
    step = max(1, _CHUNK // max(1, row_size))
    return (slice(left, min(left + step, n_rows)) for left in range(0, n_rows, step))


def _blocks(n_points: int) -> list[slice]:
    """Yield slices of at most _BLOCK points that together cover all n."""
    return [slice(left, min(left + _BLOCK, n_points)) for left in range(0, n_points, _BLOCK)]


def dense_signs(graph: SignedGraph) -> Int8[np.ndarray, "point point"]:
    """The graph as a full matrix, for small graphs and tests."""
    return np.asarray(graph.signs.todense(), dtype=np.int8)
