"""The search for the neighbors of one class and one sign, one by one (Eqs. 1-2)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from pydantic import BaseModel, Field

from diagnet.discriminator import Discriminator, probability
from diagnet.distance import Distance, distance_of_dots
from diagnet.racos import Candidate, Racos
from diagnet.search_space import SearchSpace, Sign

_MARGIN = 1e-3  # a rule is kept with this much (relative) to spare: images are float32
_N_TRIALS = 8  # candidates whose images are made before a new search begins


class SearchSettings(BaseModel, frozen=True, extra="forbid"):
    """How one neighbor is searched."""

    budget: int = Field(200, ge=1, le=100_000, description="T: candidates tried for each neighbor")
    n_seeds: int = Field(10, ge=1, description="noise-corrupted originals a search starts from (reading 10)")
    kernel: Literal["rbf", "linear"] = Field("rbf", description="kernel of the discriminator (reading 11)")
    distance: Distance = Field("cosine", description="d: 1 - cos, or the angle over pi (reading 3)")
    spacing_weight: float = Field(1e-2, ge=0, description="gamma: weight of a broken distance rule in Eqs. 1-2")
    reach_factor: float = Field(3.0, gt=1, description="r3 / rho: how far negative neighbors may be from originals")
    enforce_rules: bool = Field(
        True,
        description="a candidate that breaks a distance rule ranks behind all that keep them [letter: gamma alone]",
    )
    no_copies: bool = Field(
        True, description="positive neighbors keep r1 from originals too [letter: from one another only]"
    )
    n_retries: int = Field(3, ge=0, description="new searches where no candidate keeps the rules that are enforced")


@dataclass(frozen=True, slots=True)
class Found:
    """One neighbor: its image, the original it came from, and its probability of being one."""

    image: Float32[np.ndarray, "pixel"]
    parent: int
    probability: float


@dataclass(frozen=True, slots=True)
class Rules:
    """Distance rules of one sign (Sec. 4.2): r1 = r2 = rho, r3 = 3 rho.

    Attributes:
        spacing: r1 or r2, smallest distance from other neighbors of the sign.
        clearance: smallest distance from originals; 0 for none.
        reach: r3, largest distance from the nearest original.
    """

    spacing: float
    clearance: float
    reach: float

    def broken_by(self, nearest_original: float, nearest_of_sign: float) -> float:
        """Return by how much a point breaks the rules: the hinges of Eqs. 1-2, summed."""
        return (
            max(0.0, self.spacing - nearest_of_sign)
            + max(0.0, self.clearance - nearest_original)
            + max(0.0, nearest_original - self.reach)
        )


def rules_for(sign: Sign, closest_pair: float, settings: SearchSettings) -> Rules:
    """Distance rules of a sign for a class whose closest pair of originals is at distance rho."""
    if sign > 0:
        return Rules(closest_pair, closest_pair if settings.no_copies else 0.0, np.inf)
    return Rules(closest_pair, 0.0, settings.reach_factor * closest_pair)


def objective(sign: Sign, chance: float, broken: float, weight: float) -> float:
    """Return what the search minimizes: minus Eq. 1 for positive, Eq. 2 for negative neighbors."""
    return -sign * chance + weight * broken  # minus Eq. 1 where sign is +1, Eq. 2 where it is -1


class NeighborSearch:
    """Search neighbors of one class and sign; each search knows those kept before.

    All that a candidate needs is its row of dot products. A candidate is an earlier point with few coordinates
    changed, so its row is that point's row plus as many columns of coordinates, whatever the size of the image.

    Args:
        space: the originals of the class.
        dots: their dot products.
        sign: +1 for positive, -1 for negative neighbors.
        closest_pair: rho.
        capacity: how many neighbors will be kept at most.
        settings: how to search.
    """

    def __init__(
        self,
        space: SearchSpace,
        dots: Float64[np.ndarray, "original original"],
        sign: Sign,
        closest_pair: float,
        capacity: int,
        settings: SearchSettings,
    ) -> None:
        n, size = len(dots), len(dots) + capacity + settings.budget
        self._space, self._sign, self._settings = space, sign, settings
        margin = _MARGIN if settings.enforce_rules else 0.0
        exact = rules_for(sign, closest_pair, settings)
        self._rules = Rules(exact.spacing * (1 + margin), exact.clearance * (1 + margin), exact.reach * (1 - margin))
        self._closest_pair = closest_pair
        self._n_originals = self._n_kept = n
        # The points are the originals, then the neighbors kept, then the candidates tried in the present search.
        n_coordinates, dtype = space.vectors.shape[1], space.vectors.dtype
        self._columns = np.zeros((n_coordinates, n + capacity), dtype=dtype)  # of originals and neighbors
        self._columns[:, :n] = space.vectors.T
        self._tried = np.zeros((settings.budget, n_coordinates), dtype=dtype)
        self._dots = _Dots(dots, size)
        self._seen = self._dots
        if space.weights is not None:
            self._seen = _Dots((space.vectors * space.weights) @ space.vectors.T, size)
        self._neighbors = np.zeros((capacity, space.images.shape[1]), dtype=np.float32)
        variance = float(space.vectors.var() if space.weights is None else 1.0)
        n_seen = n_coordinates if space.weights is None else np.count_nonzero(space.weights)
        self._scale = 1.0 / (n_seen * variance) if variance > 0 else 1.0  # gamma = "scale"
        kernel = np.stack([self._kernel(self._seen.rows[i, :n], self._seen.squares[i]) for i in range(n)])
        self._discriminator = Discriminator(kernel, capacity + settings.budget)

    def keep(self, image: Float32[np.ndarray, "pixel"]) -> None:
        """Remember a neighbor: the next ones keep away from it, and the discriminator has seen it."""
        n, weights = self._n_kept, self._space.weights
        vector = self._space.vector(image)
        columns = self._columns[:, :n]
        self._neighbors[n - self._n_originals] = image
        self._dots.append(n, (vector @ columns).astype(np.float64), float(image @ image))
        if weights is not None:
            self._seen.append(n, (vector * weights) @ columns, float(vector**2 @ weights))
        self._columns[:, n] = vector
        self._n_kept = n + 1
        self._discriminator.forget(n)
        self._learn(n)

    def find(self, rng: np.random.Generator) -> Found:
        """Search one neighbor and keep it.

        Where no candidate keeps the rules, a new search begins; after the last one, the candidate that breaks them
        least is returned.
        """
        least = np.inf
        for _ in range(1 + self._settings.n_retries):
            origins, broken, values = self._try_candidates(rng)
            chances = [probability(value) for value in values]
            ranking = [self._ranking(*pair) for pair in zip(chances, broken, strict=True)]
            for t in np.argsort(ranking, kind="stable")[:_N_TRIALS]:
                image = self._space.image(origins[t], self._tried[t])
                breach = self._rules.broken_by(*self._nearest(image))
                if breach < least:
                    least, best = breach, Found(image, origins[t], chances[t])
                if breach == 0 or not self._settings.enforce_rules:
                    break
            if least == 0 or not self._settings.enforce_rules:
                break
        self.keep(best.image)
        return best

    def _try_candidates(self, rng: np.random.Generator) -> tuple[list[int], list[float], list[float]]:
        """Try a budget of candidates; return their originals, broken rules, and final decision values."""
        n, space = self._n_kept, self._space
        self._discriminator.forget(n)
        seeds = [int(parent) for parent in rng.permutation(self._n_originals)[: self._settings.n_seeds]]
        starts = np.stack([space.seed(parent, rng) for parent in seeds])
        racos = Racos(space.lower, np.ones(space.lower.size), seeds=starts, rng=rng)
        origins: list[int] = []
        broken: list[float] = []
        points: dict[int, int] = {}  # slot of the search -> number of the candidate
        for t in range(self._settings.budget):
            candidate = racos.ask_sparse()
            if candidate.parent is None:
                origins.append(seeds[t if t < len(seeds) else int(rng.integers(len(seeds)))])
                self._place(t, origins[t], candidate)
            else:
                origins.append(origins[points[candidate.parent]])
                self._move(t, points[candidate.parent], origins[t], candidate)
            broken.append(self._rules.broken_by(*self._nearest_of_row(n + t)))
            chance = probability(self._discriminator.decision_value(self._kernel_row(n + t)))
            slot = racos.tell_sparse(candidate, self._ranking(chance, broken[t]))
            if slot is not None:
                points[slot] = t
            self._learn(n + t)
        values = self._discriminator.decision_values_without_own()[n - self._n_originals :]
        return origins, broken, [float(value) for value in values]

    def _place(self, t: int, origin: int, candidate: Candidate) -> None:
        """Add a candidate all of whose coordinates are new."""
        n, weights = self._n_kept, self._space.weights
        vector = self._tried[t]
        searched = np.arange(candidate.values.size)
        vector[:] = self._space.vectors[origin]
        vector[searched] = self._space.values(origin, searched, candidate.values)
        dots = np.concatenate([vector @ self._columns[:, :n], self._tried[:t] @ vector])
        self._dots.append(n + t, dots, float(vector @ vector))
        if weights is not None:
            weighted = vector * weights
            dots = np.concatenate([weighted @ self._columns[:, :n], self._tried[:t] @ weighted])
            self._seen.append(n + t, dots, float(vector @ weighted))

    def _move(self, t: int, parent: int, origin: int, candidate: Candidate) -> None:
        """Add a candidate that differs from an earlier one in few coordinates."""
        n, changed, weights = self._n_kept, candidate.coordinates, self._space.weights
        vector = self._tried[t]
        vector[:] = self._tried[parent]
        old = vector[changed].astype(np.float64)
        vector[changed] = self._space.values(origin, changed, candidate.values)
        move = vector[changed].astype(np.float64) - old
        columns = np.concatenate([self._columns[changed, :n], self._tried[:t, changed].T], axis=1)
        self._dots.append_moved(n + t, n + parent, move @ columns, float(move @ (2 * old + move)))
        if weights is not None:
            move = move * weights[changed]
            change = float(move @ (old + vector[changed]))
            self._seen.append_moved(n + t, n + parent, move @ columns, change)

    def _learn(self, point: int) -> None:
        """Let the discriminator know a generated point."""
        own = self._kernel(self._seen.squares[point : point + 1], self._seen.squares[point], point)
        self._discriminator.add(self._kernel_row(point), float(own[0]))

    def _kernel_row(self, point: int) -> Float64[np.ndarray, "point"]:
        return self._kernel(self._seen.rows[point, :point], self._seen.squares[point])

    def _kernel(
        self, dots: Float64[np.ndarray, "point"], square: float, first: int = 0
    ) -> Float64[np.ndarray, "point"]:
        """Kernel values from the dot products of a point with others, the first of which has number `first`."""
        if self._settings.kernel == "linear":
            return self._scale * dots
        squares = self._seen.squares[first : first + len(dots)]
        return np.asarray(np.exp(-self._scale * np.maximum(squares + square - 2 * dots, 0.0)))

    def _nearest_of_row(self, point: int) -> tuple[float, float]:
        """Distances of a candidate from the nearest original and from the nearest neighbor of its sign."""
        row, squares = self._dots.rows[point, : self._n_kept], self._dots.squares
        return self._nearest_of_dots(row, squares[: self._n_kept] * squares[point])

    def _nearest(self, image: Float32[np.ndarray, "pixel"]) -> tuple[float, float]:
        """Return the same of a finished image."""
        known = self._neighbors[: self._n_kept - self._n_originals]
        dots = np.concatenate([self._space.images @ image, known @ image]).astype(np.float64)
        return self._nearest_of_dots(dots, self._dots.squares[: self._n_kept] * float(image @ image))

    def _nearest_of_dots(
        self, dots: Float64[np.ndarray, "point"], squares: Float64[np.ndarray, "point"]
    ) -> tuple[float, float]:
        cosines = dots / np.sqrt(np.where(squares > 0, squares, np.inf))
        # The nearest has the largest cosine, so that one distance is computed, not a row.
        original = distance_of_dots(cosines[: self._n_originals].max(keepdims=True), self._settings.distance)
        if len(cosines) == self._n_originals:
            return float(original[0]), np.inf
        of_sign = distance_of_dots(cosines[self._n_originals :].max(keepdims=True), self._settings.distance)
        return float(original[0]), float(of_sign[0])

    def _ranking(self, chance: float, broken: float) -> float:
        """Order of candidates, lowest first: the objective, and behind all others those that break a rule."""
        value = objective(self._sign, chance, broken, self._settings.spacing_weight)
        return value + 2 + broken / self._closest_pair if self._settings.enforce_rules and broken > 0 else value


class _Dots:
    """Dot products of a growing list of points, which knows for each new point those with all before."""

    def __init__(self, dots: Float64[np.ndarray, "point point"], size: int) -> None:
        self.rows = np.zeros((size, size))
        self.squares = np.zeros(size)
        self.rows[: len(dots), : len(dots)] = dots
        self.squares[: len(dots)] = dots.diagonal()

    def append(self, n: int, row: Float[np.ndarray, "point"], square: float) -> None:
        self.rows[n, :n] = row
        self.rows[:n, n] = row
        self.squares[n] = self.rows[n, n] = square

    def append_moved(self, n: int, parent: int, change: Float64[np.ndarray, "point"], square_change: float) -> None:
        """Add a point whose dot products differ from an earlier point's by `change`."""
        self.append(n, self.rows[parent, :n] + change, float(self.squares[parent]) + square_change)
