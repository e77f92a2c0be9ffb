"""A rival: learned features and a random forest, after Dhungel et al. (MICCAI 2016).

1. A network learns to regress hand-crafted features of each mass, standardized: squared error.
2. Its last features are tuned to the class by cross-entropy, with a fresh classifier.
3. A random forest learns the class from the tuned network's last features.

What differs from the paper: the network is the study's separable one, not two convolutions; it sees the region alone,
not the segmented mass as a second channel, since masses of mammograms have no mask; the hand-crafted features are this
study's 378 of shape, texture and gradients (`diagnet.study.features`), not the paper's 781. Each of the first two
stages has half of the settings' epochs, so that both together have the steps of plain cross-entropy. The forest has 500
trees, classes of equal weight and leaves of at least 5 masses, set beforehand. Like the paper's, it learns from
features of masses that the network was tuned on.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import nn
from torch.nn import functional

from diagnet.arrays import Images
from diagnet.config import Config
from diagnet.losses import classification_loss
from diagnet.network import Network, NetworkSettings, SeparableNetwork
from diagnet.study.rivals.steps import RivalTraining
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import random_state

_TREES, _LEAF = 500, 5


class RegressionNetwork(SeparableNetwork):
    """The separable network with a second head on H: the hand-crafted features."""

    def __init__(self, settings: NetworkSettings, n_described: int) -> None:
        super().__init__(settings)
        self.described = nn.Linear(settings.n_hidden, n_described)


def train_described(
    points: Points, described: Float[np.ndarray, "point feature"], config: Config, *, seed: int
) -> RegressionNetwork:
    """Train a network to regress hand-crafted features, then to tell the classes.

    Args:
        points: masses, with or without what lies around them.
        described: hand-crafted features of each.
        config: shape of the network, batches, draws, learning rate.
        seed: of every draw.
    """
    with random_state(seed, 0):
        network = RegressionNetwork(config.network, described.shape[1])
    spread = described.std(axis=0)
    wanted = ((described - described.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    first = RivalTraining(network, points, config, seed=seed)
    device = first.compute.device
    regressed = torch.from_numpy(wanted).to(device)
    targets = torch.from_numpy(points.targets(config.training.negative_label, config.network.n_classes)).to(device)
    n_first = config.training.epochs // 2
    for step in first.steps(n_first):
        with first.compute.autocast():
            hidden = network.hidden(network.pool(network.forward_features(step.images)))
            found = network.described(torch.relu(hidden))
        first.move(functional.mse_loss(found.float(), regressed[step.rows]))
    second = RivalTraining(network, points, config, seed=seed + 1)
    for step in second.steps(config.training.epochs - n_first):
        with second.compute.autocast():
            logits = network(step.images)
        second.move(classification_loss(logits, targets[step.rows]))
    return network


class FeatureForest:
    """A random forest on a network's last features H, rectified as its classifier sees them."""

    def __init__(self, network: Network, points: Points, *, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self.network = network
        self.forest = RandomForestClassifier(
            _TREES, min_samples_leaf=_LEAF, class_weight="balanced", random_state=seed % 2**32, n_jobs=1
        )
        own = points.kinds >= 0
        self.forest.fit(self._features(points.take(np.flatnonzero(own))), points.labels[own])

    def log_odds(self, images: Images, malignant: int) -> Float64[np.ndarray, "image"]:
        """Log-odds that masses are of the class `malignant`: the trees' mean probability."""
        places = list(self.forest.classes_)
        share = self.forest.predict_proba(self._features(images))[:, places.index(malignant)]
        odds = (share * _TREES + 0.5) / (_TREES + 1)  # never 0 or 1
        return np.asarray(np.log(odds / (1 - odds)), dtype=np.float64)

    def _features(self, images: Images) -> Float[np.ndarray, "image feature"]:
        return np.asarray(np.maximum(embeddings_and_logits(self.network, images)[0], 0))
