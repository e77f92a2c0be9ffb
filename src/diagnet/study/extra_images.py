"""One more image for each mass, made in other ways than the method's: they tell which part of a neighbor helps.

Images are regions in [0, 1]. Each has a parent, the original it was made from, and its class and patient.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from diagnet.arrays import Images, Labels
from diagnet.distance import distance_of_dots, dot_products
from diagnet.neighbor_search import Judge, fresh_seeds, point_of, rules_for
from diagnet.neighbors import COMPONENT_MOVE, NeighborSettings, smallest_distance
from diagnet.search_space import ComponentSpace, PixelSpace, component_space
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings

_STRONGEST = 8.0  # of a change: far more than any neighbor's
_HALVINGS = 30
_POOL = 2  # seeds of each original that a discriminator learns
_N_NEAREST = 5  # masses that SMOTE chooses from, as in its paper

Strength = Float[np.ndarray, "image 1 1"]
Change = Callable[[Strength], Images]  # images changed by strengths, 0 for not at all


def points_with(originals: Points, images: Images) -> Points:
    """Return originals, then an image of each, in their order, with its class and patient."""
    origins = np.arange(len(originals)) if originals.origins is None else originals.origins
    return replace(
        originals,
        labels=np.tile(originals.labels, 2),
        kinds=np.concatenate([originals.kinds, np.ones_like(originals.kinds)]),
        relatives=np.tile(originals.relatives, 2),
        origins=np.tile(origins, 2),
        neighbors=images,
    )


def as_many_steps(settings: TrainingSettings, points: Points) -> TrainingSettings:
    """Return settings with the steps, and the images seen, of as many epochs of the originals alone.

    Batches are made a little smaller where the last one of the originals is not full: `n` batches of the originals are
    then `2 n` of twice as many points.
    """
    n_originals = int((points.kinds == 0).sum())
    n_batches = -(-n_originals // settings.batch_size)
    epochs = max(1, round(settings.epochs * n_originals / len(points)))
    return settings.model_copy(update={"epochs": epochs, "batch_size": -(-n_originals // n_batches)})


def distances_moved(images: Images, parents: Images) -> Float64[np.ndarray, "image"]:
    """Root mean square of what each image differs from its parent by, in grey values."""
    return np.asarray(np.sqrt(np.square(images - parents, dtype=np.float64).mean(axis=(1, 2))))


def changed_as_much(parents: Images, change: Change, distances: Float[np.ndarray, "image"]) -> Images:
    """Change each image so strongly that it moves by its distance, after what is out of [0, 1] was clipped.

    Args:
        parents: what is changed.
        change: in one of the `CHANGES`.
        distances: see `distances_moved`.
    """
    low, high = np.zeros(len(parents)), np.full(len(parents), _STRONGEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_near = distances_moved(change(_column(middle)), parents) < distances
        low, high = np.where(is_near, middle, low), np.where(is_near, high, middle)
    return change(_column((low + high) / 2))


def _column(strengths: Float64[np.ndarray, "image"]) -> Float32[np.ndarray, "image 1 1"]:
    return strengths.astype(np.float32)[:, None, None]


def _clipped(images: Float32[np.ndarray, "image *pixels"]) -> Float32[np.ndarray, "image *pixels"]:
    return np.asarray(np.clip(images, np.float32(0), np.float32(1)))


def noise(parents: Images, *, rng: np.random.Generator) -> Change:
    """Grey noise, independent in each pixel."""
    added = rng.standard_normal(parents.shape, dtype=np.float32)
    return lambda strength: _clipped(parents + strength * added)


def shading(parents: Images, *, rng: np.random.Generator) -> Change:
    """Random quadratic fields: all six terms of second degree, orthonormal, alike in size."""
    n, height, width = parents.shape
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(across), across, down, across * down, across**2, down**2], axis=-1).reshape(-1, 6)
    basis = np.linalg.qr(terms)[0] * np.sqrt(height * width)
    fields = (rng.standard_normal((n, 6)) @ basis.T).reshape(n, height, width).astype(np.float32)
    return lambda strength: _clipped(parents + strength * fields)


def contrast(parents: Images, *, rng: np.random.Generator) -> Change:
    """Gamma and gain, in a random ratio; a random grey value stays as it is under the gain."""
    angle, fixed = (_column(rng.uniform(0, most, len(parents))) for most in (2 * np.pi, 1.0))

    def change(strength: Strength) -> Images:
        gain = np.exp(strength * np.sin(angle))
        return _clipped(parents ** np.exp(strength * np.cos(angle)) * gain + fixed * (1 - gain))

    return change


CHANGES: Mapping[str, Callable[..., Change]] = {"noise": noise, "shading": shading, "contrast": contrast}


def mixed_within_class(
    images: Images,
    labels: Labels,
    settings: NeighborSettings,  # noqa: ARG001 -- SMOTE needs them
    rng: np.random.Generator,
) -> Images:
    """Random mean of each original and another one of its class."""
    share = rng.uniform(size=(len(images), 1, 1)).astype(np.float32)
    others = np.arange(len(images))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        n = len(rows)
        others[rows] = rows[(np.arange(n) + rng.integers(1, n, size=n)) % n]
    return _clipped(images + share * (images[others] - images))


def smote(images: Images, labels: Labels, settings: NeighborSettings, rng: np.random.Generator) -> Images:
    """SMOTE on the principal components of each class: a random place on the way to one of the nearest masses.

    What no component explains stays that of the original.

    Args:
        images: originals.
        labels: their classes.
        settings: how many components at most.
        rng: of which of the nearest, and how far.
    """
    flat, made = images.reshape(len(images), -1), np.empty_like(images)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        n = len(rows)
        components = PCA(min(settings.n_components, n - 1), svd_solver="full").fit(flat[rows])
        scores = components.transform(flat[rows])
        nearest = NearestNeighbors(n_neighbors=min(_N_NEAREST, n - 1)).fit(scores).kneighbors(return_distance=False)
        others = nearest[np.arange(n), rng.integers(nearest.shape[1], size=n)]
        moves = rng.uniform(size=(n, 1)) * (scores[others] - scores)
        moved = flat[rows] + (moves @ components.components_).astype(np.float32)
        made[rows] = _clipped(moved).reshape(n, *images.shape[1:])
    return made


@dataclass(frozen=True, slots=True)
class _Group:
    """Originals whose components seeds are drawn along.

    Attributes:
        rows: which of the originals they are.
        space: the search's, for positive neighbors.
        gram: dot products of the originals.
        clearance: r1, the smallest distance of a neighbor from all of them.
    """

    rows: Int[np.ndarray, "member"]
    space: ComponentSpace
    gram: Float64[np.ndarray, "member member"]
    clearance: float

    def images_of(
        self, parents: Int[np.ndarray, "seed"], vectors: Float64[np.ndarray, "seed coordinate"]
    ) -> Float32[np.ndarray, "seed pixel"]:
        """Return what `ComponentSpace.image` makes of many points, in one product."""
        mixtures = (vectors - self.space.vectors[parents])[:, :-1] @ self.space.mixing
        moved = self.space.images[parents] + mixtures.astype(np.float32) @ self.space.images
        return _clipped(moved)

    def seeds(
        self, parents: Int[np.ndarray, "seed"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "seed coordinate"]:
        """Draw a seed of each of these members."""
        drawn = [point_of(self.space, int(k), self.space.seed(int(k), rng)) for k in parents]
        return np.asarray(drawn, dtype=np.float64)

    def is_clear(
        self, seeds: Float32[np.ndarray, "seed pixel"], settings: NeighborSettings
    ) -> Bool[np.ndarray, "seed"]:
        """Tell which seeds keep r1 from all members."""
        return _is_clear(seeds, self.space.images, self.clearance, settings)


def _is_clear(
    seeds: Float32[np.ndarray, "seed feature"],
    originals: Float32[np.ndarray, "original feature"],
    clearance: float,
    settings: NeighborSettings,
) -> Bool[np.ndarray, "seed"]:
    """Tell which seeds are at least so far from all originals."""
    lengths = np.linalg.norm(seeds, axis=1)[:, None] * np.linalg.norm(originals, axis=1)
    cosines = ((seeds @ originals.T) / np.maximum(lengths, np.finfo(np.float32).tiny)).max(axis=1).astype(np.float64)
    return np.asarray(distance_of_dots(cosines, settings.distance) >= clearance)


def _groups(
    images: Images, labels: Labels, settings: NeighborSettings, *, common: bool, rng: np.random.Generator
) -> Iterator[_Group]:
    """Return the originals of each class, or all in one group, which tells nothing of the class."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    grams = [dot_products(flat[rows], flat[rows]) for rows in classes]
    closest = [smallest_distance(gram, settings) for gram in grams]
    if common:
        classes, grams, closest = [np.arange(len(flat))], [dot_products(flat, flat)], [float(np.mean(closest))]
    for rows, gram, rho in zip(classes, grams, closest, strict=True):
        space = component_space(
            flat[rows],
            gram,
            1,
            COMPONENT_MOVE[1] * rho,
            settings.distance,
            n_components=settings.n_components,
            rng=rng,
        )
        yield _Group(rows, space, gram, rules_for(1, rho, settings).clearance)


