"""Neighbors in the embedding of a pretrained network: feature vectors, searched as images are (Eqs. 1-2)."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32

from diagnet.arrays import Images, Labels
from diagnet.config import Config
from diagnet.neighbors import Neighbors, find_neighbors
from diagnet.network import PretrainedNetwork, create_network
from diagnet.progress import Progress, silent
from diagnet.training.head import FEATURE_BATCH, compute_features
from diagnet.training.points import Moves
from diagnet.training.state import random_state

_REACH = 8.0  # spreads of a feature on either side of its mean; what lies beyond counts as this


def find_moves(
    config: Config,
    images: Images,
    labels: Labels,
    *,
    rng: np.random.Generator,
    workers: int | None = None,
    progress: Progress = silent,
) -> tuple[Neighbors, Moves]:
    """Search neighbors among the features that the network begins with.

    A feature's mean is 0.5 and 16 of its spreads are 1, so that a feature vector is searched as an image is. What is
    trained on is the move from the original: the network's features change while it is trained, and so do those of an
    original whose region is drawn anew.

    Args:
        config: settings of the network and the search.
        images: originals, in [0, 1].
        labels: their classes.
        rng: of the search.
        workers: processes of the search.
        progress: called at each step.

    Returns:
        The neighbors, without images, and how each moves its original's features.
    """
    rows = _features(config, images, progress)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + np.float32(1e-6)
    scaled = np.clip((rows - mean) / (2 * _REACH * spread) + 0.5, 0, 1)
    settings = config.neighbors.model_copy(update={"search_space": "subspace"})
    found = find_neighbors(scaled[:, None], labels, settings, rng=rng, workers=workers, progress=progress)
    moves = (found.images[:, 0] - scaled[found.parents]) * (2 * _REACH * spread)
    return replace(found, images=found.images[:, :0, :0]), Moves(found.parents, moves)


def _features(config: Config, images: Images, progress: Progress) -> Float32[np.ndarray, "image feature"]:
    """Features of images, not standardized, by the network before it is trained."""
    compute = config.training.compute(config.network)
    with random_state(config.seed):
        network = create_network(config.network).to(compute.device)
    if not isinstance(network, PretrainedNetwork):
        raise TypeError("a search among features is of a pretrained network")  # refused by `Config`
    found = []
    for left in range(0, len(images), FEATURE_BATCH):
        progress("features", left, len(images))
        batch = torch.from_numpy(images[left : left + FEATURE_BATCH])[:, None].to(compute.device)
        found.append(compute_features(network, batch))
    progress("features", len(images), len(images))
    return np.concatenate(found)
