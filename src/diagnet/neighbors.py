"""Positive and negative neighbors of every class (Sec. 3.1, Eqs. 1-2)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from joblib import Parallel, delayed  # type: ignore[import-untyped]  # joblib ships no types
from pydantic import Field
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # nor does threadpoolctl

from diagnet.arrays import Images, Kinds, Labels
from diagnet.distance import distance_of_vectors, dot_products
from diagnet.errors import DataError, SettingsError
from diagnet.neighbor_search import Found, NeighborSearch, SearchSettings, rules_for
from diagnet.progress import Progress, silent
from diagnet.search_space import SearchSpace, Sign, component_space, pixel_space

_SIGNS: tuple[Sign, Sign] = (1, -1)
# Where half of the seeds lie beyond, in units of rho. Pixels: reading 10. Components: just off the originals for
# positive neighbors, between them and r3 for negative ones.
_PIXEL_MOVE = 1.0
COMPONENT_MOVE = {1: 1.0, -1: 2.25}
_BATCH = 8  # neighbors a process finds before it reports; another number finds other neighbors
_WORTH_PROCESSES = 10_000  # fewer evaluations are done before a second process has started


class NeighborSettings(SearchSettings, frozen=True, extra="forbid"):
    """How many neighbors are searched, and where."""

    positive_ratio: float = Field(
        0.2, ge=0, le=10, description="positive neighbors over originals of a class; 0 turns them off (reading 13)"
    )
    negative_ratio: float = Field(0.2, ge=0, le=10, description="the same for negative neighbors")
    search_space: Literal["subspace", "pixel", "embedding"] = Field(
        "subspace",
        description="principal components of the class, all grey values [as in the paper], or lite0's features: a "
        "neighbor is its original's features, moved",
    )
    n_components: int = Field(256, ge=1, le=1024, description="components searched at most, with the subspace")
    max_originals: int | None = Field(
        None, ge=2, description="originals of a class a search sees at most; the rules are checked against all"
    )
    smallest_closest_pair: float = Field(1e-4, gt=0, description="floor of rho, for classes with copies (reading 12)")

    @property
    def makes_none(self) -> bool:
        """Whether both ratios are 0."""
        return self.positive_ratio == self.negative_ratio == 0


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Synthetic images with their provenance, class by class, positive before negative.

    Attributes:
        images: grey values in [0, 1].
        labels: the class each was made from.
        kinds: +1 positive, -1 negative.
        parents: index of the original each came from.
        probability: P of belonging to the originals, by a discriminator of originals and seeds that no search saw.
        nearest_original: distance from the nearest original of the class.
        nearest_of_sign: distance from the nearest other neighbor of class and sign; infinite where there is none.
        positive_spacing: whether r1 holds; True where it does not apply.
        negative_spacing: whether r2 holds; True where it does not apply.
        negative_reach: whether r3 holds; True where it does not apply.
        closest_pair: rho of each class.
    """

    images: Images
    labels: Labels
    kinds: Kinds
    parents: Int64[np.ndarray, "neighbor"]
    probability: Float64[np.ndarray, "neighbor"]
    nearest_original: Float64[np.ndarray, "neighbor"]
    nearest_of_sign: Float64[np.ndarray, "neighbor"]
    positive_spacing: Bool[np.ndarray, "neighbor"]
    negative_spacing: Bool[np.ndarray, "neighbor"]
    negative_reach: Bool[np.ndarray, "neighbor"]
    closest_pair: dict[int, float]

    @property
    def keeps_rules(self) -> Bool[np.ndarray, "neighbor"]:
        """Whether a neighbor keeps all its distance rules."""
        return np.asarray(self.positive_spacing & self.negative_spacing & self.negative_reach)


@dataclass(frozen=True, slots=True)
class _Task:
    """The search of one class and sign: what every batch of it needs."""

    label: int
    sign: Sign
    wanted: int
    originals: Int64[np.ndarray, "original"]  # those the search sees
    images: Float32[np.ndarray, "original pixel"]
    gram: Float64[np.ndarray, "original original"]
    squares: Float64[np.ndarray, "every_original"]  # squared lengths, of those it does not see too
    closest_pair: float
    seed: np.random.SeedSequence
    settings: NeighborSettings


