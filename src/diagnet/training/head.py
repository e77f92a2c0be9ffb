"""How a pretrained network begins: a logistic regression on its features of the training images."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from diagnet.laplacian import SignedLaplacianClassifier, joined
from diagnet.network import PretrainedNetwork
from diagnet.progress import Progress, silent
from diagnet.training.device import Compute
from diagnet.training.known_edges import lesions_of
from diagnet.training.points import Points
from diagnet.training.transforms import DrawSettings, draw_images

FEATURE_BATCH = 32  # images in one pass
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
    unlabelled: Points | None = None,
    known_weight: float = 0.0,
    progress: Progress = silent,
) -> None:
    """Fit features' mean and spread, and the classifier, to the originals as they are and as they are drawn.

    Masses without a label count through edges that are known to be right: all images of a lesion attract each other,
    its views, its sources and what is drawn of them.

    Args:
        network: whose `standard` and `classifier` are set.
        points: to be trained on; neighbors are left out.
        draws: how images are drawn.
        compute: where the network is.
        n_views: how often each is drawn, besides being taken as it is.
        seed: of the draws.
        unlabelled: masses without a label; they, and the points, must say which lesion each is.
        known_weight: of the mean of (f_i - f_j)^2 over known edges, f the log-odds, beside the mean cross-entropy; it
            counts where there are masses without a label.
        progress: called after each batch.

    Source: Kumar et al., Fine-tuning can distort pretrained features, ICLR 2022 (linear probing first).
    """
    originals = np.flatnonzero(points.kinds == 0)
    parts = [(points, originals, np.random.default_rng(seed))]
    if unlabelled is not None:
        parts.append((unlabelled, np.arange(len(unlabelled)), np.random.default_rng([seed, 1])))
    n_masses, done, views = sum(len(rows) for _, rows, _ in parts), 0, []
    for view in range(1 + n_views):
        found = []
        for source, rows, rng in parts:
            for left in range(0, len(rows), FEATURE_BATCH):
                progress("features", done, (1 + n_views) * n_masses)
                batch = rows[left : left + FEATURE_BATCH]
                found.append(_features_of(network, source, batch, draws if view else None, compute, rng))
                done += len(batch)
        views.append(np.concatenate(found))
    progress("features", done, done)
    rows = np.concatenate(views).astype(np.float64)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    rows = (rows - mean) / spread
    # The strength is of one view: more views of the same masses are no more masses.
    inverse = 1 / (PENALTY * len(views))
    if unlabelled is None:
        labels = np.tile(points.labels[originals], len(views))
        model = LogisticRegression(C=inverse, max_iter=_MOST_ITERATIONS).fit(rows, labels)
    else:
        labels = np.tile(np.concatenate([points.labels[originals], np.full(len(unlabelled), -1)]), len(views))
        edges = joined(np.tile(np.concatenate([lesions_of(points)[originals], lesions_of(unlabelled)]), len(views)))
        model = SignedLaplacianClassifier(known_weight, inverse, unlabelled=-1, max_iter=_MOST_ITERATIONS)
        model.fit(rows, labels, edges)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes have one row of log-odds
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    device = network.standard.device
    with torch.no_grad():
        network.standard.copy_(torch.from_numpy(np.stack([mean, spread])).to(device))
        network.classifier.weight[model.classes_] = torch.from_numpy(weight).float().to(device)
        network.classifier.bias[model.classes_] = torch.from_numpy(bias).float().to(device)


def _features_of(
    network: PretrainedNetwork,
    points: Points,
    rows: Int64[np.ndarray, "row"],
    draws: DrawSettings | None,
    compute: Compute,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "row feature"]:
    """Features of some points, as drawn, or as they are without `draws`; not standardized yet."""
    if draws is None:
        images = torch.from_numpy(points.take(rows))[:, None].to(compute.device)
    else:
        images = draw_images(points, rows, draws, device=compute.device, rng=rng)
    return compute_features(network, images)


def compute_features(
    network: PretrainedNetwork, images: Float[Tensor, "image 1 h w"]
) -> Float32[np.ndarray, "image feature"]:
    """Features of images where the network is, which is left in its mode of evaluation."""
    network.eval()
    with torch.inference_mode():
        return network.features(images).float().cpu().numpy()
