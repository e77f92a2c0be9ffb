"""J_g of Eq. 4 over all training points, from the memory bank."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diagnet.graph import SignedGraph
from diagnet.losses import edge_loss
from diagnet.training.state import TrainingSettings

_EDGES = 65_536  # looked at together where all are needed


def whole_graph_term(graph: SignedGraph, bank: Float[Tensor, "point feature"], settings: TrainingSettings) -> float:
    """J_g of all points (Eq. 4), by their embeddings in the bank; in blocks of edges."""
    edges = graph.signs.tocoo()
    anchors, others, signs = (torch.from_numpy(part.astype(np.int64)) for part in (*edges.coords, edges.data))
    total = 0.0
    for left in range(0, len(signs), _EDGES):
        block = slice(left, left + _EDGES)
        ends = (part[block].to(bank.device) for part in (anchors, others, signs))
        terms = edge_loss(bank, bank, *ends, margin=settings.margin, distance=settings.distance, reduction="sum")
        total += terms.item()
    return total if settings.reduction == "sum" else total / max(1, len(graph.anchors))
