"""What a model's training masses looked like, and whether a region is like them (docs/predict.md)."""

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_serializer, model_validator
from scipy.spatial.distance import cdist

from diagnet.data.region_facts import RegionFacts

# Of a fact's range; a narrower one is taken for as wide as this, about its middle.
_LEAST_WIDTH = RegionFacts(
    contrast=0.05, spread=0.02, brightness=0.05, sharpness=0.05, grain=0.05, evenness=0.05, center=0.2,
    air=0.05,
    picture_air=0.05, picture_brightness=0.05, picture_spread=0.02, picture_sharpness=0.02,
    picture_grain=0.05, picture_evenness=0.05, picture_tone=0.2,
    side_px=0.5, share=0.5, side_mm=0.5,
)  # fmt: skip
_WORDS = {"picture_tone": "picture detail, bright over dark"}
_NAMES = tuple(_WORDS.get(name, name.replace("_", " ")) for name in RegionFacts._fields)
_SIZES = ("side_px", "share", "side_mm")  # compared as logarithms
_SHOWN_AS_RATIO = np.array([name in (*_SIZES, "picture_tone") for name in RegionFacts._fields])
_LOOKS = np.array([name not in _SIZES for name in RegionFacts._fields])
# A region of more pixels than any training mass is reduced to the same size: only too few are another picture.
_MORE_IS_FINE = np.array([name == "side_px" for name in RegionFacts._fields])
_LEAST_MASSES, _PARTS = 50, 5
_MOST_ROWS = 2000  # training masses that are compared with
_QUIET = 0.98  # of masses of the same kind that each of the two rules lets pass
_FAR_ALONE, _FAR_TOGETHER = 1.0, 2.0  # widths beyond the limit; times the limit
_N_NEAREST, _N_ALIKE, _N_SHOWN = 5, 10, 20  # the distance; the metric; the range that a reason names
_LEAST_LIMIT = 1e-9  # stands for a limit of nothing

