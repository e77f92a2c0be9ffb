"""Edges that are known to be right: images of one lesion are to have one score, whether its label is known or not."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from diagnet.training.points import Points
from diagnet.training.transforms import DrawSettings, draw_images


@dataclass(frozen=True, slots=True)
class KnownEdges:
    """Originals and masses without a label, by the lesion that they show.

    Attributes:
        points: with `lesions`; their neighbors are left out.
        unlabelled: with `lesions`; may be empty.
        ends: images in the order of their lesions; those of `unlabelled` come after the points.
        starts: where each lesion begins in `ends`.
        counts: how many images it has.
    """

    points: Points
    unlabelled: Points
    ends: Int[np.ndarray, "image"]
    starts: Int[np.ndarray, "lesion"]
    counts: Int[np.ndarray, "lesion"]

    @classmethod
    def among(cls, points: Points, unlabelled: Points) -> "KnownEdges":
        """Join the images of each lesion.

        Raises:
            ValueError: it is not said which lesion an image shows.
        """
        originals = np.flatnonzero(points.kinds == 0)
        images = np.concatenate([originals, len(points) + np.arange(len(unlabelled))])
        lesions = np.concatenate([lesions_of(points)[originals], lesions_of(unlabelled)])
        order = np.argsort(lesions, kind="stable")
        _, starts, counts = np.unique(lesions[order], return_index=True, return_counts=True)
        return cls(points, unlabelled, images[order], starts, counts)

    def draw(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, "end"]:
        """Draw edges: one end of each, then the other ends.

        A lesion is drawn, then two images of it; the same image twice where it has no other. What is drawn of an image
        differs.

        Args:
            n: how many edges.
            rng: of the draw.
        """
        drawn = rng.integers(len(self.starts), size=n)
        counts = self.counts[drawn]
        first = rng.integers(counts)
        second = np.where(counts > 1, (first + rng.integers(1, np.maximum(counts, 2))) % counts, first)
        return np.asarray(self.ends[np.concatenate([self.starts[drawn] + first, self.starts[drawn] + second])])

    def images(
        self,
        ends: Int[np.ndarray, "end"],
        settings: DrawSettings,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> Float32[Tensor, "end 1 h w"]:
        """Draw the images of some ends anew."""
        found = torch.empty((len(ends), 1, *self.points.image_shape), device=device)
        is_labelled = ends < len(self.points)
        for points, chosen, first in (
            (self.points, is_labelled, 0),
            (self.unlabelled, ~is_labelled, len(self.points)),
        ):
            if chosen.any():
                drawn = draw_images(points, ends[chosen] - first, settings, device=device, rng=rng)
                found[torch.from_numpy(chosen).to(device)] = drawn
        return found


def lesions_of(points: Points) -> Int[np.ndarray, "point"]:
    """Which lesion each point shows.

    Raises:
        ValueError: it is not said.
    """
    if points.lesions is None:
        raise ValueError("`lesions` must be given to know which images are of one lesion, got None")
    return points.lesions


def known_edge_loss(logits: Float[Tensor, "end class"]) -> Float[Tensor, ""]:
    """Mean of (f_i - f_j)^2 over edges, f the log-odds; of more than two classes, the logits less their mean.

    Args:
        logits: of one end of each edge, then of the other ends.
    """
    apart = logits - logits.mean(dim=1, keepdim=True)
    first, second = apart.chunk(2)
    return 2 * (first - second).square().sum(dim=1).mean()