def fresh_draws(
    images: Images, labels: Labels, settings: NeighborSettings, *, common: bool = False, rng: np.random.Generator
) -> Callable[[np.random.Generator], Images]:
    """Prepare draws of one seed for each original, along the components of its class.

    A seed that is nearer than r1 to an original is drawn again, as often as a search is begun again.

    Args:
        images: originals.
        labels: their classes.
        settings: of the search that has such seeds.
        common: draw along the components of all originals, by the mean of the classes' rho: the same for each class.
        rng: of how far seeds lie.
    """
    groups = list(_groups(images, labels, settings, common=common, rng=rng))

    def draw(rng: np.random.Generator) -> Images:
        made = np.empty_like(images)
        for group in groups:
            waiting, drawn = np.arange(len(group.rows)), np.empty_like(group.space.images)
            for _ in range(1 + settings.n_retries):
                drawn[waiting] = group.images_of(waiting, group.seeds(waiting, rng))
                waiting = waiting[~group.is_clear(drawn[waiting], settings)]
                if waiting.size == 0:
                    break
            made[group.rows] = drawn.reshape(-1, *images.shape[1:])
        return made

    return draw


def hardest_seeds(
    images: Images,
    labels: Labels,
    settings: NeighborSettings,
    loss: Callable[[Images, Labels], Float[np.ndarray, "image"]],
    *,
    rng: np.random.Generator,
) -> Images:
    """Return the seed of each original with the highest loss, of those that the discriminator takes for originals.

    A seed that is nearer than r1 to an original is none of them. Where none is left, the most usual seed is taken.

    Args:
        images: originals.
        labels: their classes.
        settings: of the search: seeds an original, discriminator, components.
        loss: of images and their classes, by a network trained before.
        rng: of the seeds, and of those that the discriminator learns.
    """
    made = np.empty_like(images)
    for group in _groups(images, labels, settings, common=False, rng=rng):
        pool = fresh_seeds(group.space, _POOL, rng=rng)
        judge = Judge(group.space, group.gram, settings.kernel, len(pool), n_pool=len(pool))
        judge.learn(pool)
        parents = np.repeat(np.arange(len(group.rows)), settings.n_seeds)
        vectors = group.seeds(parents, rng)
        seeds = group.images_of(parents, vectors)
        chances = np.array([judge.probability(vector) for vector in vectors])
        losses = loss(seeds.reshape(-1, *images.shape[1:]), labels[group.rows][parents])
        is_accepted = (chances >= 0.5) & group.is_clear(seeds, settings)
        # Losses are at least 0 and probabilities less than 2: accepted ones come first.
        made[group.rows] = _best(seeds, np.where(is_accepted, losses, chances - 2), images[group.rows])
    return made


