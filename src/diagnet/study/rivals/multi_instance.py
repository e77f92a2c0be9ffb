"""A rival: the sparse deep multi-instance network of Zhu et al. (MICCAI 2017), on the same blocks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnet.network import NetworkSettings, SeparableNetwork

_SPARSITY = 1e-3  # weight of the sum of a region's patch probabilities, in the first form
AS_PUBLISHED = 1e-4  # in Zhu's code


class MultiInstanceNetwork(SeparableNetwork):
    """Each place of the last feature map is an instance; the most malignant one decides.

    H is the sum of the instances' probabilities, which `sparsity` keeps small: a region has few malignant places.
    Two classes only, the second malignant.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.instances = nn.Conv2d(self.num_features, 1, 1)
        for unused in ("fc1", "fc2", "fc3", "classifier"):
            setattr(self, unused, nn.Identity())

    @property
    def embedding_size(self) -> int:
        """One: the sum of the probabilities."""
        return 1

    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 2"]]:
        """Sum of the instances' probabilities, and logits of the most malignant instance."""
        features = self.dropout(torch.relu(self.forward_features(images)))
        odds = self.instances(features).float().flatten(1)
        highest = odds.amax(dim=1)
        logits = torch.stack([torch.zeros_like(highest), highest], dim=1)
        return torch.sigmoid(odds).sum(dim=1, keepdim=True), logits


class SparseInstanceNetwork(MultiInstanceNetwork):
    """The multi-instance network without dropout ahead of the maximum.

    Dropout draws another mask at each place. The maximum of 64 places then picks the luckiest mask: the gradient goes
    to that place alone, and maxima while training lie above those that are scored.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.dropout = nn.Dropout(0.0)


def sparsity(
    embeddings: Float[Tensor, "point 1"], targets: Int[Tensor, "point"], *, weight: float = _SPARSITY
) -> Float[Tensor, ""]:
    """The sparse term, mean over the points: a weight times the sum of each region's instance probabilities."""
    del targets
    return weight * embeddings.mean()
