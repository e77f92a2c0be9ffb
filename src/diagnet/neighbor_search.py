"""The search for the neighbors of one class and one sign, one by one (Eqs. 1-2)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from pydantic import BaseModel, Field, model_validator

from diagnet.discriminator import Discriminator, probability
from diagnet.distance import Distance, distance_of_dots
from diagnet.racos import Candidate, Racos
from diagnet.renamed import by_new_names
from diagnet.search_space import SearchSpace, Sign

_MARGIN = 1e-3  # a rule is kept with this much (relative) to spare: images are float32
_N_TRIALS = 8  # candidates whose images are made before a new search begins
_POOL = 2  # seeds of each original that the discriminator is told to tell from originals
_POOL_ORIGINALS = 500  # originals that have such seeds, at most: the kernel matrix grows with the square
# What neighbors kept weigh, of all generated points. With more the search finds nothing better than its start; with
# less it piles up where the discriminator is fooled, and outside judges tell positive neighbors (docs/paper.md, 27).
_KEPT_SHARE = 0.25
_REACH = 3  # r3 / rho: how far negative neighbors may be from originals


class SearchSettings(BaseModel, frozen=True, extra="forbid"):
    """How one neighbor is searched."""

    _by_new_names = model_validator(mode="before")(by_new_names)

    budget: int = Field(200, ge=1, le=100_000, description="T: candidates tried for each neighbor")
    n_seeds: int = Field(10, ge=1, description="noise-corrupted originals a search starts from (reading 10)")
    start_originals: int = Field(
        1, ge=1, description="originals that these seeds come from; with several the search picks the most usual [10]"
    )
    kernel: Literal["rbf", "linear"] = Field("rbf", description="kernel of the discriminator (reading 11)")
    distance: Distance = Field("cosine", description="d: 1 - cos, or the angle over pi (reading 3)")
    spacing_weight: float = Field(1e-2, ge=0, description="gamma: weight of a broken distance rule in Eqs. 1-2")
    enforce_rules: bool = Field(
        True,
        description="a candidate that breaks a distance rule ranks behind all that keep them [paper: gamma alone]",
    )
    no_copies: bool = Field(
        True, description="positive neighbors keep r1 from originals too [paper: from one another only]"
    )
    n_retries: int = Field(3, ge=0, description="new searches where no candidate keeps the rules that are enforced")


@dataclass(frozen=True, slots=True)
class Found:
    """One neighbor: its image, the original it came from, and its probability of being one.

    The probability is that of a discriminator of originals and seeds that the search never saw.
    """

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
    return Rules(closest_pair, 0.0, _REACH * closest_pair)


def objective(sign: Sign, chance: float, broken: float, weight: float) -> float:
    """Return what the search minimizes: minus Eq. 1 for positive, Eq. 2 for negative neighbors."""
    return -sign * chance + weight * broken  # minus Eq. 1 where sign is +1, Eq. 2 where it is -1


class Judge:
    """A discriminator and the points that it knows: the originals of a class, and generated points (reading 27).

    Args:
        space: the originals.
        gram: their dot products, the Gram matrix.
        kernel: kernel of the discriminator.
        capacity: how many generated points there will be at most.
        n_pool: how many of them are seeds; those learned later weigh a quarter of all generated points.
    """

    def __init__(
        self,
        space: SearchSpace,
        gram: Float64[np.ndarray, "original original"],
        kernel: Literal["rbf", "linear"],
        capacity: int,
        *,
        n_pool: int = 0,
    ) -> None:
        (n, n_coordinates), weights = space.vectors.shape, space.weights
        self._space, self._is_linear = space, kernel == "linear"
        self.n_points = n
        self.columns = np.zeros((n_coordinates, n + capacity), dtype=space.vectors.dtype)  # one point a column
        self.columns[:, :n] = space.vectors.T
        seen = gram if weights is None else (space.vectors * weights) @ space.vectors.T
        self._squares = np.zeros(n + capacity)
        self._squares[:n] = seen.diagonal()
        variance = float(space.vectors.var() if weights is None else 1.0)
        n_seen = n_coordinates if weights is None else np.count_nonzero(weights)
        self._scale = 1.0 / (n_seen * variance) if variance > 0 else 1.0  # gamma = "scale"
        kernel_rows = np.stack([self._kernel(seen[i], self._squares[i]) for i in range(n)])
        self.discriminator = Discriminator(kernel_rows, capacity, n_pool=n_pool, late_share=_KEPT_SHARE)

    def learn(self, vectors: Float[np.ndarray, "generated coordinate"]) -> None:
        """Add generated points to the discriminator's training set, given by their coordinates."""
        n, weights = self.n_points, self._space.weights
        self.columns[:, n : n + len(vectors)] = vectors.T
        seen = vectors if weights is None else vectors * weights
        rows = (seen @ self.columns[:, : n + len(vectors)]).astype(np.float64)
        for i, row in enumerate(rows, start=n):
            self._squares[i] = row[i]
            kernel = self._kernel(row[: i + 1], float(row[i]))
            self.discriminator.add(kernel[:i], float(kernel[i]))
        self.n_points = n + len(vectors)

    def probability(self, vector: Float[np.ndarray, "coordinate"]) -> float:
        """Return P, in [0, 1], that a point belongs to the originals, from its coordinates."""
        seen = vector if self._space.weights is None else vector * self._space.weights
        return self.probability_of_dots(seen @ self.columns[:, : self.n_points], float(seen @ vector))

    def probability_of_dots(self, dots: Float[np.ndarray, "point"], square: float) -> float:
        """Return P of a point from its dot products with all known points and with itself, as weighed by the space."""
        return probability(self.discriminator.decision_value(self._kernel(dots, square)))

    def _kernel(self, dots: Float[np.ndarray, "point"], square: float) -> Float64[np.ndarray, "point"]:
        """Kernel values of a point and the first known ones."""
        if self._is_linear:
            return np.asarray(self._scale * dots, dtype=np.float64)
        squares = self._squares[: len(dots)]
        return np.asarray(np.exp(-self._scale * np.maximum(squares + square - 2 * dots, 0.0)))


