"""The training loop: joint objective J = J_l + lambda J_g over originals and neighbors (Eq. 6, Sec. 4.2)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from diagnet.arrays import Images, Kinds, Labels
from diagnet.batches import Batching, Edges, Neighborhoods, epoch_batches
from diagnet.graph import GraphSettings, SignedGraph, signed_graph
from diagnet.losses import Distance, Reduction, classification_loss, edge_loss, signed_graph_loss
from diagnet.network import NetworkSettings, SeparableNetwork, create_network
from diagnet.progress import Progress, silent


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How the network is trained."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=2)
    graph_weight: float = Field(0.05, ge=0, description="lambda of Eq. 6; 0 is plain cross-entropy")
    margin: float = Field(1.0, gt=0, description="m of Eq. 4")
    distance: Distance = Field("cosine", description="dist of Eq. 4")
    reduction: Reduction = Field("mean", description="of J_g: over anchors, or summed (reading 8)")
    batching: Batching = Field(
        "bank", description="the graph's far ends: from a memory bank, or all in one forward pass (exact)"
    )
    negative_label: Literal["none", "own", "other"] = Field(
        "none", description="class of negative neighbors in Eq. 5: left out, their own, or another (reading 7)"
    )
    flips: Literal["random", "stored", "none"] = Field(
        "random", description="flips drawn for each batch, or all four stored before augmentation (reading 13)"
    )
    rotation: float = Field(20.0, ge=0, le=180, description="largest random rotation, degrees")
    zoom: float = Field(0.15, ge=0, lt=1, description="largest random change of scale")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW's, at the top of one warm-up and cosine decay")
    weight_decay: float = Field(1e-4, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it natively"
    )


@dataclass(frozen=True, slots=True)
class Points:
    """What is trained on: originals, then their adversarial neighbors.

    Attributes:
        images: (n, H, W) in [0, 1].
        labels: class of each point; a negative neighbor's is the class it was made from.
        kinds: 0 original, +1 positive neighbor, -1 negative neighbor.
        relatives: patient of each point as a number, for `graph.skip_relatives`.
    """

    images: Images
    labels: Labels
    kinds: Kinds
    relatives: Int[np.ndarray, "point"]

    def targets(self, negative_label: str, n_classes: int) -> Labels:
        """Labels for Eq. 5, -1 for points that are left out of it (reading 7)."""
        if negative_label == "own":
            return self.labels
        replaced = (self.labels + 1) % n_classes if negative_label == "other" else np.full_like(self.labels, -1)
        return np.where(self.kinds < 0, replaced, self.labels)


@dataclass(slots=True)
class TrainingState:
    """All that a later epoch depends on, besides the settings and the seed."""

    network: SeparableNetwork
    optimizer: torch.optim.Optimizer
    bank: Float32[Tensor, "point feature"]
    graph: SignedGraph | None
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def start(
    points: Points,
    network_settings: NetworkSettings,
    graph_settings: GraphSettings,
    settings: TrainingSettings,
    *,
    seed: int,
) -> TrainingState:
    """Make a fresh network, its optimizer and, in image space, the signed graph (Eq. 3)."""
    with _random_state(seed, 0):
        network = create_network(network_settings)
    originals = points.images[points.kinds == 0]
    network.intensity = torch.tensor([float(originals.mean()), max(float(originals.std()), 1e-6)])
    bank = torch.zeros(len(points.images), network.embedding_size)
    graph = None
    if settings.graph_weight > 0 and graph_settings.space == "image":
        vectors = points.images.reshape(len(points.images), -1)
        graph = signed_graph(vectors, points.labels, points.kinds, graph_settings, relatives=points.relatives)
    return TrainingState(network, _optimizer(network, settings), bank, graph)


def train(
    state: TrainingState,
    points: Points,
    graph_settings: GraphSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    on_epoch: Callable[[TrainingState], None] | None = None,
    progress: Progress = silent,
    stage: str = "train",
) -> TrainingState:
    """Train from `state.epoch` to `settings.epochs` by Eq. 6.

    Every random draw depends on `seed` and the epoch alone, so a run that is taken up again after an epoch ends
    with the same weights as one that was never interrupted.

    Args:
        state: from `start`, or an earlier state.
        points: what to train on.
        graph_settings: how to rebuild the graph when it lives in embedding space.
        settings: everything else.
        seed: of shuffles, flips and dropout.
        on_epoch: called after each epoch with the state, to write a checkpoint or a log line.
        progress: told after each batch.
        stage: what `progress` calls this.

    Returns:
        The same state, at its last epoch.
    """
    network, precision = state.network, resolved_precision(settings.precision)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    targets = torch.from_numpy(points.targets(settings.negative_label, network.settings.n_classes))
    n_batches = len(epoch_batches(len(points.images), settings.batch_size, np.random.default_rng(0)))
    n_steps = n_batches * settings.epochs
    progress(stage, state.epoch * n_batches, n_steps)
    while state.epoch < settings.epochs:
        began = time.perf_counter()
        rng = np.random.default_rng([seed, state.epoch + 1])
        in_embedding = settings.graph_weight > 0 and graph_settings.space == "embedding"
        if in_embedding and state.epoch > 0 and (state.epoch - 1) % graph_settings.refresh_epochs == 0:
            state.graph = signed_graph(
                state.bank.numpy(), points.labels, points.kinds, graph_settings, relatives=points.relatives
            )
        # The bank is empty before the first epoch has filled it.
        has_graph = state.graph is not None and (settings.batching == "exact" or state.epoch > 0)
        neighborhoods = Neighborhoods(state.graph) if has_graph and state.graph is not None else None
        sum_of_losses = 0.0
        network.train()
        with _random_state(seed, state.epoch + 1):
            for step, batch in enumerate(epoch_batches(len(points.images), settings.batch_size, rng)):
                _set_rate(state.optimizer, settings, state.epoch * n_batches + step, n_steps)
                loss = _step(state, points, targets, batch, neighborhoods, settings, precision, rng)
                sum_of_losses += len(batch) * loss
                progress(stage, state.epoch * n_batches + step + 1, n_steps)
        state.epoch += 1
        classification = sum_of_losses / len(points.images)
        graph = None if neighborhoods is None or state.graph is None else _j_g(state.bank, state.graph, settings)
        state.history.append(
            {
                "epoch": state.epoch,
                "loss": classification + settings.graph_weight * (graph or 0.0),
                "classification_loss": classification,
                "signed_graph_loss": graph,
                "learning_rate": float(state.optimizer.param_groups[0]["lr"]),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        if on_epoch is not None:
            on_epoch(state)
    return state


def embeddings_and_logits(
    network: SeparableNetwork, images: Images, *, batch_size: int = 128
) -> tuple[Float32[np.ndarray, "image feature"], Float32[np.ndarray, "image class"]]:
    """H and logits of each image in float32, without dropout, graph or augmentation (reading 21)."""
    was_training = network.training
    network.eval()
    embedded, logits = [], []
    with torch.inference_mode():
        for left in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[left : left + batch_size], dtype=np.float32))[:, None]
            h, scores = network.embed_and_classify(batch)
            embedded.append(h.numpy())
            logits.append(scores.numpy())
    network.train(was_training)
    if not embedded:
        return np.zeros((0, network.embedding_size), np.float32), np.zeros((0, network.settings.n_classes), np.float32)
    return np.concatenate(embedded), np.concatenate(logits)


def resolved_precision(wanted: str) -> Literal["float32", "bfloat16"]:
    """Turn `auto` into what this processor is fast at."""
    if wanted == "auto":
        native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bfloat16" if native else "float32"
    return "bfloat16" if wanted == "bfloat16" else "float32"


def _step(
    state: TrainingState,
    points: Points,
    targets: Tensor,
    batch: Int[np.ndarray, "point"],
    neighborhoods: Neighborhoods | None,
    settings: TrainingSettings,
    precision: str,
    rng: np.random.Generator,
) -> float:
    """Take one optimizer step on J (Eq. 6); return J_l."""
    edges: Edges | None = None
    seen = batch
    if neighborhoods is not None:
        edges = neighborhoods.outgoing(batch) if settings.batching == "exact" else neighborhoods.incident(batch)
        seen = edges.points if settings.batching == "exact" else batch
    images = augmented(torch.from_numpy(points.images[seen])[:, None], settings, rng)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        embeddings, logits = state.network.embed_and_classify(images)
    embeddings = embeddings.float()
    classification = classification_loss(logits[: len(batch)], targets[batch])  # Eq. 5
    graph = embeddings.new_zeros(())
    if edges is not None and neighborhoods is not None:
        graph = _graph_term(embeddings, edges, state.bank, len(batch), neighborhoods.n_anchors, settings)
    loss = classification + settings.graph_weight * graph  # Eq. 6
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.bank[torch.from_numpy(seen)] = embeddings.detach()
    return float(classification.item())


def _j_g(bank: Float32[Tensor, "point feature"], graph: SignedGraph, settings: TrainingSettings) -> float:
    """J_g of all points (Eq. 4), by their embeddings of this epoch."""
    return signed_graph_loss(
        bank, graph.signs, margin=settings.margin, distance=settings.distance, reduction=settings.reduction
    ).item()


def _graph_term(
    embeddings: Float[Tensor, "row feature"],
    edges: Edges,
    bank: Float32[Tensor, "point feature"],
    n_batch: int,
    n_anchors: int,
    settings: TrainingSettings,
) -> Float[Tensor, ""]:
    """A batch's estimate of J_g (Eq. 4); what was not passed through the network comes from the bank, fixed."""
    table = torch.cat([embeddings, bank[torch.from_numpy(edges.points[len(embeddings) :])]])
    total = edge_loss(
        table,
        table,
        torch.from_numpy(edges.anchors),
        torch.from_numpy(edges.others),
        torch.from_numpy(edges.signs),
        margin=settings.margin,
        distance=settings.distance,
        reduction="sum",
    )
    if settings.reduction == "sum":
        return total
    # The batch's share of the anchors: an epoch's steps then average to J_g over the number of anchors.
    return total * (len(bank) / (n_batch * max(1, n_anchors)))


