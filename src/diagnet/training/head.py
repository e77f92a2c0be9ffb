"""How a pretrained network begins: a logistic regression on its features of the training images."""

import numpy as np
import torch
from jaxtyping import Float32, Int64
from sklearn.linear_model import LogisticRegression

from diagnet.network import PretrainedNetwork
from diagnet.progress import Progress, silent
from diagnet.training.device import Compute
from diagnet.training.points import Points
from diagnet.training.transforms import DrawSettings, draw_images

_BATCH = 32  # images in one pass
_MOST_ITERATIONS = 1_000
PENALTY = 1e3  # of the classifier's squared weights, against the sum of the losses of one view


def begin_head(
    network: PretrainedNetwork,
    points: Points,
    draws: DrawSettings,
    compute: Compute,
    *,
    n_views: int,
    seed: int,
    progress: Progress = silent,
) -> None:
    """Fit features' mean and spread, and the classifier, to the originals as they are and as they are drawn.

    Args:
        network: whose `standard` and `classifier` are set.
        points: to be trained on; neighbors are left out.
        draws: how images are drawn.
        compute: where the network is.
        n_views: how often each is drawn, besides being taken as it is.
        seed: of the draws.
        progress: called after each batch.

    Source: Kumar et al., Fine-tuning can distort pretrained features, ICLR 2022 (linear probing first).
    """
    originals = np.flatnonzero(points.kinds == 0)
    rng = np.random.default_rng(seed)
    n_images, views = (1 + n_views) * len(originals), []
    for view in range(1 + n_views):
        found = []
        for left in range(0, len(originals), _BATCH):
            progress("features", view * len(originals) + left, n_images)
            batch = originals[left : left + _BATCH]
            found.append(_compute_features(network, points, batch, draws if view else None, compute, rng))
        views.append(np.concatenate(found))
    progress("features", n_images, n_images)
    rows = np.concatenate(views).astype(np.float64)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    labels = np.tile(points.labels[originals], len(views))
    # The strength is of one view: more views of the same masses are no more masses.
    model = LogisticRegression(C=1 / (PENALTY * len(views)), max_iter=_MOST_ITERATIONS)
    model.fit((rows - mean) / spread, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes have one row of log-odds
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    device = network.standard.device
    with torch.no_grad():
        network.standard.copy_(torch.from_numpy(np.stack([mean, spread])).to(device))
        network.classifier.weight[model.classes_] = torch.from_numpy(weight).float().to(device)
        network.classifier.bias[model.classes_] = torch.from_numpy(bias).float().to(device)


def _compute_features(
    network: PretrainedNetwork,
    points: Points,
    rows: Int64[np.ndarray, "row"],
    draws: DrawSettings | None,
    compute: Compute,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "row feature"]:
    """Features of some points, as drawn, or as they are without `draws`; not standardized yet."""
    network.eval()
    with torch.inference_mode():
        if draws is None:
            images = torch.from_numpy(points.take(rows))[:, None].to(compute.device)
        else:
            images = draw_images(points, rows, draws, device=compute.device, rng=rng)
        return network.features(images).float().cpu().numpy()
