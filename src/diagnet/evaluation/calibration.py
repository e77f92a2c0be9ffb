"""From a network's logits to probabilities that mean what they say, and to a threshold."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from diagnet.arrays import Labels

OperatingPoint = Literal["youden", "sensitivity90"]
PointScores = Float[np.ndarray, "point"]
Probabilities = Float[np.ndarray, "point classes"]

_BOUNDS = (0.05, 20.0)  # of the temperature


def probabilities(logits: Probabilities, temperature: float = 1.0) -> Probabilities:
    """Softmax of logits / temperature.

    Raises:
        ValueError: `temperature` is not a finite number above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` must be finite and above 0, got {temperature}")
    return np.asarray(softmax(logits / temperature, axis=1))


def fit_temperature(labels: Labels, logits: Probabilities) -> float:
    """Find the temperature that makes softmax(logits / T) honest probabilities on these (validation) masses.

    Minimizes the cross-entropy with Platt's targets, (n_c + 1) / (n_c + C) for the own class of a mass, instead of
    1: where few masses are separated without error, the plain cross-entropy would send T to 0.

    Returns:
        T in [0.05, 20]; 1 where there is nothing to learn from.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017; Platt, Probabilistic outputs for
    support vector machines, 1999.
    """
    n_classes = logits.shape[1]
    if len(labels) == 0 or np.ptp(logits, axis=1).max() == 0:
        return 1.0
    counts = np.bincount(labels, minlength=n_classes)[labels][:, None]
    targets = np.broadcast_to(1 / (counts + n_classes), logits.shape).copy()
    targets[np.arange(len(labels)), labels] *= counts[:, 0] + 1

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=np.log(_BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def choose_threshold(labels: Labels, malignancy: PointScores, rule: OperatingPoint | float) -> float:
    """Choose the malignancy from which a mass is called malignant, on masses the test does not hold.

    Args:
        labels: 1 where malignant, else 0 (`Predictions.malignant`).
        malignancy: score of each mass.
        rule: see `EvaluationSettings.operating_point`; of equally good thresholds, the lowest. A number is the
            sensitivity that is to be kept, at the highest threshold.

    Returns:
        A threshold halfway between two neighboring scores; 0.5 where one class is missing.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"`labels` must be 0 or 1, got {labels.min()} to {labels.max()}")
    n_malignant = int(labels.sum())
    if n_malignant in (0, len(labels)):
        return 0.5
    scores = np.unique(malignancy)
    halfway = (scores[1:] + scores[:-1]) / 2
    # Halfway between neighboring floats may round down to the lower one, which must not be called malignant.
    thresholds = np.concatenate([scores[:1], np.where(halfway > scores[:-1], halfway, scores[1:])])
    called = malignancy[None, :] >= thresholds[:, None]
    sensitivity = (called & (labels == 1)).sum(axis=1) / n_malignant
    specificity = (~called & (labels == 0)).sum(axis=1) / (len(labels) - n_malignant)
    if rule == "youden":
        return float(thresholds[np.argmax(sensitivity + specificity)])
    wanted = 0.9 if rule == "sensitivity90" else float(rule)
    return float(thresholds[sensitivity >= wanted].max())
