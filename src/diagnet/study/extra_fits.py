"""How an arm is trained with one more image for each mass: stored, drawn anew, or of a class of its own."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from diagnet.arrays import Images, Labels
from diagnet.config import Config
from diagnet.errors import SettingsError
from diagnet.neighbors import NeighborSettings
from diagnet.network import Network
from diagnet.study.extra_images import (
    CHANGES,
    as_many_steps,
    changed_as_much,
    distances_moved,
    fresh_draws,
    hardest_seeds,
    points_with,
    usual_seeds,
)
from diagnet.study.network_fit import Cases, Score, fit_network, make_points
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingState, start


def fit_in_as_many_steps(
    cases: Cases,
    config: Config,
    fold: int,
    repeat: int,
    *,
    points: Points | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
) -> Score:
    """The network on originals and what is beside them; the steps, and the images seen, of originals alone."""
    if points is None:
        points = make_points(cases, config, fold, repeat)
    config = config.model_copy(update={"training": as_many_steps(config.training, points)})
    return fit_network(cases, config, fold, repeat, points=points, on_epoch=on_epoch)


def fit_with_negatives_as_class(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """A negative neighbor for each original; they are a class of their own, with an output that is not scored."""
    config = _with_neighbors(config, negative_ratio=1.0)
    points, n_classes = make_points(cases, config, fold, repeat), config.network.n_classes
    points = replace(points, labels=np.where(points.kinds < 0, n_classes, points.labels))
    network = config.network.model_copy(update={"n_classes": n_classes + 1})
    training = config.training.model_copy(update={"negative_label": "own"})
    config = config.model_copy(update={"network": network, "training": training})
    return fit_in_as_many_steps(cases, config, fold, repeat, points=points)


def fit_with_changes(cases: Cases, config: Config, fold: int, repeat: int, *, kind: str) -> Score:
    """For each seed its parent, changed otherwise and as much: the image moves by the same root mean square."""
    if config.training.flips == "stored":
        raise SettingsError(f"`training.flips` must not be stored for the method {kind}, got 'stored'")
    seeds = make_points(cases, _with_neighbors(config, positive_ratio=1.0, budget=1), fold, repeat)
    chosen = np.flatnonzero(seeds.kinds > 0)
    parents = seeds.take(np.asarray(seeds.origins)[chosen])
    change = CHANGES[kind](parents, rng=_rng(fold, repeat))
    changed = changed_as_much(parents, change, distances_moved(seeds.take(chosen), parents))
    return fit_in_as_many_steps(cases, config, fold, repeat, points=replace(seeds, neighbors=changed))


def fit_with_images(
    cases: Cases,
    config: Config,
    fold: int,
    repeat: int,
    *,
    make: Callable[[Images, Labels, NeighborSettings, np.random.Generator], Images],
) -> Score:
    """The network on originals and one more image for each, made of images, labels, settings and a source of chance."""
    originals, images = _originals(cases, config, fold, repeat)
    made = make(images, originals.labels, config.neighbors, _rng(fold, repeat))
    return fit_in_as_many_steps(cases, config, fold, repeat, points=points_with(originals, made))


def fit_fresh(cases: Cases, config: Config, fold: int, repeat: int, *, common: bool) -> Score:
    """The network on originals and a seed of each that is drawn anew for every epoch."""
    originals, images = _originals(cases, config, fold, repeat)
    draw = fresh_draws(images, originals.labels, config.neighbors, common=common, rng=_rng(fold, repeat))
    drawn = draw(_rng(fold, repeat, 0))
    points = points_with(originals, drawn)

    def renew(state: TrainingState) -> None:
        drawn[:] = draw(_rng(fold, repeat, state.epoch))

    return fit_in_as_many_steps(cases, config, fold, repeat, points=points, on_epoch=renew)


def fit_hard(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """The network on originals and the seed of each that a network of originals alone gets most wrong."""
    originals, images = _originals(cases, config, fold, repeat)
    network = _network_before(originals, config, repeat)

    def loss(others: Images, labels: Labels) -> Float64[np.ndarray, "image"]:
        logits = embeddings_and_logits(network, others)[1].astype(np.float64)
        return np.asarray(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels])

    made = hardest_seeds(images, originals.labels, config.neighbors, loss, rng=_rng(fold, repeat))
    return fit_in_as_many_steps(cases, config, fold, repeat, points=points_with(originals, made))


def fit_in_embedding(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """The network on originals and the seed of each that is most usual in the embedding of a network of originals."""
    originals, images = _originals(cases, config, fold, repeat)
    network = _network_before(originals, config, repeat)
    made = usual_seeds(
        images,
        originals.labels,
        config.neighbors,
        lambda others: embeddings_and_logits(network, others)[0],
        rng=_rng(fold, repeat),
    )
    return fit_in_as_many_steps(cases, config, fold, repeat, points=points_with(originals, made))


def _network_before(originals: Points, config: Config, repeat: int) -> Network:
    """Train a network of originals for a sixth of the epochs; its steps are not counted."""
    before = config.training.model_copy(update={"epochs": -(-config.training.epochs // 6), "graph_weight": 0.0})
    state = start(originals, config.network, config.graph, before, seed=repeat)
    return train(state, originals, config.graph, before, seed=repeat).network


def _with_neighbors(config: Config, **changes: float | int) -> Config:
    """Return settings with no neighbors but those of the changes."""
    none = {"positive_ratio": 0.0, "negative_ratio": 0.0}
    return config.model_copy(update={"neighbors": config.neighbors.model_copy(update=none | changes)})


def _originals(cases: Cases, config: Config, fold: int, repeat: int) -> tuple[Points, Images]:
    originals = make_points(cases, _with_neighbors(config), fold, repeat)
    return originals, originals.take(np.arange(len(originals)))


def _rng(fold: int, repeat: int, *place: int) -> np.random.Generator:
    """Chance of the images made beside originals."""
    return np.random.default_rng([repeat, fold, 5, *place])