class NeighborSearch:
    """Search neighbors of one class and sign; each search knows those kept before.

    All candidates of a class and sign are held against the same points: originals, a fixed pool of seeds that no
    search starts from, and the neighbors kept. The candidates themselves are never learned: a discriminator that
    knows them favors one that lies far from the others, which is a seed (reading 27).

    All that a candidate needs is its row of dot products. A candidate is an earlier point with few coordinates
    changed, so its row is that point's row plus as many columns of coordinates, whatever the size of the image.

    Args:
        space: the originals of the class.
        gram: their dot products, the Gram matrix.
        sign: +1 for positive, -1 for negative neighbors.
        closest_pair: rho.
        capacity: how many neighbors will be kept at most.
        settings: how to search.
        rng: source of the pool's seeds, and of those that the reported probability rests on.
    """

    def __init__(
        self,
        space: SearchSpace,
        gram: Float64[np.ndarray, "original original"],
        sign: Sign,
        closest_pair: float,
        capacity: int,
        settings: SearchSettings,
        *,
        rng: np.random.Generator,
    ) -> None:
        n = self._n_originals = len(gram)
        self._space, self._sign, self._settings = space, sign, settings
        margin = _MARGIN if settings.enforce_rules else 0.0
        exact = rules_for(sign, closest_pair, settings)
        self._rules = Rules(exact.spacing * (1 + margin), exact.clearance * (1 + margin), exact.reach * (1 - margin))
        self._closest_pair = closest_pair
        pool = fresh_seeds(space, _POOL, rng=rng)
        self._judge = Judge(space, gram, settings.kernel, len(pool) + capacity, n_pool=len(pool))
        self._judge.learn(pool)
        pool = fresh_seeds(space, 1, rng=rng)
        self._outside_judge = Judge(space, gram, settings.kernel, len(pool))  # sees neither that pool nor a neighbor
        self._outside_judge.learn(pool)
        # The squared lengths of originals and neighbors, in the places that the judge's columns have.
        self._squares = np.zeros(self._judge.n_points + capacity)
        self._squares[:n] = gram.diagonal()
        self._neighbors = np.zeros((capacity, space.images.shape[1]), dtype=np.float32)
        self._n_kept = 0
        self._tried = np.zeros((settings.budget, space.vectors.shape[1]), dtype=space.vectors.dtype)
        self._dots = _Dots(settings.budget, self._squares.size)
        self._seen = self._dots if space.weights is None else _Dots(settings.budget, self._squares.size)

    def keep(self, image: Float32[np.ndarray, "pixel"]) -> None:
        """Remember a neighbor: the next ones keep away from it, and the discriminator has seen it."""
        self._squares[self._judge.n_points] = image @ image
        self._judge.learn(self._space.vector(image)[None])
        self._neighbors[self._n_kept] = image
        self._n_kept += 1

    def find(self, rng: np.random.Generator) -> Found:
        """Search one neighbor and keep it.

        Where no candidate keeps the rules, a new search begins; after the last one, the candidate that breaks them
        least is returned.
        """
        least = np.inf
        for _ in range(1 + self._settings.n_retries):
            origins, ranking = self._try_candidates(rng)
            for t in np.argsort(ranking, kind="stable")[:_N_TRIALS]:
                image = self._space.image(origins[t], self._tried[t])
                breach = self._rules.broken_by(*self._nearest(image))
                if breach < least:
                    least, best, parent = breach, image, origins[t]
                if breach == 0 or not self._settings.enforce_rules:
                    break
            if least == 0 or not self._settings.enforce_rules:
                break
        self.keep(best)
        return Found(best, parent, self._outside_judge.probability(self._space.vector(best)))

    def _starts(self, rng: np.random.Generator) -> tuple[list[int], Float64[np.ndarray, "seed searched"]]:
        """Draw the seeds of one search and their originals."""
        settings = self._settings
        drawn = rng.permutation(self._n_originals)[: settings.start_originals]
        parents = [int(drawn[i % len(drawn)]) for i in range(settings.n_seeds)]
        return parents, np.stack([self._space.seed(parent, rng) for parent in parents])

    def _try_candidates(self, rng: np.random.Generator) -> tuple[list[int], list[float]]:
        """Try a budget of candidates; return their originals, and their ranking, lowest first."""
        space, n = self._space, self._judge.n_points
        parents, starts = self._starts(rng)
        racos = Racos(space.lower, np.ones(space.lower.size), seeds=starts, rng=rng)
        origins: list[int] = []
        ranking: list[float] = []
        points: dict[int, int] = {}  # slot of the search -> number of the candidate
        for t in range(self._settings.budget):
            candidate = racos.ask_sparse()
            if candidate.parent is None:
                origins.append(parents[t if t < len(parents) else int(rng.integers(len(parents)))])
                self._place(t, origins[t], candidate)
            else:
                origins.append(origins[points[candidate.parent]])
                self._move(t, points[candidate.parent], origins[t], candidate)
            chance = self._judge.probability_of_dots(self._seen.rows[t, :n], float(self._seen.squares[t]))
            ranking.append(self._ranking(chance, self._rules.broken_by(*self._nearest_of_candidate(t))))
            slot = racos.tell_sparse(candidate, ranking[t])
            if slot is not None:
                points[slot] = t
        return origins, ranking

    def _place(self, t: int, origin: int, candidate: Candidate) -> None:
        """Add a candidate all of whose coordinates are new."""
        vector, weights = point_of(self._space, origin, candidate.values), self._space.weights
        self._tried[t] = vector
        columns = self._judge.columns[:, : self._judge.n_points]
        self._dots.place(t, vector @ columns, float(vector @ vector))
        if weights is not None:
            weighted = vector * weights
            self._seen.place(t, weighted @ columns, float(vector @ weighted))

    def _move(self, t: int, parent: int, origin: int, candidate: Candidate) -> None:
        """Add a candidate that differs from an earlier one in few coordinates."""
        changed, weights = candidate.coordinates, self._space.weights
        vector = self._tried[t]
        vector[:] = self._tried[parent]
        old = vector[changed].astype(np.float64)
        vector[changed] = self._space.values(origin, changed, candidate.values)
        move = vector[changed].astype(np.float64) - old
        columns = self._judge.columns[changed, : self._judge.n_points]
        self._dots.move(t, parent, move @ columns, float(move @ (2 * old + move)))
        if weights is not None:
            weighted = move * weights[changed]
            self._seen.move(t, parent, weighted @ columns, float(weighted @ (2 * old + move)))

    def _nearest_of_candidate(self, t: int) -> tuple[float, float]:
        """Distances of a candidate from the nearest original and from the nearest neighbor of its sign."""
        n, known = self._n_originals, self._judge.n_points
        dots, squares = self._dots.rows[t, :known], self._squares[:known] * self._dots.squares[t]
        if self._n_kept == 0:
            return self._nearest_of_dots(dots[:n], squares[:n]), np.inf
        kept = slice(known - self._n_kept, known)
        return self._nearest_of_dots(dots[:n], squares[:n]), self._nearest_of_dots(dots[kept], squares[kept])

    def _nearest(self, image: Float32[np.ndarray, "pixel"]) -> tuple[float, float]:
        """Return both distances as above, of an image of all its pixels: from originals, and from neighbors kept."""
        n, known, own = self._n_originals, self._judge.n_points, float(image @ image)
        of_originals = self._nearest_of_dots((self._space.images @ image).astype(np.float64), self._squares[:n] * own)
        if self._n_kept == 0:
            return of_originals, np.inf
        dots = (self._neighbors[: self._n_kept] @ image).astype(np.float64)
        return of_originals, self._nearest_of_dots(dots, self._squares[known - self._n_kept : known] * own)

    def _nearest_of_dots(self, dots: Float64[np.ndarray, "point"], squares: Float64[np.ndarray, "point"]) -> float:
        cosines = dots / np.sqrt(np.where(squares > 0, squares, np.inf))
        # The nearest has the largest cosine, so that one distance is computed, not a row.
        return float(distance_of_dots(cosines.max(keepdims=True), self._settings.distance)[0])

    def _ranking(self, chance: float, broken: float) -> float:
        """Order of candidates, lowest first: the objective, and behind all others those that break a rule."""
        value = objective(self._sign, chance, broken, self._settings.spacing_weight)
        return value + 2 + broken / self._closest_pair if self._settings.enforce_rules and broken > 0 else value


