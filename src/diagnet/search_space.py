"""Where a neighbor is searched: all pixels (as in the paper), or principal components of the class (the default).

A space holds the originals as `vectors` that keep the images' dot products. A point is the vector of its parent, an
original, with the first coordinates changed by z in [lower, 1]; the discriminator may weigh the coordinates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from diagnet.distance import Distance, distance_of_dots
from diagnet.errors import DataError

Sign = Literal[-1, 1]

_PROBES = 16  # noisy originals that set the strength of the noise
_SEED_NOISE = 0.5  # standard deviation of the seeds' z: nearly all of it in [-1, 1]
_ORIGINALS_PER_COMPONENT = 3  # the discriminator sees fewer components than this: the last ones fit single originals


@dataclass(frozen=True, slots=True)
class PixelSpace:
    """All grey values: z is the image (the paper's space).

    Attributes:
        images: the originals, one flat image a row.
        noise: standard deviation of the seeds' noise, in grey values.
        weights: of each coordinate in the dot products the discriminator sees; None for all 1.
    """

    images: Float32[np.ndarray, "original pixel"]
    noise: float
    weights: None = None

    @property
    def vectors(self) -> Float32[np.ndarray, "original pixel"]:
        """Coordinates of the originals: here their grey values in [0, 1]."""
        return self.images

    @property
    def lower(self) -> Float64[np.ndarray, "pixel"]:
        """The smallest z of each pixel: 0, which is black."""
        return np.zeros(self.images.shape[1])

    def seed(self, parent: int, rng: np.random.Generator) -> Float64[np.ndarray, "pixel"]:
        """Return z of an original corrupted by noise."""
        return np.asarray(np.clip(self.images[parent] + self.noise * rng.normal(size=self.images.shape[1]), 0.0, 1.0))

    def values(
        self,
        parent: int,  # noqa: ARG002 -- the other space needs it
        coordinates: Int64[np.ndarray, "changed"],  # noqa: ARG002 -- the other space needs it
        z: Float64[np.ndarray, "changed"],
    ) -> Float64[np.ndarray, "changed"]:
        """Return what some coordinates of a point are where z has these values."""
        return z

    def image(
        self,
        parent: int,  # noqa: ARG002 -- the other space needs it
        vector: Float32[np.ndarray, "pixel"],
    ) -> Float32[np.ndarray, "pixel"]:
        """Return the image of a point: grey values in [0, 1], as many as the vector has."""
        return vector.copy()

    def vector(self, image: Float32[np.ndarray, "pixel"]) -> Float32[np.ndarray, "pixel"]:
        """Return the coordinates of an image: here its grey values themselves."""
        return image


@dataclass(frozen=True, slots=True)
class ComponentSpace:
    """Moves along the principal components of the originals; what no component explains stays the parent's.

    Only `image` and `vector` take time that grows with the image.

    Attributes:
        images: the originals, one flat image a row.
        vectors: scores along all components, then the length of the mean image's part outside them.
        weights: of each coordinate in the dot products the discriminator sees.
        mixing: (component, original) weights of the originals that make each component.
        steps: what z = 1 adds along each component, in lengths of the parent.
    """

    images: Float32[np.ndarray, "original pixel"]
    vectors: Float64[np.ndarray, "original coordinate"]
    weights: Float64[np.ndarray, "coordinate"]
    mixing: Float64[np.ndarray, "component original"]
    steps: Float64[np.ndarray, "searched"]

    @property
    def lower(self) -> Float64[np.ndarray, "searched"]:
        """The smallest z of each component searched: -1, for a step may go either way."""
        return np.full(self.steps.size, -1.0)

    def seed(
        self,
        parent: int,  # noqa: ARG002 -- the other space needs it
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, "searched"]:
        """Return z of an original corrupted by noise."""
        return np.clip(_SEED_NOISE * rng.normal(size=self.steps.size), -1.0, 1.0)

    def values(
        self, parent: int, coordinates: Int64[np.ndarray, "changed"], z: Float64[np.ndarray, "changed"]
    ) -> Float64[np.ndarray, "changed"]:
        """Return what some coordinates of a point are where z has these values."""
        origin = self.vectors[parent]
        return np.asarray(origin[coordinates] + np.sqrt(origin @ origin) * self.steps[coordinates] * z)

    def image(self, parent: int, vector: Float64[np.ndarray, "coordinate"]) -> Float32[np.ndarray, "pixel"]:
        """Return the image of a point: its parent, moved along the components, and clipped to [0, 1]."""
        mixture = (vector - self.vectors[parent])[:-1] @ self.mixing
        moved = self.images[parent] + mixture.astype(np.float32) @ self.images
        return np.asarray(np.clip(moved, np.float32(0), np.float32(1)))

    def vector(self, image: Float32[np.ndarray, "pixel"]) -> Float64[np.ndarray, "coordinate"]:
        """Return the coordinates of an image's projection onto the span of the originals."""
        dots = (self.images @ image).astype(np.float64)
        scores, mean = self.mixing @ dots, self.vectors.mean(0)
        beyond = (dots.mean() - mean[:-1] @ scores) / mean[-1] if mean[-1] > 0 else 0.0
        return np.append(scores, beyond)


SearchSpace: TypeAlias = PixelSpace | ComponentSpace


def pixel_space(
    images: Float32[np.ndarray, "original pixel"], move: float, distance: Distance, *, rng: np.random.Generator
) -> PixelSpace:
    """Search all grey values, as the paper does.

    Args:
        images: the originals.
        move: distance from its original that half of the seeds exceed (reading 10).
        distance: unit of `move`.
        rng: source of chance.
    """
    probes = images[rng.integers(len(images), size=_PROBES)]
    noise = rng.standard_normal(probes.shape, dtype=np.float32)
    strength = _strength(lambda s: _row_distance(probes, np.clip(probes + np.float32(s) * noise, 0, 1), distance), move)
    return PixelSpace(images, strength)


def component_space(
    images: Float32[np.ndarray, "original pixel"],
    gram: Float64[np.ndarray, "original original"],
    sign: Sign,
    move: float,
    distance: Distance,
    *,
    n_components: int,
    rng: np.random.Generator,
) -> ComponentSpace:
    """Search moves along the principal components of the originals.

    Positive neighbors move in proportion to the originals' spread along each component, which keeps to the
    manifold; negative ones in proportion to its square root, which leads off the main components. Both move in
    proportion to the length of the original, so that the distance is the same for dark and bright images. The
    discriminator sees the leading components in units of their spread.

    Args:
        images: the originals.
        gram: their dot products, the Gram matrix.
        sign: +1 for positive, -1 for negative neighbors.
        move: distance from its original that half of the seeds exceed.
        distance: unit of `move`.
        n_components: how many components are searched at most.
        rng: source of chance.

    Raises:
        DataError: all images are the same.
    """
    n = len(images)
    centered = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    squares, modes = np.linalg.eigh(centered)
    kept = np.flatnonzero(squares > 1e-10 * max(float(gram.diagonal().max()), 1e-30))[::-1]
    if kept.size == 0:
        raise DataError(f"`images` must differ within a class, got {n} copies of one image")
    extents, modes = np.sqrt(squares[kept]), modes[:, kept]  # images - mean = modes diag(extents) components
    modes = modes - modes.mean(axis=0)  # those of tiny extents hold a little of the mean image, which is large
    mixing = (modes / extents).T
    mean = mixing @ gram.mean(1)
    beyond = np.sqrt(max(float(gram.mean() - mean @ mean), 0.0))  # the mean image's part outside all components
    vectors = np.column_stack([modes * extents + mean, np.full(n, beyond)])
    spread = extents / np.sqrt(n)
    n_searched = min(n_components, kept.size)
    n_seen = min(n_searched, max(1, n // _ORIGINALS_PER_COMPONENT))
    weights = np.zeros(vectors.shape[1])
    weights[:n_seen] = spread[:n_seen] ** -2
    shape = spread[:n_searched] if sign > 0 else np.sqrt(spread[:n_searched])
    space = ComponentSpace(images, vectors, weights, mixing, shape)
    parents = rng.integers(n, size=_PROBES)
    probes, moved = vectors[parents], vectors[parents]
    searched = np.arange(n_searched)
    for row, parent in zip(moved, parents, strict=True):
        row[searched] = space.values(int(parent), searched, space.seed(int(parent), rng))
    strength = _strength(lambda s: _row_distance(probes, probes + s * (moved - probes), distance), move)
    return replace(space, steps=shape * strength)


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
