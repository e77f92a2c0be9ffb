"""J_g of Eq. 4 as training has it: a batch's estimate with a memory bank, and the whole of it from the bank."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diagnet.graph import SignedGraph
from diagnet.losses import edge_loss
from diagnet.training.batches import Edges
from diagnet.training.state import TrainingSettings

_EDGES = 65_536  # looked at together where all are needed


def graph_term(
    embeddings: Float[Tensor, "row feature"],
    edges: Edges,
    bank: Float[Tensor, "point feature"],
    settings: TrainingSettings,
    *,
    n_batch: int,
    n_anchors: int,
) -> Float[Tensor, ""]:
    """Estimate J_g (Eq. 4) from a batch's edges; an end that was not passed through the network is the bank's, fixed.

    Args:
        embeddings: of the first of the edges' points, with gradient.
        edges: of the batch.
        bank: last seen embedding of each point.
        settings: margin, distance and reduction.
        n_batch: points of the batch itself.
        n_anchors: anchors of the whole graph.
    """
    outside = torch.from_numpy(edges.points[len(embeddings) :]).to(bank.device)
    table = torch.cat([embeddings, bank[outside]])
    total = edge_loss(
        table,
        table,
        torch.from_numpy(edges.anchors).to(bank.device),
        torch.from_numpy(edges.others).to(bank.device),
        torch.from_numpy(edges.signs).to(bank.device),
        margin=settings.margin,
        distance=settings.distance,
        reduction="sum",
    )
    if settings.reduction == "sum":
        return total
    # The batch's share of the anchors: an epoch's steps then average to J_g over the number of anchors.
    return total * (len(bank) / (n_batch * max(1, n_anchors)))


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
