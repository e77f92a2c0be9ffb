"""What moves the weights beside the loss: learning-rate schedule and optimizer."""

from typing import Literal

import numpy as np
import torch
from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def make_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float, *, backbone_rate: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW over all weights that are trained.

    Args:
        network: whose weights.
        learning_rate: at the top.
        weight_decay: of all weights.
        backbone_rate: of a pretrained network's `backbone`, a fraction of the others' learning rate.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        groups.setdefault(backbone_rate if name.startswith("backbone.") else 1.0, []).append(weight)
    return torch.optim.AdamW(
        [{"params": weights, "rate": rate} for rate, weights in groups.items()],
        lr=learning_rate,
        weight_decay=weight_decay,
        fused=True,
    )


def rate_factor(schedule: Schedule, warm_up: float, step: int, n_steps: int) -> float:
    """Fraction of the top learning rate at a step: a linear warm-up, then the schedule's way to zero (or none).

    Args:
        schedule: after the warm-up: half a cosine, a line, or the top rate all along.
        warm_up: share of all steps spent warming up.
        step: from 0.
        n_steps: in the whole training.
    """
    warming = int(warm_up * n_steps)
    if step < warming:
        return (step + 1) / warming
    done = (step - warming) / max(1, n_steps - warming)
    if schedule == "cosine":
        return float(0.5 * (1 + np.cos(np.pi * done)))
    return 1.0 - done if schedule == "linear" else 1.0