Rows = Float[np.ndarray, "mass fact"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a region is like the training masses.

    Attributes:
        is_unlike: the score is to be flagged.
        is_far: the region is so far from the training masses that no score must be given.
        reason: why, in one line; "" where it is like them.
        source: of most of the training masses that look most similar; "" where there was one source, or the region is
            unlike them all.
    """

    is_unlike: bool = False
    is_far: bool = False
    reason: str = ""
    source: str = ""


class Kind(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What training masses of one kind of images looked like.

    Attributes:
        low: the lowest value of each fact; None where the fact is not known.
        high: the highest.
        rows: looks of the training masses, float32 as base64.
        alike: inverse covariance of what similar masses differ by.
        limit_alone: excess of a fact that is still quiet, in widths of its range.
        limit_together: distance from the most similar masses that is still quiet.
        sources: name of the source that these masses are of, where there were several. Models from before each source
            was a kind of its own have all of their names.
        row_sources: place in `sources` of each of `rows`, uint8 as base64; "" where all are of one.
    """

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    rows: str
    alike: tuple[tuple[float, ...], ...]
    limit_alone: float
    limit_together: float
    sources: tuple[str, ...] = ()
    row_sources: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Kind":
        """Facts are those of this version, and every array is of their number."""
        n_facts, n_looks = len(RegionFacts._fields), int(_LOOKS.sum())
        n_bytes = len(base64.b64decode(self.rows, validate=True))
        is_whole = len(self.low) == len(self.high) == n_facts and n_bytes and n_bytes % (4 * n_looks) == 0
        if not is_whole or len(self.alike) != n_looks or any(len(row) != n_looks for row in self.alike):
            raise ValueError("`domain` must be of the facts of this version of diagnet, got others.")
        if not np.isfinite(np.frombuffer(base64.b64decode(self.rows), dtype="<f4")).all():
            raise ValueError("`domain` must hold finite numbers, got others.")
        of_rows = self._row_sources
        if len(self.sources) > 1 and (len(of_rows) * 4 * n_looks != n_bytes or of_rows.max() >= len(self.sources)):
            raise ValueError("`domain` must name the source of each of its rows, got others.")
        return self

    def judged(self, facts: RegionFacts) -> tuple[Verdict, float]:
        """Compare a region with the training masses; return the distance from them beside it, in times the limit."""
        row = _comparable(np.array([facts]))
        excess = self._reference.excess(row)[0]
        most = int(excess.argmax())
        distance = float(self._reference.distance(row)[0])
        is_out_alone, is_out_together = excess[most] > self.limit_alone, distance > self.limit_together
        in_limits = distance / max(self.limit_together, _LEAST_LIMIT)
        if not (is_out_alone or is_out_together):
            return Verdict(source=self._source(row)), in_limits
        is_far = excess[most] > self.limit_alone + _FAR_ALONE or distance > _FAR_TOGETHER * self.limit_together
        if is_out_alone:
            low, high = (_shown(side[most], most) for side in (self._reference.low, self._reference.high))
            reason = f"{_NAMES[most]} {_shown(row[0, most], most)}, training {low} to {high}"
        else:
            reason = self._reference.reason(row)
        return Verdict(True, bool(is_far), reason), in_limits

    def _source(self, row: Float[np.ndarray, "1 fact"]) -> str:
        if len(self.sources) < 2:
            return "".join(self.sources)
        nearest = self._row_sources[self._reference.most_similar(row)]
        return self.sources[int(np.bincount(nearest).argmax())]

    @property
    def _row_sources(self) -> NDArray[np.uint8]:
        return np.frombuffer(base64.b64decode(self.row_sources, validate=True), dtype=np.uint8)

    @cached_property
    def _reference(self) -> "_Reference":
        looks = np.frombuffer(base64.b64decode(self.rows), dtype="<f4").reshape(-1, int(_LOOKS.sum()))
        low, high = (
            np.array([np.nan if side is None else side for side in sides], dtype=np.float64)
            for sides in (self.low, self.high)
        )
        return _Reference(low, high, looks.astype(np.float64), np.array(self.alike))


class Domain(BaseModel, frozen=True, extra="forbid"):
    """What training masses looked like, as it is stored with a network: each source is a kind of its own.

    A region is like them if it is like those of one kind. One range for a mixture of kinds would let pass what is none
    of them. A single kind is stored as itself, which is how all domains were stored before.
    """

    kinds: tuple[Kind, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, stored: Any) -> Any:
        return {"kinds": [stored]} if isinstance(stored, dict) and "kinds" not in stored else stored

    @model_serializer(mode="wrap")
    def _stored(self, handler: Callable[["Domain"], Any]) -> dict[str, Any]:
        stored: dict[str, Any] = handler(self)
        return dict(stored["kinds"][0]) if len(self.kinds) == 1 else stored

    def verdict(self, facts: RegionFacts) -> Verdict:
        """Compare a region with the masses of each kind; the mildest answer counts, then that of the nearest kind."""
        judged = [kind.judged(facts) for kind in self.kinds]
        return min(judged, key=lambda each: (each[0].is_unlike, each[0].is_far, each[1]))[0]


def middle_verdict(domains: Sequence[Domain], facts: RegionFacts) -> Verdict:
    """Ask what each network knows and return the middle answer, the milder one of two; like where nothing is known."""
    verdicts = sorted((each.verdict(facts) for each in domains), key=lambda each: (each.is_unlike, each.is_far))
    return verdicts[(len(verdicts) - 1) // 2] if verdicts else Verdict()


def fit_domain(facts: Rows, patients: Sequence[str], sources: Sequence[str] = ()) -> Domain | None:
    """Keep what masses look like, with limits from masses whose patients had no part; None where they are too few.

    Args:
        facts: of each mass, in the order of `RegionFacts`.
        patients: of each mass.
        sources: of each mass, where there are several. Each is a kind; one of too few masses or patients joins the
            largest.
    """
    rows = _comparable(facts)
    numbers = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    if _are_too_few(numbers):
        return None
    of_source = list(_rows_of_sources(numbers, sources))
    if len(of_source) < 2:
        return Domain(kinds=(_fit_kind(rows, numbers),))
    return Domain(kinds=tuple(_fit_kind(rows[own], numbers[own], name) for name, own in of_source))


def _are_too_few(patients: Int[np.ndarray, "mass"]) -> bool:
    return len(patients) < _LEAST_MASSES or len(np.unique(patients)) < _PARTS


def _rows_of_sources(
    patients: Int[np.ndarray, "mass"], sources: Sequence[str]
) -> Iterator[tuple[str, Int[np.ndarray, "own"]]]:
    """Yield each source of enough masses and patients, and which masses are its own; the largest has all others."""
    counts, of_mass = Counter(sources), np.array(sources)
    large = [name for name in sorted(counts) if not _are_too_few(patients[of_mass == name])]
    if not large:
        return
    largest = max(large, key=lambda name: counts[name])
    for name in large:
        yield name, np.flatnonzero((of_mass == name) | ((name == largest) & ~np.isin(of_mass, large)))


def _fit_kind(rows: Rows, patients: Int[np.ndarray, "mass"], source: str = "") -> Kind:
    numbers = np.unique(patients, return_inverse=True)[1].astype(np.int64)
    excess, distance = np.zeros(len(rows)), np.zeros(len(rows))
    for part in range(_PARTS):
        is_out = numbers % _PARTS == part
        reference = _reference_of(rows[~is_out], numbers[~is_out])
        excess[is_out] = reference.excess(rows[is_out]).max(axis=1)
        distance[is_out] = reference.distance(rows[is_out])
    reference = _reference_of(rows, numbers)
    return Kind(
        low=tuple(None if np.isnan(side) else side for side in reference.low.tolist()),
        high=tuple(None if np.isnan(side) else side for side in reference.high.tolist()),
        rows=base64.b64encode(reference.looks.astype("<f4").tobytes()).decode("ascii"),
        alike=tuple(map(tuple, reference.alike.tolist())),
        limit_alone=float(np.quantile(excess, _QUIET, method="higher")),
        limit_together=float(np.quantile(distance, _QUIET, method="higher")),
        sources=(source,) if source else (),
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    """Masses to compare with: ranges of their facts, their looks, and the metric between looks."""

    low: Float[np.ndarray, "fact"]
    high: Float[np.ndarray, "fact"]
    looks: Float[np.ndarray, "mass look"]
    alike: Float[np.ndarray, "look look"]

    def excess(self, rows: Float[np.ndarray, "row fact"]) -> Float[np.ndarray, "row fact"]:
        """How far each fact lies outside its range, in widths of the range; 0 where it is not known."""
        widths = _widths(self.low, self.high)
        margin = (widths - (self.high - self.low)) / 2
        above = np.where(_MORE_IS_FINE, -np.inf, rows - self.high)
        outside = np.maximum(np.maximum(self.low - rows, above) - margin, 0)
        return np.asarray(np.nan_to_num(outside / widths, nan=0.0))

    def distance(self, rows: Float[np.ndarray, "row fact"]) -> Float[np.ndarray, "row"]:
        """Mean distance from the most similar masses."""
        return np.asarray(np.sort(self._distances(rows), axis=1)[:, :_N_NEAREST].mean(axis=1))

    def most_similar(self, row: Float[np.ndarray, "1 fact"]) -> Int[np.ndarray, "similar"]:
        """Index of the masses that look most similar."""
        return np.argsort(self._distances(row)[0], kind="stable")[:_N_SHOWN]

    def reason(self, row: Float[np.ndarray, "1 fact"]) -> str:
        """Name the look that lies farthest outside those of the most similar masses."""
        nearest = self.looks[self.most_similar(row)]
        low, high = nearest.min(axis=0), nearest.max(axis=0)
        look = row[0, _LOOKS]
        outside = np.maximum(low - look, look - high) * np.sqrt(np.diag(self.alike))
        most = int(outside.argmax())
        name = int(np.flatnonzero(_LOOKS)[most])
        if outside[most] <= 0:
            return "how contrast, brightness and sharpness go together"
        return (
            f"{_NAMES[name]} {_shown(row[0, name], name)}, the most similar training masses"
            f" {_shown(low[most], name)} to {_shown(high[most], name)}"
        )

    def _distances(self, rows: Float[np.ndarray, "row fact"]) -> Float[np.ndarray, "row mass"]:
        return np.asarray(cdist(rows[:, _LOOKS], self.looks, "mahalanobis", VI=self.alike))


def _reference_of(rows: Rows, patients: Int[np.ndarray, "mass"]) -> _Reference:
    is_known = ~np.isnan(rows).all(axis=0)
    low, high = np.full((2, rows.shape[1]), np.nan)
    low[is_known], high[is_known] = np.nanmin(rows[:, is_known], axis=0), np.nanmax(rows[:, is_known], axis=0)
    chosen = _kept(len(rows))
    rows, patients = rows[chosen], patients[chosen]
    looks = rows[:, _LOOKS]
    widths = _widths(low, high)[_LOOKS]
    apart = cdist(looks / widths, looks / widths)
    apart[_is_same(patients)] = np.inf
    others = np.argsort(apart, axis=1, kind="stable")[:, :_N_ALIKE]
    differences = (looks[:, None] - looks[others]).reshape(-1, looks.shape[1])
    least = np.array(_LEAST_WIDTH)[_LOOKS] / 10
    covariance = differences.T @ differences / len(differences) + np.diag(least**2)
    return _Reference(low, high, looks, np.linalg.inv(covariance))


def _kept(n_masses: int) -> Int[np.ndarray, "kept"]:
    """Index of the masses that are compared with: all, or evenly spread ones where they are many."""
    return np.unique(np.linspace(0, n_masses - 1, min(n_masses, _MOST_ROWS)).round().astype(np.int64))


def _is_same(patients: Int[np.ndarray, "mass"]) -> Bool[np.ndarray, "mass mass"]:
    return np.asarray(patients[:, None] == patients)


def _widths(low: Float[np.ndarray, "fact"], high: Float[np.ndarray, "fact"]) -> Float[np.ndarray, "fact"]:
    return np.asarray(np.fmax(high - low, np.array(_LEAST_WIDTH)))


def _comparable(facts: Rows) -> Rows:
    """Return facts of regions with sizes as logarithms, so that distances are of ratios."""
    rows = facts.astype(np.float64)
    rows[:, ~_LOOKS] = np.log(rows[:, ~_LOOKS])
    return rows


def _shown(value: float, fact: int) -> str:
    value = float(np.exp(value)) if _SHOWN_AS_RATIO[fact] else float(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if 1e-4 <= abs(value) < 0.1 else f"{value:.2f}"