def usual_seeds(
    images: Images,
    labels: Labels,
    settings: NeighborSettings,
    embed: Callable[[Images], Float32[np.ndarray, "image feature"]],
    *,
    rng: np.random.Generator,
) -> Images:
    """Return the most probable seed of each original (Eq. 1), by a discriminator and distances in an embedding.

    A seed whose embedding is nearer than r1 to an original's comes after all others.

    Args:
        images: originals.
        labels: their classes.
        settings: of the search: seeds an original, discriminator, components.
        embed: embeddings of images, by a network trained before.
        rng: of the seeds, and of those that the discriminator learns.
    """
    made = np.empty_like(images)
    for group in _groups(images, labels, settings, common=False, rng=rng):
        n = len(group.rows)
        # The first seeds of each original are those that the discriminator learns.
        parents = np.repeat(np.arange(n), _POOL + settings.n_seeds)
        seeds = group.images_of(parents, group.seeds(parents, rng))
        features = embed(seeds.reshape(-1, *images.shape[1:])).reshape(n, _POOL + settings.n_seeds, -1)
        pool, candidates = (part.reshape(-1, part.shape[-1]) for part in np.split(features, [_POOL], axis=1))
        space = PixelSpace(embed(images[group.rows]), noise=0.0)
        gram = dot_products(space.images, space.images)
        judge = Judge(space, gram, settings.kernel, len(pool), n_pool=len(pool))
        judge.learn(pool)
        clearance = rules_for(1, smallest_distance(gram, settings), settings).clearance
        chances = np.array([judge.probability(candidate) for candidate in candidates])
        ranking = np.where(_is_clear(candidates, space.images, clearance, settings), chances, chances - 2)
        own = seeds.reshape(n, _POOL + settings.n_seeds, -1)[:, _POOL:].reshape(len(candidates), -1)
        made[group.rows] = _best(own, ranking, images[group.rows])
    return made


def _best(seeds: Float32[np.ndarray, "seed pixel"], ranking: Float[np.ndarray, "seed"], originals: Images) -> Images:
    """Return the seed of each original that ranks highest; each has as many, one after another."""
    ranks = ranking.reshape(len(originals), -1)
    best = np.arange(len(ranks)) * ranks.shape[1] + ranks.argmax(axis=1)
    return np.asarray(seeds[best].reshape(originals.shape))
