"""What an arm trains: the network, with the signed graph or a rival of it, or a classical classifier."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from diagnet.arrays import Images
from diagnet.config import Config
from diagnet.data.mass import malignant_class
from diagnet.errors import MissingExtraError, SettingsError
from diagnet.network import create_network
from diagnet.study.extra_fits import (
    fit_fresh,
    fit_hard,
    fit_in_as_many_steps,
    fit_in_embedding,
    fit_with_changes,
    fit_with_images,
    fit_with_negatives_as_class,
)
from diagnet.study.extra_images import CHANGES, mixed_within_class, smote
from diagnet.study.features import FEATURES
from diagnet.study.network_fit import Cases, Fit, Score, fit_network, make_points, score_of
from diagnet.study.rivals.common_networks import ConvNext, ResNet
from diagnet.study.rivals.dhungel import FeatureForest, train_described
from diagnet.study.rivals.li import masks_of, train_two_paths, wide_masks_of
from diagnet.study.rivals.multi_instance import AS_PUBLISHED, MultiInstanceNetwork, SparseInstanceNetwork, sparsity
from diagnet.study.rivals.shams import train_adversarially
from diagnet.study.warm_start import warm_network, warm_weights
from diagnet.training.points import Points, Surroundings

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
    points, seed = make_points(cases, config, fold, repeat), _seed(repeat, fold, 5)
    described = FEATURES["hand-crafted"](points.take(np.arange(len(points))), ())
    forest = FeatureForest(train_described(points, described, config, seed=seed), points, seed=seed)
    malignant = malignant_class(config.classes)
    return lambda others: forest.log_odds(others.images, malignant)


def fit_shams(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """One network that generates and classifies."""
    points = make_points(cases, config, fold, repeat)
    return score_of(train_adversarially(points, config, seed=_seed(repeat, fold, 6)), config)


def fit_li(cases: Cases, config: Config, fold: int, repeat: int) -> Score:
    """Two paths, for the mask and the class; originals alone, for neighbors have no masks."""
    around, roi = cases.surroundings, config.roi.model_copy(update={"size": cases.images.shape[1]})
    kinds = np.zeros(len(cases.labels), np.int8)
    points = Points(cases.images, cases.labels, kinds, cases.patients, surroundings=around)
    wide = None
    if around is not None:
        wide = Surroundings(wide_masks_of(cases.masses, roi), around.boxes, own_range=False)
    masks = replace(points, images=masks_of(cases.masses, roi), surroundings=wide)
    return score_of(train_two_paths(points, masks, config, seed=_seed(repeat, fold, 7)), config)


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
