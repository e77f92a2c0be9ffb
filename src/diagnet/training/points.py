"""The set a network is trained on: originals, in memory or on disk, and their adversarial neighbors."""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int
from numpy.typing import NDArray

from diagnet.arrays import Images, Kinds, Labels

_BLOCK = 1_024  # images read at once where all are needed


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around masses, to draw regions from.

    Attributes:
        images: wider regions, in [0, 1] over the image's breast.
        boxes: (x0, y0, x1, y1) of each mass in fractions of its wider region's sides; NaN: it is a region itself.
        own_range: regions drawn are scaled to their own range (reading 16), as those of `Points.images` were.
    """

    images: Float32[np.ndarray, "source wide wide"]
    boxes: Float32[np.ndarray, "source 4"]
    own_range: bool


@dataclass(frozen=True, slots=True)
class Moves:
    """Neighbors that are feature vectors: an original's features, whatever they are by now, and what is added to them.

    Attributes:
        parents: which of the originals each is a move of.
        features: what is added.
    """

    parents: Int[np.ndarray, "neighbor"]
    features: Float32[np.ndarray, "neighbor feature"]


@dataclass(frozen=True, slots=True)
class Points:
    """What is trained on: originals, then their adversarial neighbors.

    Attributes:
        images: (n, H, W) in [0, 1] of the points; with `rows`, a larger array (a memory map, say) that originals are
            read from when they are needed.
        labels: class of each point; a negative neighbor's is the class it was made from.
        kinds: 0 original, +1 positive neighbor, -1 negative neighbor; originals come first where `rows` is given.
        relatives: patient of each point as a number, for `graph.skip_same_patient`.
        rows: where each original lies in `images`; None: `images` holds every point in order.
        neighbors: images of the points after the originals; read where `rows` is given.
        moves: what the points after the originals are where they are no images; with `rows` alone.
        surroundings: of each of `images`, where regions are drawn while training; their sides are a multiple of the
            images'.
        origins: the mass each point comes from, for `graph.skip_own_neighbors`; None: each patient has one.
        lesions: which lesion each point shows, for edges that are known to be right; None: not known.
    """

    images: Float32[np.ndarray, "source height width"]
    labels: Labels
    kinds: Kinds
    relatives: Int[np.ndarray, "point"]
    rows: Int[np.ndarray, "original"] | None = None
    neighbors: Float32[np.ndarray, "neighbor height width"] | None = None
    moves: Moves | None = None
    surroundings: Surroundings | None = None
    origins: Int[np.ndarray, "point"] | None = None
    lesions: Int[np.ndarray, "point"] | None = None

    def __len__(self) -> int:
        """Return how many points there are: originals and their neighbors."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def take(self, points: Int[np.ndarray, "point"]) -> Float32[np.ndarray, "point h w"]:
        """Images of some points, read now where they are on disk; of a move of features, its original's."""
        if self.rows is None:
            return np.asarray(self.images[points], dtype=np.float32)
        points = self._shown(points)
        found = np.empty((len(points), *self.image_shape), dtype=np.float32)
        original = points < len(self.rows)
        found[original] = read_rows(self.images, self.rows[points[original]])
        if self.neighbors is not None and not original.all():
            found[~original] = self.neighbors[points[~original] - len(self.rows)]
        return found

    def take_surroundings(
        self, points: Int[np.ndarray, "point"]
    ) -> tuple[Float32[np.ndarray, "point wide wide"], Float32[np.ndarray, "point 4"]]:
        """Surroundings of some points and the boxes in them; a neighbor is its own, enlarged, and has no box.

        Raises:
            ValueError: there are none.
        """
        if self.surroundings is None:
            raise ValueError("`surroundings` must be given to draw regions from them, got None")
        rows = np.arange(len(self)) if self.rows is None else self.rows
        points = self._shown(points)
        side = self.surroundings.images.shape[1]
        found = np.empty((len(points), side, side), dtype=np.float32)
        boxes = np.full((len(points), 4), np.nan, dtype=np.float32)
        original = points < len(rows)
        found[original] = read_rows(self.surroundings.images, rows[points[original]])
        boxes[original] = self.surroundings.boxes[rows[points[original]]]
        if not original.all():
            regions = self.take(points[~original])
            times = side // regions.shape[1]
            found[~original] = regions.repeat(times, axis=1).repeat(times, axis=2)
        return found, boxes

    def take_moves(self, points: Int[np.ndarray, "point"]) -> Float32[np.ndarray, "point feature"] | None:
        """What is added to the features of some points, 0 to originals'; None where no neighbor is a move."""
        if self.moves is None or self.rows is None:
            return None
        found = np.zeros((len(points), self.moves.features.shape[1]), dtype=np.float32)
        moved = points >= len(self.rows)
        found[moved] = self.moves.features[points[moved] - len(self.rows)]
        return found

    def targets(self, negative_label: str, n_classes: int) -> Labels:
        """Labels for Eq. 5: -1 for points that are left out of it, -2 for those of no class (reading 7)."""
        replaced = {
            "none": np.full_like(self.labels, -1),
            "even": np.full_like(self.labels, -2),
            "own": self.labels,
            "other": (self.labels + 1) % n_classes,
        }
        return np.where(self.kinds < 0, replaced[negative_label], self.labels)

    def intensity(self) -> tuple[float, float]:
        """Mean and standard deviation of the originals' grey values."""
        n_values, total, squares = 0, 0.0, 0.0
        for block in self._blocks(np.flatnonzero(self.kinds == 0)):
            n_values += block.size
            total += float(block.sum(dtype=np.float64))
            squares += float(np.square(block, dtype=np.float64).sum())
        mean = total / n_values
        return mean, max(squares / n_values - mean**2, 0.0) ** 0.5

    def sha256(self) -> str:
        """Hash of everything in the set, to tell one from another."""
        digest = hashlib.sha256()
        for part in (self.labels, self.kinds, self.relatives):
            digest.update(np.ascontiguousarray(part).data)
        for block in self._blocks(np.arange(len(self))):
            digest.update(block.data)
        if self.moves is not None:
            digest.update(np.ascontiguousarray(self.moves.features).data)
        if self.surroundings is not None:
            digest.update(np.ascontiguousarray(self.surroundings.boxes).data)
            n_originals = len(self) if self.rows is None else len(self.rows)
            for left in range(0, n_originals, _BLOCK):
                digest.update(self.take_surroundings(np.arange(left, min(left + _BLOCK, n_originals)))[0].data)
        return digest.hexdigest()

    def _shown(self, points: Int[np.ndarray, "point"]) -> Int[np.ndarray, "point"]:
        """The points whose images some points have."""
        if self.moves is None or self.rows is None:
            return points
        shown = points.copy()
        moved = points >= len(self.rows)
        shown[moved] = self.moves.parents[points[moved] - len(self.rows)]
        return shown

    def _blocks(self, points: NDArray[np.int64]) -> Iterator[Float32[np.ndarray, "point h w"]]:
        for left in range(0, len(points), _BLOCK):
            yield np.ascontiguousarray(self.take(points[left : left + _BLOCK]))


def read_rows(images: Images, rows: Int[np.ndarray, "row"]) -> Float32[np.ndarray, "row height width"]:
    """Copy rows of an array; a memory map gives back the memory it took to read them."""
    found = np.array(images[rows], dtype=np.float32)
    mapping = getattr(images, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
    return found
