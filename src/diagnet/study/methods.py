"""What an arm trains: the network, with the signed graph or a rival of it, or a classical classifier."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from diagnet.arrays import Images, Labels
from diagnet.config import Config
from diagnet.data.mass import Mass, malignant_class
from diagnet.errors import MissingExtraError, SettingsError
from diagnet.neighbors import NeighborSettings
from diagnet.network import Network, create_network
from diagnet.run.augmentation import Unlabelled, augment, with_lesions
from diagnet.run.checkpoint import array_hash
from diagnet.study.common_networks import ConvNext, ResNet
from diagnet.study.dhungel import FeatureForest, train_described
from diagnet.study.extra_images import (
    CHANGES,
    as_many_steps,
    changed_as_much,
    distances_moved,
    fresh_draws,
    hardest_seeds,
    mixed_within_class,
    points_with,
    smote,
    usual_seeds,
)
from diagnet.study.features import FEATURES
from diagnet.study.li import masks_of, train_two_paths, wide_masks_of
from diagnet.study.multi_instance import AS_PUBLISHED, MultiInstanceNetwork, SparseInstanceNetwork, sparsity
from diagnet.study.shams import train_adversarially
from diagnet.study.warm_start import warm_network, warm_weights
from diagnet.training.loop import ExtraLoss, train
from diagnet.training.points import Points, Surroundings
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingState, start

# Points of the last job's masses, by the settings of the search for neighbors.
_searched: dict[tuple[object, ...], dict[str, Points]] = {}
# Losses that take the signed graph's place, each a method and an arm of the study `comparators`: what it is, and how it
# is made of pytorch-metric-learning's `losses` and a cosine similarity.
RIVALS: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "supcon": ("supervised contrastive loss", lambda losses, _: losses.SupConLoss(temperature=0.1)),
    "triplet": ("triplet loss", lambda losses, cosine: losses.TripletMarginLoss(margin=0.2, distance=cosine)),
    "contrastive": (
        "contrastive loss",
        lambda losses, cosine: losses.ContrastiveLoss(pos_margin=1, neg_margin=0, distance=cosine),
    ),
}
RIVAL_WEIGHT = 0.3  # of an embedding loss beside cross-entropy


@dataclass(frozen=True, slots=True)
class Cases:
    """Masses to learn from, or to score.

    Attributes:
        images: their regions, in [0, 1].
        masses: what else is known of them.
        labels: 1 where malignant, class index in general.
        patients: as numbers.
        surroundings: what lies around their regions, where an arm draws regions while training.
        patches: of mammograms of patients who are neither tested nor held out, for a warm start.
        unlabelled: masses of such patients whose labels are hidden.
    """

    images: Images
    masses: tuple[Mass, ...]
    labels: Labels
    patients: Int64[np.ndarray, "case"]
    patches: Float32[np.ndarray, "patch height width"] | None = None
    surroundings: Surroundings | None = None
    unlabelled: "Cases | None" = None

    def part(self, rows: Int[np.ndarray, "row"]) -> "Cases":
        """Return the cases in the given rows, in their order."""
        chosen = tuple(self.masses[row] for row in rows)
        around = self.surroundings
        if around is not None:
            around = replace(around, images=around.images[rows], boxes=around.boxes[rows])
        return Cases(np.asarray(self.images[rows]), chosen, self.labels[rows], self.patients[rows], surroundings=around)


Score = Callable[[Cases], Float64[np.ndarray, "case"]]  # log-odds of malignancy
Fit = Callable[[Cases, Config, int, int], Score]  # training cases, settings, fold, repeat


def fit_network(
    cases: Cases,
    config: Config,
    fold: int,
    repeat: int,
    *,
    make_network: Callable[..., Network] = create_network,
    extra_loss: ExtraLoss | None = None,
    points: Points | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
) -> Score:
    """Neighbors, graph and network as the settings say; `points`, where given, are trained on instead."""
    if points is None:
        points = _make_points(cases, config, fold, repeat)
    others = None
    if cases.unlabelled is not None:
        hidden = cases.unlabelled
        beside = Unlabelled(hidden.images, hidden.masses, hidden.patients.tolist(), hidden.surroundings)
        points, others = with_lesions(points, cases.masses, cases.patients.tolist(), beside)
    state = start(
        points,
        config.network,
        config.graph,
        config.training,
        seed=repeat,
        make_network=make_network,
        unlabelled=others,
    )
    train(state, points, config.graph, config.training, seed=repeat, extra_loss=extra_loss, on_epoch=on_epoch)
    return _score_of(state.network, config)


def _score_of(network: Network, config: Config) -> Score:
    """How a trained network scores masses; its outputs beyond the classes are not scored."""
    malignant, n_classes = malignant_class(config.classes), len(config.classes)

    def score(others: Cases) -> Float64[np.ndarray, "case"]:
        logits = embeddings_and_logits(network, others.images)[1][:, :n_classes].astype(np.float64)
        rest = np.delete(logits, malignant, axis=1)
        return np.asarray(logits[:, malignant] - np.logaddexp.reduce(rest, axis=1))

    return score


def _make_points(cases: Cases, config: Config, fold: int, repeat: int) -> Points:
    """Originals and neighbors; the search is not done again for the next arm on the same masses with the same seed."""
    hashes = (array_hash(part) for part in (np.asarray(cases.images), cases.labels, cases.patients))
    place = (fold, repeat, *hashes)
    if _searched.keys() != {place}:
        _searched.clear()
    known = _searched.setdefault(place, {})
    settings = f"{config.neighbors.model_dump_json()}{config.training.flips}{cases.surroundings is not None}"
    if settings not in known:
        known[settings] = augment(
            config,
            cases.images,
            np.arange(len(cases.labels)),
            cases.labels,
            cases.patients,
            rng=np.random.default_rng([repeat, fold]),
            workers=1,
            surroundings=cases.surroundings,
        ).points
    return known[settings]


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
        points = _make_points(cases, config, fold, repeat)
    config = config.model_copy(update={"training": as_many_steps(config.training, points)})
    return fit_network(cases, config, fold, repeat, points=points, on_epoch=on_epoch)


def fit_with_negatives_as_class(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """A negative neighbor for each original; they are a class of their own, with an output that is not scored."""
    config = _with_neighbors(config, negative_ratio=1.0)
    points, n_classes = _make_points(cases, config, fold, repeat), config.network.n_classes
    points = replace(points, labels=np.where(points.kinds < 0, n_classes, points.labels))
    network = config.network.model_copy(update={"n_classes": n_classes + 1})
    training = config.training.model_copy(update={"negative_label": "own"})
    config = config.model_copy(update={"network": network, "training": training})
    return fit_in_as_many_steps(cases, config, fold, repeat, points=points)


def fit_with_changes(cases: Cases, config: Config, fold: int, repeat: int, *, kind: str) -> Score:
    """For each seed its parent, changed otherwise and as much: the image moves by the same root mean square."""
    if config.training.flips == "stored":
        raise SettingsError(f"`training.flips` must not be stored for the method {kind}, got 'stored'")
    seeds = _make_points(cases, _with_neighbors(config, positive_ratio=1.0, budget=1), fold, repeat)
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
    originals = _make_points(cases, _with_neighbors(config), fold, repeat)
    return originals, originals.take(np.arange(len(originals)))


def _rng(fold: int, repeat: int, *place: int) -> np.random.Generator:
    """Chance of the images made beside originals."""
    return np.random.default_rng([repeat, fold, 5, *place])


def fit_with_metric_loss(cases: Cases, config: Config, fold: int, repeat: int, *, name: str) -> Score:
    """Cross-entropy and a loss of pytorch-metric-learning on the embeddings of a batch.

    Raises:
        MissingExtraError: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning import distances, losses
    except ImportError:
        raise MissingExtraError("pytorch-metric-learning", "study") from None
    loss = RIVALS[name][1](losses, distances.CosineSimilarity())

    def extra(embeddings: Float[Tensor, "point feature"], targets: Int[Tensor, "point"]) -> Float[Tensor, ""]:
        counted = targets >= 0
        value: Tensor = loss(embeddings[counted].float(), targets[counted])
        return RIVAL_WEIGHT * value

    return fit_network(cases, config, fold, repeat, extra_loss=extra)