def augmented(
    images: Float32[Tensor, "b 1 h w"], settings: TrainingSettings, rng: np.random.Generator
) -> Float32[Tensor, "b 1 h w"]:
    """Flip at random, and rotate and zoom where the settings say so."""
    n = len(images)
    if settings.rotation > 0 or settings.zoom > 0:
        angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, n))
        scale = 1 + rng.uniform(-settings.zoom, settings.zoom, n)
        rows = np.stack(
            [
                np.stack([np.cos(angle), -np.sin(angle), np.zeros(n)], 1),
                np.stack([np.sin(angle), np.cos(angle), np.zeros(n)], 1),
            ],
            1,
        )
        theta = torch.from_numpy((rows / scale[:, None, None]).astype(np.float32))
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if settings.flips == "random":
        across, down = torch.from_numpy(rng.integers(0, 2, (2, n)).astype(bool))[:, :, None, None, None]
        images = torch.where(across, images.flip(3), images)
        images = torch.where(down, images.flip(2), images)
    return images


def _optimizer(network: SeparableNetwork, settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )


def _set_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int, n_steps: int) -> None:
    """Warm up over the first tenth, then decay by a cosine to zero."""
    warm_up = max(1, n_steps // 10)
    if step < warm_up:
        factor = (step + 1) / warm_up
    else:
        factor = 0.5 * (1 + np.cos(np.pi * (step - warm_up) / max(1, n_steps - warm_up)))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


@contextmanager
def _random_state(seed: int, epoch: int) -> Iterator[None]:
    """Give PyTorch a state of its own for a while, then put back the caller's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield
