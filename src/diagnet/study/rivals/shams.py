"""A rival: one network that generates and classifies, after DiaGRAM (Shams et al., MICCAI 2018).

A generator makes regions from noise. One feature extractor serves two heads: the classifier of masses, and the
discriminator that tells real regions from made ones. Its loss is the sum of cross-entropy and the adversarial loss
(multi-task); the generator's is that its regions pass for real.

What differs from the paper: the extractor is the study's separable network at its size of regions, not the paper's
deeper one; whole images, and transfer between data sets, are left out, since a mass and its region are given here.
Settings of the adversarial part are DCGAN's (Radford et al. 2016): Adam at 2e-4 with beta 0.5, batch norm apart for
real and made regions; labels of real ones are 0.9 (Salimans et al. 2016). A step has an eighth as many made regions as
real ones, to save time. None of these was tuned on our folds.

The adversarial loss has weight 0.1. With weight 1 the classifier hardly learned its training masses. Of 1, 0.1 and
0.01 it is the largest whose training AUC after 20 epochs is within 0.05 of plain cross-entropy's. This was seen on
training masses of fold 0 of the crops: 0.668, with 0.01 0.686, plain 0.707; with weight 1 0.56 after 15 epochs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diagnet.config import Config
from diagnet.losses import classification_loss
from diagnet.network import NetworkSettings, SeparableNetwork
from diagnet.study.rivals.steps import RivalTraining
from diagnet.training.points import Points
from diagnet.training.state import random_state

_NOISE = 64  # values a region is made from
_MADE = 8  # real regions in a step for each made one
_REAL = 0.9  # target of real regions
_WEIGHT = 0.1  # of the adversarial loss beside cross-entropy
_RATE, _BETAS = 2e-4, (0.5, 0.999)  # of the generator's Adam


class AdversarialNetwork(SeparableNetwork):
    """The separable network with a second head on its pooled features: whether a region is real."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.is_real = nn.Linear(self.num_features, 1)

    def real_logits(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b"]:
        """Log-odds that regions are real, not made; batch norm's running figures stay as they are."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        logits = self.is_real(self.pool(self.forward_features(images)))[:, 0]
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return logits  # type: ignore[no-any-return]  # nn.Module calls are untyped

    def classify_and_judge(
        self, images: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b"]]:
        """Logits of the classes, and log-odds that the regions are real, in one pass."""
        pooled = self.pool(self.forward_features(images))
        logits = self.classifier(self.dropout(torch.relu(self.hidden(pooled))))
        return logits, self.is_real(pooled)[:, 0]


class Generator(nn.Sequential):
    """Noise to regions in [0, 1]: from 1/16 of the side in four doublings, each with a 3 x 3 convolution."""

    def __init__(self, size: int, widths: tuple[int, ...] = (128, 64, 32, 16)) -> None:
        side = -(-size // 16)
        layers: list[nn.Module] = [
            nn.Linear(_NOISE, widths[0] * side * side, bias=False),
            nn.Unflatten(1, (widths[0], side, side)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for n_in, n_out in zip(widths, (*widths[1:], widths[-1]), strict=True):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(n_out), nn.ReLU()]
        layers += [nn.Conv2d(widths[-1], 1, 3, padding=1), nn.Upsample((size, size), mode="bilinear"), nn.Sigmoid()]
        super().__init__(*layers)


def train_adversarially(points: Points, config: Config, *, seed: int) -> AdversarialNetwork:
    """Train extractor, classifier and discriminator against a generator, for the settings' epochs.

    Args:
        points: masses, with or without what lies around them.
        config: shape of the extractor, batches, draws, learning rate.
        seed: of every draw.
    """
    with random_state(seed, 0):
        network, generator = AdversarialNetwork(config.network), Generator(points.image_shape[0])
    training = RivalTraining(network, points, config, seed=seed)
    device, compute = training.compute.device, training.compute
    generator.to(device)
    maker = torch.optim.Adam(generator.parameters(), lr=_RATE, betas=_BETAS)
    targets = torch.from_numpy(points.targets(config.training.negative_label, config.network.n_classes)).to(device)
    for step in training.steps(config.training.epochs):
        noise = torch.randn(max(2, len(step.rows) // _MADE), _NOISE, device=device)
        with compute.autocast():
            made = generator(noise).float().contiguous(memory_format=compute.layout)
            logits, real = network.classify_and_judge(step.images)
            fake = network.real_logits(made.detach())
        adversarial = (_against(real, _REAL) + _against(fake, 0.0)) / 2
        training.move(classification_loss(logits, targets[step.rows]) + _WEIGHT * adversarial)
        with compute.autocast():
            fooled = network.requires_grad_(False).real_logits(made)
        maker.zero_grad(set_to_none=True)
        _against(fooled, 1.0).backward()
        maker.step()
        network.requires_grad_(True)
    return network


def _against(logits: Float[Tensor, "b"], target: float) -> Float[Tensor, ""]:
    """Binary cross-entropy of log-odds with one target for all."""
    return functional.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits.float(), target))
