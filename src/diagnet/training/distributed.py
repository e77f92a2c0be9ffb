"""Training in several processes (`torchrun`): each step's points shared out, their results put together again."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train one network together; the default is a process on its own."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def local_shard(self, points: Int[np.ndarray, "point"]) -> Int[np.ndarray, "own"]:
        """Return this process's part of a step's points; each point is in exactly one process's part."""
        return np.array_split(points, self.size)[self.rank]

    def all_gather(self, own: Float[Tensor, "own value"], n_points: int) -> Float[Tensor, "point value"]:
        """Gather the rows of all processes, in order; gradients flow into this process's own rows alone."""
        if self.size == 1:
            return own
        lengths = [len(part) for part in np.array_split(np.empty(n_points), self.size)]
        padded = own.detach().new_zeros(max(lengths), own.shape[1])
        padded[: len(own)] = own.detach()
        gathered = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(gathered, padded)
        rows = [part[:length] for part, length in zip(gathered, lengths, strict=True)]
        rows[self.rank] = own
        return torch.cat(rows)

    def wait(self) -> None:
        """Return once every process is here."""
        if self.size > 1:
            distributed.barrier()

    def all_equal(self, value: str) -> bool:
        """Tell whether all processes hold the same ASCII text of up to 64 characters."""
        if self.size == 1:
            return True
        own = torch.tensor(list(value.encode("ascii").ljust(64)[:64]), dtype=torch.uint8)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(gathered, own)
        return all(torch.equal(own, other) for other in gathered)


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes `torchrun` started (it sets WORLD_SIZE and RANK); on its own without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    on_cards = torch.cuda.is_available()
    if on_cards:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # What is gathered lives on the processor (gloo) or on a card (nccl); both are there where there are cards.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cards else "gloo")
    try:
        yield Processes(distributed.get_rank(), size)
    finally:
        # What still holds the group (DistributedDataParallel, in reference cycles) goes first: else the group's
        # threads live on into the interpreter's end, where a tensor they let go of can abort the process.
        gc.collect()
        distributed.destroy_process_group()


def with_shared_batch_norm(module: nn.Module) -> nn.Module:
    """Let every batch norm see the whole step's points, as one process would; weights and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SharedBatchNorm2d):
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum or 0.1)
            # The very same weights: the optimizer holds them.
            shared._parameters, shared._buffers = child._parameters, child._buffers
            setattr(module, name, shared.train(child.training))
        else:
            with_shared_batch_norm(child)
    return module


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes; PyTorch's own works on graphics cards only."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalize by the mean and variance of all processes' images."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = _total(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _total(values.sum((0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _total(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            rate = self.momentum or 0.1
            self.running_mean.lerp_(mean, rate)  # type: ignore[union-attr]  # it is there: track_running_stats
            self.running_var.lerp_(variance * count / (count - 1), rate)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


def _total(value: Tensor) -> Tensor:
    summed: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return summed


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes, forwards and backwards."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