def find_neighbors(
    images: Images,
    labels: Labels,
    settings: NeighborSettings = NeighborSettings(),  # noqa: B008 -- frozen, so sharing it is safe
    *,
    rng: np.random.Generator,
    workers: int | None = None,
    progress: Progress = silent,
    n_positive: Mapping[int, int] | None = None,
    finished: Mapping[tuple[int, int], Sequence[Found]] | None = None,
    on_batch: Callable[[tuple[int, int], Sequence[Found]], None] | None = None,
) -> Neighbors:
    """Search positive and negative neighbors of every class, one by one (Eqs. 1-2).

    Args:
        images: originals, training images only.
        labels: their classes, any integers.
        settings: how many and how.
        rng: source of chance; the result does not depend on `workers`, but on how the processor's BLAS kernels round.
        workers: processes, by default one per core where the search is long enough to need them.
        progress: called as neighbors are found.
        n_positive: positive neighbors of each class; None: as `settings` has it.
        finished: what an interrupted call with the same arguments had handed to `on_batch`, in order, for each
            (class, sign); it is not searched again, and the result is that of a call without interruption.
        on_batch: given (class, sign) and the neighbors of each batch as soon as they are found.

    Returns:
        The neighbors; one that could not keep its distance rules says so in its flags.

    Raises:
        DataError: no images, or outside [0, 1] or not finite, fewer than two of a class, or all of a class the same.
        SettingsError: an embedding is asked for, which no images tell.
        ValueError: `images` and `labels` differ in length.
    """
    positive = settings.positive_ratio > 0 if n_positive is None else any(n_positive.values())
    if not (positive or settings.negative_ratio):
        return _none(images.shape[1:])
    if settings.search_space == "embedding":
        raise SettingsError("`search_space` must be subspace or pixel where there is no network, got embedding")
    _check(images, labels)
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    root = np.random.SeedSequence(int(rng.integers(2**63)))
    tasks = [
        task
        for label, seed in zip(np.unique(labels), root.spawn(len(np.unique(labels))), strict=True)
        for task in _class_tasks(flat, np.flatnonzero(labels == label), int(label), settings, seed, n_positive)
    ]
    found = [_whole_batches((finished or {}).get((task.label, task.sign), ()), task.wanted) for task in tasks]
    _run(tasks, found, workers, progress, on_batch)
    kinds = np.array([task.sign for task in tasks for _ in range(task.wanted)], dtype=np.int8)
    made = np.array([one.image for results in found for one in results], dtype=np.float32)
    of_class = np.array([task.label for task in tasks for _ in range(task.wanted)], dtype=np.int64)
    nearest_original, nearest_of_sign = np.full((2, len(kinds)), np.inf)
    holds = np.ones((3, len(kinds)), dtype=bool)
    for task in tasks:
        own = np.flatnonzero((of_class == task.label) & (kinds == task.sign))
        rules = rules_for(task.sign, task.closest_pair, settings)
        apart = dot_products(made[own], made[own])
        squares = apart.diagonal().copy()
        nearest_original[own] = distance_of_vectors(
            dot_products(made[own], flat[labels == task.label]), (squares, task.squares), settings.distance
        ).min(axis=1)
        between = distance_of_vectors(apart, (squares, squares), settings.distance)
        np.fill_diagonal(between, np.inf)
        nearest_of_sign[own] = between.min(axis=1)
        spaced = (nearest_of_sign[own] >= rules.spacing) & (nearest_original[own] >= rules.clearance)
        holds[0 if task.sign > 0 else 1, own] = spaced
        holds[2, own] = nearest_original[own] <= rules.reach
    return Neighbors(
        images=made.reshape(-1, *images.shape[1:]),
        labels=of_class,
        kinds=kinds,
        parents=np.array(
            [task.originals[one.parent] for task, results in zip(tasks, found, strict=True) for one in results],
            dtype=np.int64,
        ),
        probability=np.array([one.probability for results in found for one in results]),
        nearest_original=nearest_original,
        nearest_of_sign=nearest_of_sign,
        positive_spacing=holds[0],
        negative_spacing=holds[1],
        negative_reach=holds[2],
        closest_pair={task.label: task.closest_pair for task in tasks},
    )


def _none(shape: tuple[int, ...]) -> Neighbors:
    """No neighbors, of images of a shape."""
    whole, real, truth = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool)
    images, kinds = np.zeros((0, *shape), np.float32), np.zeros(0, np.int8)
    return Neighbors(images, whole, kinds, whole, real, real, real, truth, truth, truth, {})


