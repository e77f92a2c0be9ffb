"""Where a neighbor is searched: all pixels (the letter), or the principal components of the class (the default)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from diagnet.distance import Distance, angular_of_dots, cosine_of_dots

Sign = Literal[-1, 1]

_PROBES = 16  # noisy originals that set the strength of the noise
_ORIGINALS_PER_COMPONENT = (
    3  # the discriminator sees fewer components than this: the last ones fit single originals
)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Originals as vectors that keep the images' dot products, and how a search moves away from them.

    A point is the vector of its parent, an original, with the first coordinates changed by z in [lower, 1]. In
    pixel space z is the image itself; in component space it is a move along principal components, and what no
    component explains stays the parent's; there, only `image` and `vector` take time that grows with the image.

    Attributes:
        images: the originals, one flat image a row.
        vectors: one row an original; dot products and norms are those of the images.
        steps: in component space, what z = 1 adds to each coordinate, per length of the original; None in pixel space.
        lengths: of the originals; None in pixel space.
        noise: standard deviation of the seeds' Gaussian noise, in units of z.
        weights: of each coordinate in the dot products the discriminator sees; None for all 1.
        mixing: (component, original) weights of the originals that make each component; None in pixel space.
    """

    images: Float32[np.ndarray, "original pixel"]
    vectors: Float[np.ndarray, "original coordinate"]
    steps: Float64[np.ndarray, "searched"] | None = None
    lengths: Float64[np.ndarray, "original"] | None = None
    noise: float = 0.0
    weights: Float64[np.ndarray, "coordinate"] | None = None
    mixing: Float64[np.ndarray, "component original"] | None = None

    @property
    def lower(self) -> Float64[np.ndarray, "searched"]:
        """Lowest z of each coordinate; the highest is 1."""
        return np.zeros(self.vectors.shape[1]) if self.steps is None else np.full(self.steps.size, -1.0)

    def seed(self, parent: int, rng: np.random.Generator) -> Float64[np.ndarray, "searched"]:
        """Return z of an original corrupted by noise."""
        noise = self.noise * rng.normal(size=self.lower.size)
        return np.clip(noise if self.steps is not None else self.vectors[parent] + noise, self.lower, 1.0)

    def values(
        self, parent: int, coordinates: Int64[np.ndarray, "changed"], z: Float64[np.ndarray, "changed"]
    ) -> Float64[np.ndarray, "changed"]:
        """Return what the coordinates of a point are where z has these values."""
        if self.steps is None:
            return z
        return self.vectors[parent, coordinates] + self.lengths[parent] * self.steps[coordinates] * z

    def image(self, parent: int, vector: Float[np.ndarray, "coordinate"]) -> Float32[np.ndarray, "pixel"]:
        """Make the image of a point, clipped to [0, 1]."""
        if self.mixing is None:
            return np.asarray(np.clip(vector, 0, 1), dtype=np.float32)
        mixture = (vector - self.vectors[parent])[:-1] @ self.mixing
        moved = self.images[parent] + mixture.astype(np.float32) @ self.images
        return np.asarray(np.clip(moved, 0, 1), dtype=np.float32)

    def vector(self, image: Float32[np.ndarray, "pixel"]) -> Float[np.ndarray, "coordinate"]:
        """Return the coordinates of an image; in component space, of its projection onto the originals' span."""
        if self.mixing is None:
            return image
        dots = (self.images @ image).astype(np.float64)
        scores, mean = self.mixing @ dots, self.vectors.mean(0)
        beyond = (dots.mean() - mean[:-1] @ scores) / mean[-1] if mean[-1] > 0 else 0.0
        return np.append(scores, beyond)


