"""Sequential RACOS: derivative-free minimization by classification ([18] and its sequential form, AAAI 2017)."""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from pydantic import BaseModel, Field, model_validator
from scipy.optimize import OptimizeResult

_DRAWS = 4  # random coordinates tried before all are compared, looking for one in which two points differ

_WHOLE = np.empty(0, dtype=np.int64)

Point = Float64[np.ndarray, "coordinate"]


class RacosSettings(BaseModel, frozen=True, extra="forbid"):
    """How the search proposes points (defaults published for budgets of 101 to 1000 evaluations)."""

    n_samples: int = Field(12, ge=2, description="m: evaluated points that are remembered, the best ones")
    n_elites: int = Field(2, ge=1, description="k: how many of them are elites, the others being the rest")
    exploitation: float = Field(0.99, ge=0, le=1, description="lambda: fraction of proposals near an elite")
    n_free: int | None = Field(
        None, ge=1, description="coordinates a proposal changes; by default 1, 2 or 3 for up to 100, 1000 or more"
    )

    @model_validator(mode="after")
    def _has_rest(self) -> "RacosSettings":
        if self.n_elites >= self.n_samples:
            raise ValueError(f"`n_elites` must be below `n_samples`, got {self.n_elites} and {self.n_samples}")
        return self


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal: the remembered point in slot `parent` with some coordinates changed.

    Without a parent, `values` is the whole point and `coordinates` is empty.
    """

    parent: int | None
    coordinates: Int64[np.ndarray, "changed"]
    values: Float64[np.ndarray, "value"]


class Racos:
    """Minimize over a box by asking for points and telling their values.

    The `n_samples` best points so far are remembered: the best `n_elites` are the elites, the others the rest. A
    proposal copies a random elite and resamples `n_free` coordinates in a region, found by random cuts, that holds
    the elite and none of the rest; with probability 1 - `exploitation` it is uniform over the box. The elite of rank
    r is drawn with odds 1 / r^3 (reading 9; published: equal odds, which converge more slowly).

    Args:
        lower: lowest value of each coordinate.
        upper: highest value of each coordinate.
        settings: sizes and fractions.
        seeds: points to start from instead of `n_samples` uniform ones.
        rng: source of chance.

    Raises:
        ValueError: the box is empty or not finite, or a seed lies outside.

    Example:
        >>> search = Racos(np.full(2, -1.0), np.full(2, 1.0), rng=np.random.default_rng(0))
        >>> for _ in range(300):
        ...     x = search.ask()
        ...     search.tell(x, float((x**2).sum()))
        >>> search.best[1] < 0.01
        True
    """

    def __init__(
        self,
        lower: Float[np.ndarray, "coordinate"],
        upper: Float[np.ndarray, "coordinate"],
        *,
        settings: RacosSettings = RacosSettings(),  # noqa: B008 -- frozen, so sharing it is safe
        seeds: Float[np.ndarray, "seed coordinate"] | None = None,
        rng: np.random.Generator,
    ) -> None:
        self._lower = np.array(lower, dtype=np.float64)
        self._upper = np.array(upper, dtype=np.float64)
        if self._lower.ndim != 1 or self._lower.shape != self._upper.shape or self._lower.size == 0:
            raise ValueError(
                f"`lower` and `upper` must be two vectors of one length, got shapes {lower.shape} and {upper.shape}"
            )
        if not (np.isfinite(self._lower) & np.isfinite(self._upper) & (self._lower <= self._upper)).all():
            raise ValueError("`lower` must be finite and at most `upper`, got a coordinate that is not")
        n_coordinates = self._lower.size
        if seeds is not None and (seeds.ndim != 2 or seeds.shape[1] != n_coordinates or len(seeds) == 0):
            raise ValueError(f"`seeds` must be rows of {n_coordinates} coordinates, got shape {seeds.shape}")
        if seeds is not None and not ((seeds >= self._lower) & (seeds <= self._upper)).all():
            raise ValueError("`seeds` must lie in the box, got a coordinate outside")
        self._seeds = None if seeds is None else np.array(seeds, dtype=np.float64)
        self._settings = settings
        self._n_free = min(settings.n_free or (1 + (n_coordinates > 100) + (n_coordinates > 1000)), n_coordinates)
        odds = 1.0 / np.arange(1, settings.n_elites + 1) ** 3
        self._odds = np.cumsum(odds).tolist()
        self._rng = rng
        self._n_asked = 0
        self._points = np.empty((settings.n_samples, n_coordinates))  # one row a slot
        self._values: list[float] = []  # one a slot in use
        self._order: list[int] = []  # slots, best first
        # Points that descend from one whole point differ in few coordinates; knowing which spares comparing all.
        self._roots: list[int] = []  # one a slot: the number of that whole point
        self._changed: list[Int64[np.ndarray, changed]] = []  # one a slot: coordinates changed since
        self._n_roots = 0
        self._touched = _WHOLE  # coordinates changed in any slot
        self._there = np.empty((settings.n_samples, 0))  # the points' values in these

    @property
    def best(self) -> tuple[Point, float]:
        """The best point told so far and its value.

        Raises:
            ValueError: nothing was told yet.
        """
        if not self._order:
            raise ValueError("`best` must be read after the first `tell`, got no value yet")
        return self._points[self._order[0]].copy(), self._values[self._order[0]]

    def ask(self) -> Point:
        """Return the next point to evaluate, all its coordinates; `tell` takes its value."""
        return self.dense(self.ask_sparse())

    def tell(self, x: Point, value: float) -> None:
        """Report the value of a point, proposed or not.

        Raises:
            ValueError: the point has another length, or the value is NaN.
        """
        if x.shape != self._lower.shape:
            raise ValueError(f"`x` must have {self._lower.size} coordinates, got shape {x.shape}")
        self.tell_sparse(Candidate(None, _WHOLE, x), value)

    def dense(self, candidate: Candidate) -> Point:
        """Write a candidate out; its parent's slot must not have been refilled since."""
        if candidate.parent is None:
            return np.array(candidate.values)
        x = np.array(self._points[candidate.parent])
        x[candidate.coordinates] = candidate.values
        return x

    def ask_sparse(self) -> Candidate:
        """Propose a point as its difference from a remembered one; see `Candidate`."""
        index, self._n_asked = self._n_asked, self._n_asked + 1
        if self._seeds is not None and index < len(self._seeds):
            return Candidate(None, _WHOLE, self._seeds[index])
        if (
            not self._order
            or (self._seeds is None and index < self._settings.n_samples)
            or self._rng.random() >= self._settings.exploitation
        ):
            return Candidate(None, _WHOLE, self._rng.uniform(self._lower, self._upper))
        n_elites = min(self._settings.n_elites, len(self._order))
        elite = self._order[bisect(self._odds, self._rng.random() * self._odds[n_elites - 1], hi=n_elites - 1)]
        region = self._region(elite)
        coordinates = self._rng.choice(self._lower.size, self._n_free, replace=False, shuffle=False)
        bounds = [region.get(int(j), (self._lower[j], self._upper[j])) for j in coordinates]
        values = np.array([low + (high - low) * self._rng.random() for low, high in bounds])
        return Candidate(elite, coordinates, values)

    def tell_sparse(self, candidate: Candidate, value: float) -> int | None:
        """Report the value of a candidate and return the slot that remembers it, None where none does.

        Raises:
            ValueError: the value is NaN.
        """
        value = float(value)
        if np.isnan(value):
            raise ValueError("`value` must be a number, got NaN")
        if len(self._values) < self._settings.n_samples:
            slot = len(self._values)
            self._values.append(value)
            self._roots.append(0)
            self._changed.append(_WHOLE)
        else:
            slot = self._order[-1]
            if value >= self._values[slot]:
                return None
            self._order.pop()
            self._values[slot] = value
        self._store(slot, candidate)
        place = len(self._order)
        while place > 0 and value < self._values[self._order[place - 1]]:
            place -= 1
        self._order.insert(place, slot)
        return slot

    def _store(self, slot: int, candidate: Candidate) -> None:
        parent = candidate.parent
        if parent is None:
            self._points[slot] = candidate.values
            self._roots[slot], self._changed[slot] = self._n_roots, _WHOLE
            self._n_roots += 1
        else:
            if parent != slot:
                self._points[slot] = self._points[parent]
            self._points[slot, candidate.coordinates] = candidate.values
            self._roots[slot] = self._roots[parent]
            self._changed[slot] = np.concatenate([self._changed[parent], candidate.coordinates])
        self._touched = np.unique(np.concatenate(self._changed))
        self._there = self._points[:, self._touched]

    def _region(self, elite: int) -> dict[int, tuple[float, float]]:
        """Cut the box down until it holds the elite and none of the rest; return the coordinates that were cut."""
        region: dict[int, tuple[float, float]] = {}
        inside = np.array(self._order[self._settings.n_elites :], dtype=np.int64)
        while inside.size:
            other = int(inside[int(self._rng.random() * inside.size)])
            j = self._separating_coordinate(elite, other)
            if j is None:  # a copy of the elite: no cut can tell them apart
                inside = inside[inside != other]
                continue
            at, away = self._points[elite, j], self._points[other, j]
            cut = at + (away - at) * self._rng.random()
            low, high = region.get(j, (self._lower[j], self._upper[j]))
            if at < away:
                region[j] = (low, cut)
                inside = inside[self._points[inside, j] < cut]
            else:
                region[j] = (cut, high)
                inside = inside[self._points[inside, j] > cut]
        return region

    def _separating_coordinate(self, elite: int, other: int) -> int | None:
        """Draw one of the coordinates in which two points differ, None where there is none."""
        if self._roots[elite] == self._roots[other]:
            differing = self._touched[self._there[elite] != self._there[other]]
        else:
            for _ in range(_DRAWS):
                j = int(self._rng.random() * self._lower.size)
                if self._points[elite, j] != self._points[other, j]:
                    return j
            differing = np.flatnonzero(self._points[elite] != self._points[other])
        return int(differing[int(self._rng.random() * differing.size)]) if differing.size else None