def _check(images: Images, labels: Labels) -> None:
    if len(images) != len(labels):
        raise ValueError(f"`labels` must have one entry an image, got {len(labels)} for {len(images)} images")
    if not images.size:
        raise DataError(f"`images` must hold at least 2 images of each class, got shape {images.shape}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # false for NaN
        raise DataError(f"`images` must be finite grey values in [0, 1], got values from {low} to {high}")
    classes, counts = np.unique(labels, return_counts=True)
    for label, count in zip(classes, counts, strict=True):
        if count < 2:
            raise DataError(f"`labels` must hold at least 2 images of each class, got {count} of class {label}")


def _class_tasks(
    flat: Float32[np.ndarray, "image pixel"],
    originals: Int64[np.ndarray, "original"],
    label: int,
    settings: NeighborSettings,
    seed: np.random.SeedSequence,
    n_positive: Mapping[int, int] | None,
) -> list[_Task]:
    """Prepare the searches of one class: rho from all its originals, the rest from those a search sees."""
    rng = np.random.default_rng(seed.spawn(1)[0])
    gram = dot_products(flat[originals], flat[originals])
    closest_pair = smallest_distance(gram, settings)
    if settings.search_space == "subspace" and np.ptp(flat[originals], axis=0).max() == 0:
        raise DataError(
            f"`images` must differ within a class, got {len(originals)} copies of one image in class {label}"
        )
    ratios = {1: settings.positive_ratio, -1: settings.negative_ratio}
    wanted = {sign: max(1, int(ratio * len(originals) + 0.5)) if ratio > 0 else 0 for sign, ratio in ratios.items()}
    if n_positive is not None:
        wanted[1] = n_positive.get(label, 0)
    seen = np.arange(len(originals))
    if settings.max_originals is not None and len(originals) > settings.max_originals:
        seen = np.sort(rng.choice(len(originals), settings.max_originals, replace=False))
    return [
        _Task(
            label,
            sign,
            wanted[sign],
            originals[seen],
            flat[originals[seen]],
            gram[np.ix_(seen, seen)],
            gram.diagonal().copy(),
            closest_pair,
            sign_seed,
            settings,
        )
        for sign, sign_seed in zip(_SIGNS, seed.spawn(len(_SIGNS)), strict=True)
        if wanted[sign]
    ]


def _whole_batches(finished: Sequence[Found], wanted: int) -> list[Found]:
    """Return what can be kept: a batch that was cut short would go on otherwise than a whole one."""
    return list(finished[: len(finished) if len(finished) == wanted else len(finished) // _BATCH * _BATCH])


def _run(
    tasks: list[_Task],
    found: list[list[Found]],
    workers: int | None,
    progress: Progress,
    on_batch: Callable[[tuple[int, int], Sequence[Found]], None] | None,
) -> None:
    """Complete `found` in rounds of batches; a batch depends on what its own search found before, nothing else."""
    total = sum(task.wanted for task in tasks)
    if workers is None:
        workers = (os.cpu_count() or 1) if total and total * tasks[0].settings.budget >= _WORTH_PROCESSES else 1
    progress("neighbors", sum(map(len, found)), total)
    with Parallel(n_jobs=max(1, min(workers, len(tasks))), return_as="generator") as pool:
        while sum(map(len, found)) < total:
            open_tasks = [i for i, task in enumerate(tasks) if len(found[i]) < task.wanted]
            batches = pool(delayed(_batch)(tasks[i], [one.image for one in found[i]]) for i in open_tasks)
            for i, batch in zip(open_tasks, batches, strict=True):
                found[i] += batch
                if on_batch is not None:
                    on_batch((tasks[i].label, tasks[i].sign), batch)
                progress("neighbors", sum(map(len, found)), total)


def _batch(task: _Task, known: list[Float32[np.ndarray, "pixel"]]) -> list[Found]:
    """Find the next neighbors of a search that has found `known` so far."""
    settings = task.settings
    entropy, key = task.seed.entropy, task.seed.spawn_key
    rngs = [np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(*key, i))) for i in range(task.wanted + 1)]
    with threadpool_limits(1, user_api="blas"):  # sums in another order would be other neighbors
        if settings.search_space == "pixel":
            move = _PIXEL_MOVE * task.closest_pair
            space: SearchSpace = pixel_space(task.images, move, settings.distance, rng=rngs[-1])
        else:
            space = component_space(
                task.images,
                task.gram,
                task.sign,
                COMPONENT_MOVE[task.sign] * task.closest_pair,
                settings.distance,
                n_components=settings.n_components,
                rng=rngs[-1],
            )
        search = NeighborSearch(space, task.gram, task.sign, task.closest_pair, task.wanted, settings, rng=rngs[-1])
        for image in known:
            search.keep(image)
        return [search.find(rng) for rng in rngs[len(known) : min(len(known) + _BATCH, task.wanted)]]


def smallest_distance(gram: Float64[np.ndarray, "point point"], settings: NeighborSettings) -> float:
    """Distance rho of the closest pair of distinct originals (Sec. 4.2), with a floor (reading 12)."""
    squares = gram.diagonal()
    distances = distance_of_vectors(gram, (squares, squares), settings.distance)[np.triu_indices(len(gram), 1)]
    return float(max(distances.min(), settings.smallest_closest_pair))