def pixel_space(
    images: Float32[np.ndarray, "original pixel"], move: float, distance: Distance, *, rng: np.random.Generator
) -> SearchSpace:
    """Search all grey values, as the paper does.

    Args:
        images: the originals.
        move: distance from its original that half of the seeds exceed (reading 10).
        distance: unit of `move`.
        rng: source of chance.
    """
    probes = images[rng.integers(len(images), size=_PROBES)]
    noise = rng.standard_normal(probes.shape, dtype=np.float32)
    strength = _strength(
        lambda s: _row_distance(probes, np.clip(probes + np.float32(s) * noise, 0, 1), distance), move
    )
    return SearchSpace(images, images, noise=strength)


def component_space(
    images: Float32[np.ndarray, "original pixel"],
    dots: Float64[np.ndarray, "original original"],
    sign: Sign,
    move: float,
    distance: Distance,
    *,
    n_components: int,
    rng: np.random.Generator,
) -> SearchSpace:
    """Search moves along the principal components of the originals.

    Positive neighbors move in proportion to the originals' spread along each component, which keeps to the
    manifold; negative ones in proportion to its square root, which leads off the main components. Both move in
    proportion to the length of the original, so that the distance is the same for dark and bright images. The
    discriminator sees the leading components in units of their spread.

    Args:
        images: the originals.
        dots: their dot products.
        sign: +1 for positive, -1 for negative neighbors.
        move: distance from its original that half of the seeds exceed.
        distance: unit of `move`.
        n_components: how many components are searched at most.
        rng: source of chance.

    Raises:
        ValueError: all images are the same.
    """
    n = len(images)
    centered = dots - dots.mean(0) - dots.mean(1)[:, None] + dots.mean()
    squares, modes = np.linalg.eigh(centered)
    kept = np.flatnonzero(squares > 1e-10 * max(float(dots.diagonal().max()), 1e-30))[::-1]
    if kept.size == 0:
        raise ValueError("`images` must differ, got copies of one image")
    extents, modes = np.sqrt(squares[kept]), modes[:, kept]  # images - mean = modes diag(extents) components
    mixing = (modes / extents).T
    mean = mixing @ dots.mean(1)
    beyond = np.sqrt(max(float(dots.mean() - mean @ mean), 0.0))  # the mean image's part outside all components
    vectors = np.column_stack([modes * extents + mean, np.full(n, beyond)])
    spread = extents / np.sqrt(n)
    n_searched = min(n_components, kept.size)
    n_seen = min(n_searched, max(1, n // _ORIGINALS_PER_COMPONENT))
    weights = np.zeros(vectors.shape[1])
    weights[:n_seen] = spread[:n_seen] ** -2
    shape = spread[:n_searched] if sign > 0 else np.sqrt(spread[:n_searched])
    lengths = np.sqrt(dots.diagonal())
    space = SearchSpace(images, vectors, shape, lengths, 0.5, weights, mixing)

    parents = rng.integers(n, size=_PROBES)
    probes = vectors[parents]
    moves = np.zeros_like(probes)
    for row, parent in enumerate(parents):
        moves[row, :n_searched] = lengths[parent] * shape * space.seed(int(parent), rng)
    strength = _strength(lambda s: _row_distance(probes, probes + s * moves, distance), move)
    return replace(space, steps=shape * strength)


def distance_of_dots(dots: Float64[np.ndarray, "*shape"], distance: Distance) -> Float64[np.ndarray, "*shape"]:
    """Distance of unit vectors by name."""
    return cosine_of_dots(dots) if distance == "cosine" else angular_of_dots(dots)


def _row_distance(
    a: Float[np.ndarray, "row coordinate"], b: Float[np.ndarray, "row coordinate"], distance: Distance
) -> float:
    """Median distance between rows of the same number; zero rows are at the distance of orthogonal ones."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.einsum("ij,ij->i", a, b, dtype=np.float64) / np.where(lengths > 0, lengths, np.inf)
    return float(np.median(distance_of_dots(cosines, distance)))


def _strength(moved: Callable[[float], float], target: float) -> float:
    """Find how strong a move must be for its distance, `moved`, to be `target`: bisection, logarithmic scale."""
    low, high = 1e-6, 1e6
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if moved(middle) < target else (low, middle)
    return low
