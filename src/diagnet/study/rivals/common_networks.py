"""Rivals that a user would pick: a small residual network and a small ConvNeXt, from scratch, with plain cross-entropy.

Widths and depths have about as many multiplications as the separable network. They were not set by what they score.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnet.network import Network, NetworkSettings

_WIDTHS = (32, 64, 128)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, plus the input (He et al. 2016)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:  # pool, then 1 x 1: see `DownBlock`
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.skip = nn.Sequential(pool, nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Return feature maps of the input's size over the stride, rounded up."""
        return torch.relu(self.main(x) + self.skip(x))


class ConvNextBlock(nn.Module):
    """7 x 7 depthwise, layer norm, four times as wide and back with GELU, plus the input (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.main = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return feature maps of the input's shape: the input plus what the block adds."""
        return x + self.main(self.spread(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]  # nn.Module calls are untyped


class _CommonNetwork(Network):
    """Blocks, global average, dropout and one linear layer."""

    def __init__(self, settings: NetworkSettings, blocks: nn.Module) -> None:
        super().__init__(settings)
        self.blocks = blocks
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(_WIDTHS[-1], settings.n_classes)

    @property
    def embedding_size(self) -> int:
        """Number of values in the embedding: the pooled features."""
        return _WIDTHS[-1]

    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        mean, spread = self.intensity
        pooled = self.blocks((images - mean) / spread).mean(dim=(2, 3))
        return pooled, self.classifier(self.dropout(pooled))


class ResNet(_CommonNetwork):
    """ResNet-14: a stem of stride 2, then two basic blocks at each of three widths."""

    def __init__(self, settings: NetworkSettings) -> None:
        first = _WIDTHS[0]
        stem = [nn.Conv2d(1, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)]
        blocks: list[nn.Module] = []
        for n_in, n_out in zip((first, *_WIDTHS), _WIDTHS, strict=False):
            blocks += [BasicBlock(n_in, n_out, 1 if n_in == n_out else 2), BasicBlock(n_out, n_out, 1)]
        super().__init__(settings, nn.Sequential(*stem, *blocks))


class ConvNext(_CommonNetwork):
    """Patches of 2 x 2, then two ConvNeXt blocks at each of three widths; batch norm ahead of each halving."""

    def __init__(self, settings: NetworkSettings) -> None:
        blocks: list[nn.Module] = []
        for n_in, n_out in zip((1, *_WIDTHS), _WIDTHS, strict=False):
            norm = nn.Identity() if n_in == 1 else nn.BatchNorm2d(n_in)
            blocks += [norm, nn.Conv2d(n_in, n_out, 2, stride=2), ConvNextBlock(n_out), ConvNextBlock(n_out)]
        super().__init__(settings, nn.Sequential(*blocks))
