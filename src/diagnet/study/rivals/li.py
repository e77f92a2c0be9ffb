"""A rival: two paths, segmentation and classification, after DualCoreNet (Li et al., ICASSP 2019, arXiv 1903.00001).

One path keeps what is local: blocks that encode the region, whose pooled features speak for its texture. The other one
models how image and mask belong together: a decoder finds the mass's mask from the encoder's maps, and a second, small
encoder reads the region and the mask that was found, for shape and border. The classifier sees both paths' features.
The loss is cross-entropy plus the mask's, binary cross-entropy and Dice in equal parts. Masks are needed to train
alone: what is scored is a region without one.

What differs from the paper: encoder and decoder are the study's separable blocks with skips, and the mask is found at
half of the region's side, to save time; the paper's graph learner is the second encoder; both losses have weight 1.
Where a mass has no file of its mask (whole mammograms) the mask is **the ellipse inside its box**: nobody drew it, and
it tells the network where the box is, nothing of the mass's shape. No setting was tuned on our folds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diagnet.arrays import Image, Images
from diagnet.config import Config
from diagnet.data.box import Box
from diagnet.data.image import image_size, read_image
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_out, padded_box, resized
from diagnet.data.surroundings import REACH, TIMES
from diagnet.errors import DataError
from diagnet.losses import classification_loss
from diagnet.network import DownBlock, NetworkSettings, SeparableConv, SeparableNetwork
from diagnet.study.rivals.steps import RivalTraining
from diagnet.training.points import Points
from diagnet.training.state import random_state

_ABOVE = 3  # folders above an image in which its mask's path may begin


class TwoPathNetwork(SeparableNetwork):
    """Encoder, decoder of the mask, encoder of region and mask; the classifier sees both encoders' features."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        widths = (settings.stem_widths[1], *settings.widths)
        self.n_down = len(settings.widths)
        self.up = nn.ModuleList(
            nn.Sequential(SeparableConv(below + skip, skip), nn.BatchNorm2d(skip), nn.ReLU(inplace=True))
            for skip, below in zip(widths[-2:0:-1], widths[:1:-1], strict=True)
        )
        self.mask = nn.Conv2d(widths[1], 1, 1)
        narrow = tuple(max(8, width // 2) for width in settings.widths[1:]) or (8,)
        self.shape = nn.Sequential(
            nn.Conv2d(2, narrow[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow[0]),
            nn.MaxPool2d(3, stride=2, padding=1),
            *(DownBlock(a, b, is_first=False) for a, b in zip(narrow, (*narrow[1:], narrow[-1]), strict=True)),
        )
        self.fc1 = nn.Linear(self.num_features + narrow[-1], settings.n_hidden)

    def both(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b 1 i j"]]:
        """Logits of the classes, and log-odds that places are of the mass, at half the regions' side."""
        hidden, mask = self._hidden(images)
        return self.classifier(self.dropout(torch.relu(hidden))), mask

    def _hidden(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b 1 i j"]]:
        mean, spread = self.intensity
        x = self.stem((images - mean) / spread)
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number < self.n_down - 1:
                maps.append(x)
        found = x
        for up, skip in zip(self.up, reversed(maps), strict=True):
            found = up(torch.cat([functional.interpolate(found, size=skip.shape[2:]), skip], dim=1))
        mask = self.mask(torch.relu(found))
        small = functional.adaptive_avg_pool2d((images - mean) / spread, (mask.shape[2], mask.shape[3]))
        pair = torch.cat([small, 2 * torch.sigmoid(mask) - 1], dim=1)
        pooled = torch.cat([self.pool(x), self.pool(self.shape(pair))], dim=1)
        return self.hidden(pooled), mask

    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        hidden, _ = self._hidden(images)
        return hidden, self.classifier(self.dropout(torch.relu(hidden)))


def train_two_paths(points: Points, masks: Points, config: Config, *, seed: int) -> TwoPathNetwork:
    """Train both paths together, for the settings' epochs.

    Args:
        points: masses, with or without what lies around them.
        masks: of the same masses, cut as they are.
        config: shape of the network, batches, draws, learning rate.
        seed: of every draw.
    """
    with random_state(seed, 0):
        network = TwoPathNetwork(config.network)
    training = RivalTraining(network, points, config, seed=seed)
    targets = torch.from_numpy(points.targets(config.training.negative_label, config.network.n_classes))
    targets = targets.to(training.compute.device)
    for step in training.steps(config.training.epochs, others=masks):
        with training.compute.autocast():
            logits, found = network.both(step.images)
        training.move(classification_loss(logits, targets[step.rows]) + mask_loss(found, step.others))
    return network


def mask_loss(found: Float[Tensor, "b 1 i j"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Half binary cross-entropy, half one minus Dice, of a mask that was found at a smaller size.

    Args:
        found: log-odds.
        masks: drawn ones, in [0, 1].
    """
    found = found.float()
    wanted = functional.adaptive_avg_pool2d(masks, (found.shape[2], found.shape[3]))
    share = torch.sigmoid(found)
    common, total = (share * wanted).sum(dim=(1, 2, 3)), (share + wanted).sum(dim=(1, 2, 3))
    dice = (2 * common + 1) / (total + 1)
    return (functional.binary_cross_entropy_with_logits(found, wanted) + 1 - dice.mean()) / 2


def masks_of(masses: Sequence[Mass], roi: RoiSettings) -> Images:
    """Cut the masks of masses as their regions are cut; an ellipse inside the box where there is no file of one.

    Args:
        masses: with a path in the column `mask` (`Mass.extra`), relative to the table's folder, or without.
        roi: how their regions are cut.

    Returns:
        The share of each pixel that is the mass's.

    Raises:
        DataError: an image or a mask cannot be read, or they differ in size.
    """
    return np.stack([_mask(mass, roi) for mass in masses])


def wide_masks_of(masses: Sequence[Mass], roi: RoiSettings) -> Images:
    """Cut the masks of what lies around masses, as `diagnet.data.surroundings` cuts it; see `masks_of`."""
    return masks_of(masses, roi.model_copy(update={"padding_factor": REACH, "size": TIMES * roi.size}))


def _mask(mass: Mass, roi: RoiSettings) -> Image:
    source = mass.image
    width, height = image_size(source) if isinstance(source, Path) else (source.shape[1], source.shape[0])
    box = Box.whole(width, height) if mass.box is None else Box(*mass.box)
    place = box if mass.box is None else padded_box(box, width, height, roi, mass.original_size)
    path = _mask_file(mass)
    if path is None:
        down, across = np.mgrid[: roi.size, : roi.size] + 0.5
        x = (place.x0 + across / roi.size * place.width - (box.x0 + box.x1) / 2) / (box.width / 2)
        y = (place.y0 + down / roi.size * place.height - (box.y0 + box.y1) / 2) / (box.height / 2)
        return np.asarray(x**2 + y**2 <= 1, dtype=np.float32)
    drawn = (read_image(path) > 0.5).astype(np.float32)
    if drawn.shape != (height, width):
        raise DataError(
            f"`mask` must have its image's {width} x {height} pixels, got {drawn.shape[1]} x {drawn.shape[0]}"
        )
    return resized(*cut_out(drawn, place), roi.size)


def _mask_file(mass: Mass) -> Path | None:
    """The file that the column `mask` names: relative to the table, whose folder is one of those above the image."""
    name = mass.extra.get("mask")
    if not name or not isinstance(mass.image, Path):
        return None
    found = [folder / name for folder in list(mass.image.parents)[:_ABOVE] if (folder / name).is_file()]
    if not found:
        raise DataError("`mask` must name a file relative to the table's folder, got none that exists")
    return found[0]