def fit_features(cases: Cases, config: Config, fold: int, repeat: int, *, classifier: str, features: str) -> Score:
    """Standardized features and a classifier whose strength is chosen on inner folds by patient."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    del config, fold
    described = FEATURES[features]
    model = {
        "svm": SVC(class_weight="balanced"),
        "logistic": LogisticRegression(class_weight="balanced", max_iter=5000),
    }[classifier]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=repeat)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {f"{type(model).__name__.lower()}__C": np.logspace(-3, 2, 6)},
        scoring="roc_auc",
        cv=folds,
    )
    search.fit(described(cases.images, cases.masses), cases.labels, groups=cases.patients)
    return lambda others: np.asarray(search.decision_function(described(others.images, others.masses)))


def fit_permuted(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """The network on labels that mean nothing: what it scores above chance afterwards has leaked."""
    labels = np.random.default_rng([repeat, fold, 3]).permutation(cases.labels)
    return fit_network(replace(cases, labels=labels), config, fold, repeat)


def fit_border(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """The network on what surrounds the marked box: the middle of each region is set to grey."""
    bordered = replace(cases, images=_border(cases.images, config), surroundings=None)
    score = fit_network(bordered, config, fold, repeat)
    return lambda others: score(replace(others, images=_border(others.images, config)))


def _border(images: Images, config: Config) -> Images:
    size = images.shape[1]
    margin = round(size * (1 - 1 / config.roi.padding_factor) / 2)
    blanked = np.array(images, dtype=np.float32)
    blanked[:, margin : size - margin, margin : size - margin] = 0.5
    return blanked


def fit_warm(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """The network whose blocks have first learned from patches without labels."""
    if cases.patches is None:
        raise SettingsError("`unlabelled` must be given for a warm start: a manifest of mammograms beside DATA")
    weights = warm_weights(cases.patches, config, seed=_seed(repeat, fold, 4))
    return fit_network(
        cases, config, fold, repeat, make_network=lambda settings: warm_network(create_network(settings), weights)
    )


def fit_dhungel(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """A network regressed to hand-crafted features, then tuned; a random forest on its features."""
    points, seed = _make_points(cases, config, fold, repeat), _seed(repeat, fold, 5)
    described = FEATURES["hand-crafted"](points.take(np.arange(len(points))), ())
    forest = FeatureForest(train_described(points, described, config, seed=seed), points, seed=seed)
    malignant = malignant_class(config.classes)
    return lambda others: forest.log_odds(others.images, malignant)


def fit_shams(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """One network that generates and classifies."""
    points = _make_points(cases, config, fold, repeat)
    return _score_of(train_adversarially(points, config, seed=_seed(repeat, fold, 6)), config)


def fit_li(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """Two paths, for the mask and the class; originals alone, for neighbors have no masks."""
    around, roi = cases.surroundings, config.roi.model_copy(update={"size": cases.images.shape[1]})
    kinds = np.zeros(len(cases.labels), np.int8)
    points = Points(cases.images, cases.labels, kinds, cases.patients, surroundings=around)
    wide = None
    if around is not None:
        wide = Surroundings(wide_masks_of(cases.masses, roi), around.boxes, own_range=False)
    masks = replace(points, images=masks_of(cases.masses, roi), surroundings=wide)
    return _score_of(train_two_paths(points, masks, config, seed=_seed(repeat, fold, 7)), config)


def _seed(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1)[0])


METHODS: Mapping[str, Fit] = {
    "network": fit_network,
    "neighbors": fit_in_as_many_steps,
    "copies": partial(fit_with_images, make=lambda images, *_: images),
    **{kind: partial(fit_with_changes, kind=kind) for kind in CHANGES},
    "mixup-within-class": partial(fit_with_images, make=mixed_within_class),
    "smote": partial(fit_with_images, make=smote),
    "fresh-seeds": partial(fit_fresh, common=False),
    "common-components": partial(fit_fresh, common=True),
    "hard": fit_hard,
    "search-embedding": fit_in_embedding,
    "negatives-as-class": fit_with_negatives_as_class,
    "multi-instance": partial(fit_network, make_network=MultiInstanceNetwork, extra_loss=sparsity),
    "zhu": partial(fit_network, make_network=SparseInstanceNetwork, extra_loss=partial(sparsity, weight=AS_PUBLISHED)),
    "dhungel": fit_dhungel,
    "shams": fit_shams,
    "li": fit_li,
    "resnet": partial(fit_network, make_network=ResNet),
    "convnext": partial(fit_network, make_network=ConvNext),
    **{name: partial(fit_with_metric_loss, name=name) for name in RIVALS},
    "features-svm": partial(fit_features, classifier="svm", features="hand-crafted"),
    "features-logistic": partial(fit_features, classifier="logistic", features="hand-crafted"),
    **{name: partial(fit_features, classifier="logistic", features=name) for name in ("size", "scale", "brightness")},
    "permuted": fit_permuted,
    "border": fit_border,
    "warm-start": fit_warm,
}
