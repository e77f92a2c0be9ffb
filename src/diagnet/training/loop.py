"""The training loop: joint objective J = J_l + lambda J_g over originals and neighbors (Eq. 6, Sec. 4.2)."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diagnet.batches import Edges, Neighborhoods, batch_loss, epoch_batches
from diagnet.errors import TrainingError
from diagnet.graph import GraphSettings, signed_graph
from diagnet.losses import classification_loss
from diagnet.network import Network, PretrainedNetwork
from diagnet.progress import Progress, silent
from diagnet.training.distributed import Processes, with_shared_batch_norm
from diagnet.training.graph_term import whole_graph_term
from diagnet.training.known_edges import KnownEdges, known_edge_loss
from diagnet.training.optimization import rate_factor
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings, TrainingState, copied_weights, random_state
from diagnet.training.transforms import draw_images
from diagnet.training.weight_average import recalibrate_batchnorm, update_average

ExtraLoss = Callable[[Float[Tensor, "point feature"], Int[Tensor, "point"]], Float[Tensor, ""]]

_KNOWN = 7  # stream of the draws of known edges
_DIVERGED = 50.0  # nats a point in J_l: nothing comes back from there


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
    extra_loss: ExtraLoss | None = None,
    unlabelled: Points | None = None,
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
        progress: called after each batch.
        stage: what `progress` calls this.
        processes: those that share each step's points; losses and weights are those of one process.
        extra_loss: of a step's embeddings and targets, added to J; a rival of the signed graph, say.
        unlabelled: masses without a label, each with its lesion, as the points then have too; `settings.known_weight`
            times the mean of (f_i - f_j)^2 over known edges is added to J, f the log-odds. A step draws as many images
            for that as it has points.

    Returns:
        The same state, at its last epoch; its network has the weights to score with (the average, or those of the
        best epoch, where asked for).

    Raises:
        TrainingError: the loss is not finite or far too large; `points` tells the batch.
        ValueError: early stopping without a `validation_loss` from `validate`, or more processes than a batch has
            points.
    """
    run = _Run(state, points, graph_settings, settings, seed, processes, extra_loss, unlabelled)
    first, began, told = state.epoch * run.n_batches + state.step, time.perf_counter(), 0
    progress(stage, first, run.n_steps)
    wanted = settings.epochs if run.learns else 0
    while state.epoch < wanted and not _has_stalled(state.history, settings.early_stopping):
        epoch_began = time.perf_counter()
        for n_points in run.steps():
            told += n_points
            rate = told / (time.perf_counter() - began)
            progress(
                stage,
                state.epoch * run.n_batches + state.step,
                run.n_steps,
                f"{rate:.0f} images/s{_losses_text(state)}",
            )
            if on_step is not None and state.step < run.n_batches:
                on_step(state)
        run.end_epoch(time.perf_counter() - epoch_began)
        if validate is not None or state.epoch == settings.epochs:
            recalibrate_batchnorm(state, points, settings, seed=seed)
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
        extra_loss: ExtraLoss | None,
        unlabelled: Points | None,
    ) -> None:
        self.extra_loss = extra_loss
        self.known = None
        if unlabelled is not None and settings.known_weight > 0:
            self.known = KnownEdges.among(points, unlabelled)
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
        self.learns = any(weight.requires_grad for weight in state.network.parameters())
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
                origins=self.points.origins,
            )
        rng = np.random.default_rng([self.seed, state.epoch + 1])
        neighborhoods = None if state.graph is None else Neighborhoods(state.graph)
        if settings.batching == "packed" and neighborhoods is not None:
            batches = neighborhoods.packed_batches(settings.batch_size, rng)
        else:
            batches = epoch_batches(len(self.points), settings.batch_size, rng)
        # The bank is empty before the first epoch has filled it.
        has_term = settings.graph_weight > 0 and (settings.batching == "exact" or state.epoch > 0)
        has_term &= state.epoch >= settings.graph_start * settings.epochs
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
        own = processes.local_shard(np.arange(len(seen)))
        part, device = slice(int(own[0]), int(own[-1]) + 1), self.compute.device
        images = draw_images(self.points, seen, settings, own=part, device=device, rng=rng)
        moves = self.points.take_moves(seen[part])
        moved = None if moves is None else torch.from_numpy(moves).to(device)
        share, partners = 1.0, np.arange(len(batch))
        if settings.mixup > 0:
            share = float(rng.beta(settings.mixup, settings.mixup))
            partners = np.concatenate([part[::-1] for part in np.array_split(partners, processes.size)])
            images = share * images + (1 - share) * images.flip(0)
            moved = None if moved is None else share * moved + (1 - share) * moved.flip(0)
        n_own, known_share = len(images), 0.0
        if self.known is not None:
            known_images, known_share = self._draw_known(self.known, len(batch))
            images = torch.cat([images, known_images])
            moved = None if moved is None else torch.cat([moved, moved.new_zeros(len(known_images), moved.shape[1])])
        images = images.contiguous(memory_format=self.compute.layout)
        with random_state(self.seed, state.epoch + 1, state.step, processes.rank), self.compute.autocast():
            own_embeddings, own_logits = self.model(images, moved)
        embeddings = processes.all_gather(own_embeddings[:n_own].float(), len(seen))
        logits = processes.all_gather(own_logits[:n_own].float(), len(seen))
        classification = classification_loss(logits[: len(batch)], self.targets[batch])  # Eq. 5
        if settings.mixup > 0:
            mixed = classification_loss(logits, self.targets[batch[partners]])
            classification = share * classification + (1 - share) * mixed
        graph = embeddings.new_zeros(())
        if edges is not None and neighborhoods is not None:
            graph = batch_loss(
                embeddings,
                edges,
                state.bank,
                n_batch=len(batch),
                n_anchors=neighborhoods.n_anchors,
                margin=settings.margin,
                distance=settings.distance,
                reduction=settings.reduction,
            )
        loss = classification + settings.graph_weight * graph  # Eq. 6
        if known_share:
            loss = loss + settings.known_weight * known_share * known_edge_loss(own_logits[n_own:].float())
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(embeddings[: len(batch)], self.targets[batch])
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

    def _draw_known(self, known: KnownEdges, n_points: int) -> tuple[Float[Tensor, "end 1 h w"], float]:
        """Images of both ends of this process's known edges, and its share of the step's edges.

        A step has about as many such images as points.
        """
        n_edges = -(-n_points // 2)
        own = self.processes.local_shard(np.arange(n_edges))
        rng = np.random.default_rng([self.seed, self.state.epoch + 1, self.state.step, _KNOWN])
        ends = known.draw(n_edges, rng).reshape(2, n_edges)[:, own].ravel()
        images = known.images(ends, self.settings, device=self.compute.device, rng=rng)
        return images, len(own) / n_edges

    def end_epoch(self, seconds: float) -> None:
        """Add the epoch's row to the history."""
        state, settings = self.state, self.settings
        state.epoch, state.step = state.epoch + 1, 0
        classification = state.sums[0] / len(self.points)
        graph = None
        if settings.graph_weight > 0 and state.graph is not None:
            graph = whole_graph_term(state.graph, state.bank, settings)
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
            self.state.best = copied_weights(self.state.scored())

    def _move_weights(self, loss: Float[Tensor, ""]) -> None:
        """Take one optimizer step on the gradient of the loss."""
        state, settings = self.state, self.settings
        step = state.epoch * self.n_batches + state.step
        factor = rate_factor(settings.schedule, settings.warm_up, step, self.n_steps)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor * group.get("rate", 1.0)
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

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Float[Tensor, "b 1 h w"], moves: Float[Tensor, "b feature"] | None = None
    ) -> tuple[Float[Tensor, "b feature"], Float[Tensor, "b class"]]:
        """Return embeddings h(x) (Eq. 4) and logits (Eq. 5), a row for each image, its features moved."""
        if moves is not None and isinstance(self.network, PretrainedNetwork):
            return self.network.move_and_classify(images, moves)
        return self.network.embed_and_classify(images)


def _has_stalled(history: list[dict[str, Any]], patience: int) -> bool:
    """Tell whether the validation loss was lowest `patience` epochs ago."""
    if not patience or not history:
        return False
    losses = [row["validation_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _losses_text(state: TrainingState) -> str:
    """Return both terms of the loss, averaged over the last whole epoch, as text; "" before there is one."""
    if not state.history:
        return ""
    row = state.history[-1]
    graph = "" if row["signed_graph_loss"] is None else f", J_g {row['signed_graph_loss']:.3f}"
    return f", J_l {row['classification_loss']:.3f}{graph}"
