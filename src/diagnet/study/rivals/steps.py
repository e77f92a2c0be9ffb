"""Steps of a rival with losses of its own: batches, draws and learning rate as in the training loop."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from diagnet.batches import epoch_batches
from diagnet.config import Config
from diagnet.network import Network
from diagnet.training.optimization import make_optimizer, rate_factor
from diagnet.training.points import Points
from diagnet.training.state import random_state
from diagnet.training.transforms import draw_images


@dataclass(frozen=True, slots=True)
class Step:
    """What a step sees.

    Attributes:
        rows: points of the batch.
        images: drawn anew, in [0, 1].
        others: masks, moved as the images are; the images again where there are none.
    """

    rows: Int[Tensor, "b"]
    images: Float32[Tensor, "b 1 h w"]
    others: Float32[Tensor, "b 1 h w"]


class RivalTraining:
    """A network, its optimizer, and the steps of a whole training."""

    def __init__(self, network: Network, points: Points, config: Config, *, seed: int) -> None:
        self.network, self.points, self.config, self.seed = network, points, config, seed
        self.compute = config.training.compute(config.network)
        mean, spread = points.intensity()
        network.intensity = torch.tensor([mean, max(spread, 1e-6)])
        network.to(self.compute.device)
        network.to(memory_format=self.compute.layout)  # type: ignore[call-overload]  # missing from torch's stubs
        settings = config.training
        self.optimizer = make_optimizer(network, settings.learning_rate, settings.weight_decay)

    def steps(self, epochs: int, *, others: Points | None = None) -> Iterator[Step]:
        """Yield the batches of so many epochs; between two of them the learning rate moves on.

        Args:
            epochs: how many; the schedule of the learning rate spans them.
            others: masks of the points; they are moved as the images are, and their values stay.
        """
        settings, points = self.config.training, self.points
        n_batches = len(epoch_batches(len(points), settings.batch_size, np.random.default_rng(0)))
        self.network.train()
        for epoch in range(epochs):
            batches = epoch_batches(len(points), settings.batch_size, np.random.default_rng([self.seed, epoch + 1]))
            for number, rows in enumerate(batches):
                place = epoch * n_batches + number
                factor = rate_factor(settings.schedule, settings.warm_up, place, epochs * n_batches)
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.learning_rate * factor
                images = self._drawn(points, rows, (epoch + 1, number))
                second = images if others is None else self._drawn(others, rows, (epoch + 1, number), is_mask=True)
                with random_state(self.seed, epoch + 1, number):
                    yield Step(torch.from_numpy(rows).to(self.compute.device), images, second)
        self.network.eval()

    def _drawn(
        self, points: Points, rows: Int[np.ndarray, "b"], place: tuple[int, int], *, is_mask: bool = False
    ) -> Float32[Tensor, "b 1 h w"]:
        settings, rng = self.config.training, np.random.default_rng([self.seed, *place])
        images = draw_images(points, rows, settings, is_mask=is_mask, device=self.compute.device, rng=rng)
        return images.contiguous(memory_format=self.compute.layout)

    def move(self, loss: Float32[Tensor, ""]) -> None:
        """Take one optimizer step on the gradient of a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