def minimize(
    objective: Callable[[Point], Any],
    lower: Float[np.ndarray, "coordinate"],
    upper: Float[np.ndarray, "coordinate"],
    *,
    budget: int,
    seeds: Float[np.ndarray, "seed coordinate"] | None = None,
    rng: np.random.Generator,
    settings: RacosSettings = RacosSettings(),  # noqa: B008 -- frozen, so sharing it is safe
) -> OptimizeResult:
    """Minimize `objective` over a box with sequential RACOS.

    Args:
        objective: called with a point, returns a number; +inf for a point that is not allowed.
        lower: lowest value of each coordinate.
        upper: highest value of each coordinate.
        budget: evaluations; below `n_samples` (or the number of seeds) the start alone is evaluated.
        seeds: points to start from instead of uniform ones.
        rng: source of chance.
        settings: see `RacosSettings`.

    Returns:
        scipy's result: `x`, `fun`, `nfev`, `success`, `message`.

    Raises:
        ValueError: the budget is below 1, or see `Racos`.
    """
    if budget < 1:
        raise ValueError(f"`budget` must be at least 1, got {budget}")
    search = Racos(lower, upper, settings=settings, seeds=seeds, rng=rng)
    for _ in range(budget):
        candidate = search.ask_sparse()
        search.tell_sparse(candidate, float(objective(search.dense(candidate))))
    x, value = search.best
    return OptimizeResult(x=x, fun=value, nfev=budget, success=True, message="The budget is spent.")