def point_of(space: SearchSpace, parent: int, z: Float64[np.ndarray, "searched"]) -> Float[np.ndarray, "coordinate"]:
    """Return the vector of an original moved by z."""
    vector = space.vectors[parent].copy()
    vector[: z.size] = space.values(parent, np.arange(z.size), z)
    return np.asarray(vector)


def fresh_seeds(space: SearchSpace, n_each: int, *, rng: np.random.Generator) -> Float[np.ndarray, "seed coordinate"]:
    """Draw as many seeds of each original, so that they differ from originals by their noise and by nothing else."""
    parents = np.tile(rng.permutation(len(space.vectors))[:_POOL_ORIGINALS], n_each)
    return np.stack([point_of(space, int(parent), space.seed(int(parent), rng)) for parent in parents])


class _Dots:
    """Dot products of the candidates of one search, with all known points and with themselves."""

    def __init__(self, n_candidates: int, n_points: int) -> None:
        self.rows = np.zeros((n_candidates, n_points))
        self.squares = np.zeros(n_candidates)

    def place(self, t: int, row: Float[np.ndarray, "point"], square: float) -> None:
        self.rows[t, : len(row)] = row
        self.squares[t] = square

    def move(self, t: int, parent: int, change: Float64[np.ndarray, "point"], square_change: float) -> None:
        """Add a candidate whose dot products differ from an earlier one's by `change`."""
        self.place(t, self.rows[parent, : len(change)] + change, float(self.squares[parent]) + square_change)
