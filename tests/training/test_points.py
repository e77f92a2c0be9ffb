"""Points on their surroundings: whose are whose, and which have none."""

import numpy as np
import pytest

from diagnet.training.points import Points, Surroundings


def points(**changes):
    rng = np.random.default_rng(0)
    images = rng.random((6, 8, 8), dtype=np.float32)
    around = Surroundings(rng.random((6, 16, 16), dtype=np.float32), rng.random((6, 4), dtype=np.float32), True)
    rows, neighbors = np.array([4, 1, 3]), rng.random((2, 8, 8), dtype=np.float32)
    kinds = np.array([0, 0, 0, 1, 1], np.int8)
    given = {"rows": rows, "neighbors": neighbors, "surroundings": around} | changes
    return Points(images, np.array([0, 1, 0, 1, 0]), kinds, np.arange(5), **given)


def test_an_original_has_its_own_surroundings_and_a_neighbor_is_its_own():
    found = points()
    images, boxes = found.take_surroundings(np.array([3, 0, 2]))
    assert np.array_equal(images[1:], found.surroundings.images[[4, 3]])
    assert np.array_equal(boxes[1:], found.surroundings.boxes[[4, 3]])
    assert np.isnan(boxes[0]).all()
    assert np.array_equal(images[0, ::2, ::2], found.neighbors[0])
    assert np.array_equal(images[0, 1::2, 1::2], found.neighbors[0])


def test_the_hash_knows_the_surroundings():
    other = points().surroundings
    moved = Surroundings(other.images, other.boxes + 0.1, True)
    brighter = Surroundings(other.images * 0.5, other.boxes, True)
    hashes = [points(surroundings=each).sha256() for each in (None, other, moved, brighter)]
    assert len(set(hashes)) == 4


def test_without_surroundings_none_are_taken():
    with pytest.raises(ValueError, match="`surroundings` must be given to draw regions from them, got None"):
        points(surroundings=None).take_surroundings(np.array([0]))
