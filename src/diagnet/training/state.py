"""What a training is: its settings, and the state that a later step depends on."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field, model_validator
from torch import Tensor, nn

from diagnet.batches import Batching
from diagnet.distance import Distance
from diagnet.graph import GraphSettings, SignedGraph, signed_graph
from diagnet.losses import Reduction
from diagnet.network import Network, NetworkSettings, PretrainedNetwork, create_network
from diagnet.progress import Progress, silent
from diagnet.training.device import Compute, DeviceName, MemoryFormat, Precision, resolve_compute
from diagnet.training.head import begin_head
from diagnet.training.optimization import Schedule, make_optimizer
from diagnet.training.points import Points
from diagnet.training.transforms import DrawSettings


class TrainingSettings(DrawSettings, frozen=True, extra="forbid"):
    """How the network is trained: loss, batches, optimizer, augmentation and hardware."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=2)
    graph_weight: float = Field(0.05, ge=0, description="lambda of Eq. 6; 0 is plain cross-entropy")
    graph_start: float = Field(0.0, ge=0, le=1, description="fraction of the epochs before J_g is added to J")
    margin: float = Field(1.0, gt=0, description="m of Eq. 4")
    distance: Distance = Field("cosine", description="dist of Eq. 4")
    reduction: Reduction = Field("mean", description="of J_g: over anchors, or summed (reading 8)")
    batching: Batching = Field(
        "bank",
        description="shuffled, the graph's far ends from a memory bank; the same with graph neighbors packed into a "
        "batch; or shuffled with all far ends in one forward pass (exact)",
    )
    negative_label: Literal["none", "own", "other", "even"] = Field(
        "none",
        description="class of negative neighbors in Eq. 5: left out, their own, another, or even odds (reading 7)",
    )
    mixup: float = Field(
        0.0, ge=0, description="mixup's alpha: images of a batch, and their labels, are blended; without a graph only"
    )
    learning_rate: float = Field(1e-3, gt=0, description="AdamW's, at the top")
    schedule: Schedule = Field("cosine", description="of the learning rate: cosine or linear to zero, or constant")
    warm_up: float = Field(0.1, ge=0, le=1, description="fraction of the steps in which the learning rate rises")
    backbone_rate: float = Field(
        0.1, gt=0, le=1, description="learning rate of lite0's pretrained blocks, a fraction of its head's"
    )
    head_views: int = Field(
        4, ge=0, description="how often each image is drawn for the logistic regression that lite0's head begins as"
    )
    known_weight: float = Field(
        0.0,
        ge=0,
        description="of edges between the images of a lesion, in lite0's first head and in J; rows without label count",
    )
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

    @model_validator(mode="after")
    def _mixed_or_graph(self) -> "TrainingSettings":
        if self.mixup > 0 and self.needs_graph:
            raise ValueError("`mixup` blends what a graph tells apart: it must be 0 where `graph_weight` is above 0")
        if self.flips == "stored" and self.needs_surroundings:
            raise ValueError("`flips` must not be stored where regions are drawn (`padding`, `shift`)")
        return self

    @property
    def needs_graph(self) -> bool:
        """Whether there is anything to do for a signed graph."""
        return self.graph_weight > 0 or self.batching == "packed"

    def compute(self, network: NetworkSettings) -> Compute:
        """Device, precision and memory format, resolved on this machine for a network."""
        return resolve_compute(
            self.device, self.precision, self.memory_format, fast_in_bfloat16=network.fast_in_bfloat16
        )


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

    network: Network
    optimizer: torch.optim.Optimizer
    bank: Float32[Tensor, "point feature"]
    graph: SignedGraph | None
    epoch: int = 0
    step: int = 0
    sums: tuple[float, float] = (0.0, 0.0)
    history: list[dict[str, Any]] = field(default_factory=list)
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None

    def scored(self) -> Network:
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
    make_network: Callable[[NetworkSettings], Network] = create_network,
    unlabelled: Points | None = None,
    progress: Progress = silent,
) -> TrainingState:
    """Make a fresh network, its optimizer and, in image space, the signed graph (Eq. 3).

    A pretrained network's head is fitted at once, which takes minutes; `progress` is called meanwhile. Masses without a
    label count there by `settings.known_weight`, and once more in `train`.
    """
    compute = settings.compute(network_settings)
    with random_state(seed, 0):
        network = make_network(network_settings)
    mean, spread = points.intensity()
    network.intensity = torch.tensor([mean, max(spread, 1e-6)])
    network.to(compute.device)
    network.to(memory_format=compute.layout)  # type: ignore[call-overload]  # missing from torch's stubs
    bank = torch.zeros(len(points) if settings.needs_graph else 0, network.embedding_size, device=compute.device)
    graph = None
    if settings.needs_graph and graph_settings.space == "image":
        vectors = points.take(np.arange(len(points))).reshape(len(points), -1)
        graph = signed_graph(
            vectors, points.labels, points.kinds, graph_settings, relatives=points.relatives, origins=points.origins
        )
    if isinstance(network, PretrainedNetwork):
        begin_head(
            network,
            points,
            settings,
            compute,
            n_views=settings.head_views,
            seed=seed,
            unlabelled=unlabelled,
            known_weight=settings.known_weight,
            progress=progress,
        )
    optimizer = make_optimizer(
        network, settings.learning_rate, settings.weight_decay, backbone_rate=settings.backbone_rate
    )
    average = copied_weights(network) if settings.weight_averaging > 0 else None
    return TrainingState(network, optimizer, bank, graph, average=average)


def copied_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights as they are now, whatever becomes of the network."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@contextmanager
def random_state(*place: int) -> Iterator[None]:
    """Give PyTorch a state of its own for a while, then put back the caller's."""
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        yield
