"""The training loop: joint objective J = J_l + lambda J_g over originals and neighbors (Eq. 6, Sec. 4.2)."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diagnet.batches import Batching, Edges, Neighborhoods, epoch_batches
from diagnet.device import Compute, DeviceName, MemoryFormat, Precision, resolve_compute
from diagnet.errors import TrainingError
from diagnet.graph import GraphSettings, SignedGraph, signed_graph
from diagnet.losses import Distance, Reduction, classification_loss, edge_loss, signed_graph_loss
from diagnet.network import NetworkSettings, SeparableNetwork, create_network
from diagnet.optimization import Schedule, make_optimizer, rate_factor, update_average
from diagnet.points import Points
from diagnet.processes import Processes, with_shared_batch_norm
from diagnet.progress import Progress, silent
from diagnet.transforms import Flips, draw_transforms

_DIVERGED = 50.0  # nats a point in J_l: nothing comes back from there


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How the network is trained."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=2)
    graph_weight: float = Field(0.05, ge=0, description="lambda of Eq. 6; 0 is plain cross-entropy")
    margin: float = Field(1.0, gt=0, description="m of Eq. 4")
    distance: Distance = Field("cosine", description="dist of Eq. 4")
    reduction: Reduction = Field("mean", description="of J_g: over anchors, or summed (reading 8)")
    batching: Batching = Field(
        "bank",
        description="shuffled, the graph's far ends from a memory bank; the same with graph neighbors packed into a "
        "batch; or shuffled with all far ends in one forward pass (exact)",
    )
    negative_label: Literal["none", "own", "other"] = Field(
        "none", description="class of negative neighbors in Eq. 5: left out, their own, or another (reading 7)"
    )
    flips: Flips = Field(
        "random", description="flips drawn for each batch, or all four stored before augmentation (reading 13)"
    )
    rotation: float = Field(20.0, ge=0, le=180, description="largest random rotation, degrees")
    zoom: float = Field(0.15, ge=0, lt=1, description="largest random change of scale")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW's, at the top")
    schedule: Schedule = Field("cosine", description="of the learning rate: cosine or linear to zero, or constant")
    warm_up: float = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: any")
    weight_averaging: float = Field(
        0.0, ge=0, lt=1, description="decay, per step, of the average of the weights that is scored with; 0: none"
    )
    early_stopping: int = Field(
        0,
        ge=0,
        description="epochs without a lower validation loss to stop after, keeping the best; 0: train to the end",
    )
    device: DeviceName = "auto"
    precision: Precision = Field("auto", description="auto: bfloat16 where the device multiplies it natively")
    memory_format: MemoryFormat = "auto"
    checkpoint_minutes: float = Field(5.0, gt=0, description="between checkpoints inside a long epoch")

    @property
    def needs_graph(self) -> bool:
        """Whether there is anything to do for a signed graph."""
        return self.graph_weight > 0 or self.batching == "packed"

    def compute(self, network: NetworkSettings) -> Compute:
        """Device, precision and memory format, resolved on this machine for a network."""
        narrowest = min(*network.stem_widths, *network.widths)
        return resolve_compute(self.device, self.precision, self.memory_format, n_narrowest=narrowest)


@dataclass(slots=True)
class TrainingState:
    """All that a later step depends on, besides the settings and the seed.

    Attributes:
        network: as trained; at the end of `train`, as it is to be scored with.
        optimizer: with its moments.
        bank: last seen embedding of each point; no rows without a graph.
        graph: the signed graph, once there is one.
        epoch: whole epochs behind it.
        step: whole steps behind it in the epoch under way.
        sums: J_l and J_g of those steps, times their points.
        history: a row for each whole epoch.
        average: moving average of the weights, where it is asked for.
        best: weights of the best epoch so far, where early stopping is asked for.
    """

    network: SeparableNetwork
    optimizer: torch.optim.Optimizer
    bank: Float32[Tensor, "point feature"]
    graph: SignedGraph | None
    epoch: int = 0
    step: int = 0
    sums: tuple[float, float] = (0.0, 0.0)
    history: list[dict[str, Any]] = field(default_factory=list)
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None

    def scored(self) -> SeparableNetwork:
        """The network to score with now: the averaged one where there is an average."""
        if self.average is None:
            return self.network
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average)
        return network


def start(
    points: Points,
    network_settings: NetworkSettings,
    graph_settings: GraphSettings,
    settings: TrainingSettings,
    *,
    seed: int,
) -> TrainingState:
    """Make a fresh network, its optimizer and, in image space, the signed graph (Eq. 3)."""
    compute = settings.compute(network_settings)
    with _random_state(seed, 0):
        network = create_network(network_settings)
    mean, spread = points.intensity()
    network.intensity = torch.tensor([mean, max(spread, 1e-6)])
    network.to(compute.device)
    network.to(memory_format=compute.layout)  # type: ignore[call-overload]  # missing from torch's stubs
    bank = torch.zeros(len(points) if settings.needs_graph else 0, network.embedding_size, device=compute.device)
    graph = None
    if settings.needs_graph and graph_settings.space == "image":
        vectors = points.take(np.arange(len(points))).reshape(len(points), -1)
        graph = signed_graph(vectors, points.labels, points.kinds, graph_settings, relatives=points.relatives)
    optimizer = make_optimizer(network, settings.learning_rate, settings.weight_decay)
    average = _copied(network) if settings.weight_averaging > 0 else None
    return TrainingState(network, optimizer, bank, graph, average=average)


def train(
    state: TrainingState,
    points: Points,
    graph_settings: GraphSettings,
    settings: TrainingSettings,
    *,
    seed: int,
    validate: Callable[[TrainingState], Mapping[str, Any]] | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    on_step: Callable[[TrainingState], None] | None = None,
    progress: Progress = silent,
    stage: str = "train",
    processes: Processes = Processes(),  # noqa: B008 -- frozen, so sharing it is safe
) -> TrainingState:
    """Train from where `state` is to `settings.epochs` by Eq. 6.

    Every random draw depends on `seed` and its place (epoch, step) alone, so a run that is taken up again after any
    step ends with the same weights as one that was never interrupted.

    Args:
        state: from `start`, or an earlier state.
        points: what to train on.
        graph_settings: how to rebuild the graph when it lives in embedding space.
        settings: everything else.
        seed: of shuffles, flips and dropout.
        validate: called after each epoch; what it returns is added to the epoch's row of `history`.
        on_epoch: called after that, to write a checkpoint or a log line.
        on_step: called after each step inside an epoch, to write a checkpoint when it is time.
        progress: told after each batch.
        stage: what `progress` calls this.
        processes: those that share each step's points; losses and weights are those of one process.

    Returns:
        The same state, at its last epoch; its network has the weights to score with (the average, or those of the
        best epoch, where asked for).

    Raises:
        TrainingError: the loss is not finite or far too large; `points` tells the batch.
        ValueError: early stopping without a `validation_loss` from `validate`, or more processes than a batch has
            points.
    """
    run = _Run(state, points, graph_settings, settings, seed, processes)
    n_steps = run.n_batches * settings.epochs
    first, began, told = state.epoch * run.n_batches + state.step, time.perf_counter(), 0
    progress(stage, first, n_steps)
    while state.epoch < settings.epochs and not _has_stalled(state.history, settings.early_stopping):
        epoch_began = time.perf_counter()
        for n_points in run.steps():
            told += n_points
            rate = told / (time.perf_counter() - began)
            progress(stage, state.epoch * run.n_batches + state.step, n_steps, f"{rate:.0f} images/s{_told(state)}")
            if on_step is not None and state.step < run.n_batches:
                on_step(state)
        run.end_epoch(time.perf_counter() - epoch_began)
        if validate is not None:
            state.history[-1].update(validate(state))
        run.keep_best()
        if on_epoch is not None:
            on_epoch(state)
    chosen = state.best or state.average
    if chosen is not None:
        state.network.load_state_dict(chosen)
    return state


class _Run:
    """What every step of one training needs."""

    def __init__(
        self,
        state: TrainingState,
        points: Points,
        graph_settings: GraphSettings,
        settings: TrainingSettings,
        seed: int,
        processes: Processes,
    ) -> None:
        self.state, self.points, self.settings, self.processes = state, points, settings, processes
        self.graph_settings, self.seed = graph_settings, seed
        self.compute = settings.compute(state.network.settings)
        targets = points.targets(settings.negative_label, state.network.settings.n_classes)
        self.targets = torch.from_numpy(targets).to(self.compute.device)
        batches = epoch_batches(len(points), settings.batch_size, np.random.default_rng(0))
        self.n_batches, smallest = len(batches), len(batches[-1])
        if smallest < processes.size:
            raise ValueError(f"a batch must have a point for each of {processes.size} processes, got {smallest}")
        self.n_steps = self.n_batches * settings.epochs
        self.model: nn.Module = _EmbedAndClassify(state.network)
        if processes.size > 1:
            with_shared_batch_norm(state.network)
            self.model = DistributedDataParallel(self.model)

    def steps(self) -> Iterator[int]:
        """Take the steps left in the epoch; yield how many points each had."""
        state, settings = self.state, self.settings
        rebuild = settings.needs_graph and self.graph_settings.space == "embedding" and state.epoch > 0
        if rebuild and state.step == 0 and (state.epoch - 1) % self.graph_settings.refresh_epochs == 0:
            state.graph = signed_graph(
                state.bank.cpu().numpy(),
                self.points.labels,
                self.points.kinds,
                self.graph_settings,
                relatives=self.points.relatives,
            )
        rng = np.random.default_rng([self.seed, state.epoch + 1])
        neighborhoods = None if state.graph is None else Neighborhoods(state.graph)
        if settings.batching == "packed" and neighborhoods is not None:
            batches = neighborhoods.packed_batches(settings.batch_size, rng)
        else:
            batches = epoch_batches(len(self.points), settings.batch_size, rng)
        # The bank is empty before the first epoch has filled it.
        has_term = settings.graph_weight > 0 and (settings.batching == "exact" or state.epoch > 0)
        state.network.train()
        for batch in batches[state.step :]:
            classification, graph = self.step(batch, neighborhoods if has_term else None)
            state.sums = (state.sums[0] + len(batch) * classification, state.sums[1] + len(batch) * graph)
            state.step += 1
            yield len(batch)

    def step(self, batch: Int[np.ndarray, "point"], neighborhoods: Neighborhoods | None) -> tuple[float, float]:
        """Take one optimizer step on J (Eq. 6); return J_l and J_g."""
        state, settings, processes = self.state, self.settings, self.processes
        edges: Edges | None = None
        seen = batch
        if neighborhoods is not None:
            is_exact = settings.batching == "exact"
            edges = neighborhoods.outgoing(batch) if is_exact else neighborhoods.incident(batch)
            seen = edges.points if is_exact else batch
        rng = np.random.default_rng([self.seed, state.epoch + 1, state.step])
        transforms = draw_transforms(
            len(seen), flips=settings.flips, rotation=settings.rotation, zoom=settings.zoom, rng=rng
        )
        own = processes.share(np.arange(len(seen)))
        images = torch.from_numpy(self.points.take(seen[own]))[:, None].to(self.compute.device)
        images = transforms.of(slice(int(own[0]), int(own[-1]) + 1))(images)
        images = images.contiguous(memory_format=self.compute.layout)
        with _random_state(self.seed, state.epoch + 1, state.step, processes.rank), self.compute.autocast():
            own_embeddings, own_logits = self.model(images)
        embeddings = processes.together(own_embeddings.float(), len(seen))
        logits = processes.together(own_logits.float(), len(seen))
        classification = classification_loss(logits[: len(batch)], self.targets[batch])  # Eq. 5
        graph = embeddings.new_zeros(())
        if edges is not None and neighborhoods is not None:
            graph = self._graph_term(embeddings, edges, len(batch), neighborhoods.n_anchors)
        loss = classification + settings.graph_weight * graph  # Eq. 6
        parts = float(classification.item()), float(graph.item())
        if not (np.isfinite(loss.item()) and parts[0] < _DIVERGED):
            raise TrainingError(
                f"the loss must stay finite, got {loss.item():.3g} (J_l {parts[0]:.3g}, J_g {parts[1]:.3g}) in epoch "
                f"{state.epoch + 1}, step {state.step + 1}",
                points=[int(point) for point in batch],
            )
        self._move_weights(loss)
        if len(state.bank):
            state.bank[torch.from_numpy(seen).to(self.compute.device)] = embeddings.detach()
        return parts

    def end_epoch(self, seconds: float) -> None:
        """Add the epoch's row to the history."""
        state, settings = self.state, self.settings
        state.epoch, state.step = state.epoch + 1, 0
        classification = state.sums[0] / len(self.points)
        graph = None
        if settings.graph_weight > 0 and state.graph is not None:
            # J_g of all points (Eq. 4), by their embeddings of this epoch.
            graph = signed_graph_loss(
                state.bank,
                state.graph.signs,
                margin=settings.margin,
                distance=settings.distance,
                reduction=settings.reduction,
            ).item()
        state.sums = (0.0, 0.0)
        state.history.append(
            {
                "epoch": state.epoch,
                "loss": classification + settings.graph_weight * (graph or 0.0),
                "classification_loss": classification,
                "signed_graph_loss": graph,
                "learning_rate": float(state.optimizer.param_groups[0]["lr"]),
                "seconds": round(seconds, 3),
            }
        )

    def keep_best(self) -> None:
        """Keep the weights of the epoch with the lowest validation loss."""
        if not self.settings.early_stopping:
            return
        if "validation_loss" not in self.state.history[-1]:
            raise ValueError("`early_stopping` must have a validation loss to look at, got none")
        losses = [row["validation_loss"] for row in self.state.history]
        if losses[-1] == min(losses):
            self.state.best = _copied(self.state.scored())

    def _graph_term(
        self, embeddings: Float[Tensor, "row feature"], edges: Edges, n_batch: int, n_anchors: int
    ) -> Float[Tensor, ""]:
        """A batch's estimate of J_g (Eq. 4); what was not passed through the network comes from the bank, fixed."""
        bank, settings = self.state.bank, self.settings
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

    def _move_weights(self, loss: Float[Tensor, ""]) -> None:
        """Take an optimizer step down the loss."""
        state, settings = self.state, self.settings
        step = state.epoch * self.n_batches + state.step
        factor = rate_factor(settings.schedule, settings.warm_up, step, self.n_steps)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        state.optimizer.zero_grad(set_to_none=True)
        # Each process holds the whole loss and the gradient of its own points; DDP takes the mean, we want the sum.
        (loss * self.processes.size).backward()
        if settings.gradient_clip > 0:
            nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_clip)
        state.optimizer.step()
        if state.average is not None:
            update_average(state.average, state.network, settings.weight_averaging)


class _EmbedAndClassify(nn.Module):
    """The pass training takes, as a module: DistributedDataParallel wraps no other."""

    def __init__(self, network: SeparableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b feature"], Float[Tensor, "b class"]]:
        """H and logits."""
        return self.network.embed_and_classify(images)


def _has_stalled(history: list[dict[str, Any]], patience: int) -> bool:
    """Tell whether the validation loss was lowest `patience` epochs ago."""
    if not patience or not history:
        return False
    losses = [row["validation_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _told(state: TrainingState) -> str:
    """The loss's parts, of the last whole epoch."""
    if not state.history:
        return ""
    row = state.history[-1]
    graph = "" if row["signed_graph_loss"] is None else f", J_g {row['signed_graph_loss']:.3f}"
    return f", J_l {row['classification_loss']:.3f}{graph}"


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@contextmanager
def _random_state(*place: int) -> Iterator[None]:
    """Give PyTorch a state of its own for a while, then put back the caller's."""
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        yield
