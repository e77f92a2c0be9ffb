"""Cosine and angular distance: d(.) of Eqs. 1-2 and dist(.) of Eq. 4, on arrays."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # threadpoolctl ships no types

Distance = Literal["cosine", "angular"]

_BLOCK = 8_192  # pixels turned to float64 at once


def cosine_distance(
    a: Float[np.ndarray, "first feature"], b: Float[np.ndarray, "second feature"]
) -> Float64[np.ndarray, "first second"]:
    """Cosine distance 1 - cos(a_i, b_j).

    A zero vector has no direction: it is at distance 1 from everything, itself included.

    Args:
        a: finite rows of any length.
        b: finite rows of any length.

    Returns:
        Distances in [0, 2], computed in float64.

    Source: Sec. 4.2, "angular cosine distance" (reading 3).
    """
    return cosine_of_dots(_units(a) @ _units(b).T)


def angular_distance(
    a: Float[np.ndarray, "first feature"], b: Float[np.ndarray, "second feature"]
) -> Float64[np.ndarray, "first second"]:
    """Angular distance arccos(cos(a_i, b_j)) / pi, as 2 atan2(|u - v|, |u + v|) / pi for unit vectors u, v.

    Unlike arccos, this keeps its digits for nearly equal and nearly opposite vectors. A zero vector has no
    direction: it is at distance 0.5 from everything, itself included.

    Args:
        a: finite rows of any length.
        b: finite rows of any length.

    Returns:
        Distances in [0, 1], computed in float64.

    Source: Sec. 4.2, "angular cosine distance" (reading 3).
    """
    u, v = _units(a), _units(b)
    apart, together = cdist(u, v), cdist(u, -v)
    without_direction = (apart == 0) & (together == 0)
    angles = 2 * np.arctan2(np.where(without_direction, 1.0, apart), np.where(without_direction, 1.0, together))
    return angles / np.pi


def cosine_of_dots(dots: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Cosine distance of unit vectors whose dot products are known."""
    return np.clip(1.0 - dots, 0.0, 2.0)


def angular_of_dots(dots: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Angular distance of unit vectors whose dot products are known; below 1e-8 it has no digits left."""
    apart, together = np.sqrt(np.clip(1 - dots, 0, 2)), np.sqrt(np.clip(1 + dots, 0, 2))
    return np.asarray(2 * np.arctan2(apart, together) / np.pi)


def distance_of_dots(dots: Float64[np.ndarray, "*shape"], distance: Distance) -> Float64[np.ndarray, "*shape"]:
    """Return the cosine or angular distance of unit vectors, from their dot products in [-1, 1]."""
    return cosine_of_dots(dots) if distance == "cosine" else angular_of_dots(dots)


def dot_products(
    a: Float32[np.ndarray, "first pixel"], b: Float32[np.ndarray, "second pixel"]
) -> Float64[np.ndarray, "first second"]:
    """Dot products in float64, without float64 copies of all images."""
    dots = np.zeros((len(a), len(b)))
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, a.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            dots += a[:, block].astype(np.float64) @ b[:, block].astype(np.float64).T
    return dots


def distance_of_vectors(
    dots: Float64[np.ndarray, "first second"],
    squares: tuple[Float64[np.ndarray, "first"], Float64[np.ndarray, "second"]],
    distance: Distance,
) -> Float64[np.ndarray, "first second"]:
    """Distances from dot products and squared lengths; images of length 0 have no direction."""
    lengths = np.sqrt(np.outer(*squares))
    return distance_of_dots(dots / np.where(lengths > 0, lengths, np.inf), distance)


def _units(vectors: Float[np.ndarray, "point feature"]) -> Float64[np.ndarray, "point feature"]:
    """Rows scaled to length 1; zero rows stay zero."""
    rows = np.asarray(vectors, dtype=np.float64)
    # Scaled by the largest entry first, so that no square over- or underflows.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = rows / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
