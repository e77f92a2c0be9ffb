"""The networks: separable convolutions (Fig. 1b, Sec. 4.2), after Xception ([5]), or blocks that know ImageNet."""

import itertools
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from diagnet.lite0 import N_FEATURES, Lite0, read_lite0

Preset = Literal["small", "paper", "lite0"]
Trainable = Literal["none", "head", "last", "all"]

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"stem_widths": (32, 64), "widths": (128, 256, 728), "n_middle": 7, "n_hidden": 1024},
    "small": {"stem_widths": (16, 32), "widths": (32, 64, 128), "n_middle": 2, "n_hidden": 128},
    "lite0": {"embedding": "pooled", "dropout": 0.2},
}
_NARROW = 16  # channels
_WIDEST = 1 << 16  # channels; more is a mistake or an attack on the memory


class NetworkSettings(BaseModel, frozen=True, extra="forbid"):
    """The network's shape: `preset` fills what is not given (reading 1)."""

    preset: Preset = Field(
        "small",
        description="small (64x64 on a CPU), paper (224x224, 15.2 M parameters), or lite0 "
        "(EfficientNet-Lite0, pretrained on ImageNet, 128x128, 2.9 M)",
    )
    stem_widths: tuple[int, int] = Field((16, 32), description="channels of the two stem convolutions, stride 1")
    widths: tuple[int, ...] = Field(
        (32, 64, 128), min_length=1, max_length=100, description="channels of the down-sampling blocks"
    )
    n_middle: int = Field(2, ge=0, le=1000, description="residual blocks at the last size")
    n_hidden: int = Field(128, ge=1, le=_WIDEST, description="neurons of each of the three fully connected layers")
    dropout: float = Field(0.5, ge=0, lt=1)
    embedding: Literal["hidden", "pooled", "projected"] = Field(
        "hidden",
        description="H: the third fully connected layer before dropout (reading 2), the pooled features, or two layers "
        "of its own on them, which the classifier does not see",
    )
    average_flips: bool = Field(
        False, description="score the mean of an image's four flips: H and logits, four times the work"
    )
    n_classes: int = Field(2, ge=2, le=1000)
    trainable: Trainable = Field(
        "all",
        description="what of lite0 is trained: nothing beyond its logistic regression, the head, the last blocks too, "
        "or all",
    )
    weights: str = Field("", description="lite0: a .safetensors file to start from; empty: ImageNet's, as shipped")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict):
            preset = str(given.get("preset", "small")).lower()
            return {**_PRESETS.get(preset, {}), **given, "preset": preset}
        return given

    @model_validator(mode="after")
    def _positive_widths(self) -> "NetworkSettings":
        if not all(1 <= width <= _WIDEST for width in (*self.stem_widths, *self.widths)):
            raise ValueError(f"widths must be from 1 to {_WIDEST}")
        return self

    @model_validator(mode="after")
    def _check_preset(self) -> "NetworkSettings":
        if self.preset == "lite0":
            if self.embedding != "pooled":
                raise ValueError("`embedding` of lite0 must be pooled: its features, as the classifier sees them")
        elif self.trainable != "all" or self.weights:
            raise ValueError("`trainable` and `weights` are lite0's: the other networks begin with fresh weights")
        return self

    @property
    def fast_in_bfloat16(self) -> bool:
        """Whether a processor that multiplies bfloat16 trains it faster so (PyTorch 2.13).

        Layers narrower than 16 channels are many times slower, and so is the backward pass of lite0's blocks.
        """
        if self.preset == "lite0":
            return self.trainable in ("none", "head")
        return min(*self.stem_widths, *self.widths) >= _NARROW


class SeparableConv(nn.Sequential):
    """3 x 3 depthwise, then 1 x 1 pointwise convolution, no bias and nothing between (SConv of Fig. 1b)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False),
            nn.Conv2d(n_in, n_out, 1, bias=False),
        )


class DownBlock(nn.Module):
    """Two separable convolutions and a max-pool of stride 2, with a strided 1 x 1 skip (DC block of Fig. 1b)."""

    def __init__(self, n_in: int, n_out: int, *, is_first: bool) -> None:
        super().__init__()
        leading = [] if is_first else [nn.ReLU()]
        self.main = nn.Sequential(
            *leading,
            SeparableConv(n_in, n_out),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
            SeparableConv(n_out, n_out),
            nn.BatchNorm2d(n_out),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        # A 1 x 1 convolution of stride 2, as every second pixel and then stride 1: the strided one corrupts memory in
        # the backward pass of PyTorch 2.13 on a CPU, channels last, where channels are no multiple of 16. A pool of one
        # pixel takes them with a third of the time of a slice, whose backward pass copies twice.
        self.skip = nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Return feature maps of half the height and width, rounded up."""
        return self.main(x) + self.skip(functional.avg_pool2d(x, 1, stride=2))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class ResidualBlock(nn.Module):
    """Three times ReLU, separable convolution, batch norm, plus the input (RC block of Fig. 1b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(
                layer
                for k in range(3)  # the first rectifies a copy: the input is added at the end
                for layer in (nn.ReLU(inplace=k > 0), SeparableConv(width, width), nn.BatchNorm2d(width))
            )
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return feature maps of the input's shape: the input plus what the block adds."""
        return x + self.main(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped


class Network(nn.Module):
    """What all networks share: an image goes in, h(x) of Eq. 4 and the logits of Eq. 5 come out.

    Images are (batch, 1, height, width) in [0, 1].
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("intensity", torch.tensor([0.0, 1.0]))  # mean and spread of the training images
        self.intensity: Tensor

    @property
    @abstractmethod
    def embedding_size(self) -> int:
        """Number of values in the embedding h(x)."""

    @abstractmethod
    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """Return embeddings h(x) and logits of the images as they are, without averaging over flips."""

    def embed(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        """Return the embedding h(x) of Eq. 4, one row for each image."""
        return self.embed_and_classify(images)[0]

    def embed_and_classify(
        self, images: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """H (Eq. 4) and logits (Eq. 5); with `average_flips`, outside training, the mean of the four flips'.

        What exports, engines and explanations run is this method, so that all of them score alike.
        """
        if self.training or not self.settings.average_flips:
            return self._one_pass(images)
        flips = torch.cat([images, images.flip(3), images.flip(2), images.flip((2, 3))])
        embedded, logits = (part.reshape(4, -1, part.shape[1]).mean(dim=0) for part in self._one_pass(flips))
        return embedded, logits

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Return a logit for each image and class: what the softmax of Eq. 5 is taken of."""
        return self.embed_and_classify(images)[1]


class SeparableNetwork(Network):
    """The network of Fig. 1b: stem, down-sampling and residual blocks, global average, three FC layers, classifier.

    Images are of any size from 16 x 16 up.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        first, second = settings.stem_widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
        )
        widths = (second, *settings.widths)
        self.blocks = nn.Sequential(
            *(DownBlock(a, b, is_first=k == 0) for k, (a, b) in enumerate(itertools.pairwise(widths))),
            *(ResidualBlock(widths[-1]) for _ in range(settings.n_middle)),
        )
        hidden = settings.n_hidden
        self.num_features = widths[-1]  # after pooling
        self.fc1 = nn.Linear(widths[-1], hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(hidden, settings.n_classes)
        self.projection: nn.Module = nn.Identity()
        if settings.embedding == "projected":
            self.projection = nn.Sequential(nn.Linear(widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    @property
    def embedding_size(self) -> int:
        """Number of values in the embedding h(x)."""
        return self.num_features if self.settings.embedding == "pooled" else self.settings.n_hidden

    def forward_features(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c i j"]:
        """Return the last feature maps, before they are averaged over height and width."""
        mean, spread = self.intensity
        return self.blocks(self.stem((images - mean) / spread))  # type: ignore[no-any-return]  # nn.Module calls are untyped

    def pool(self, features: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c"]:
        """Rectified global average: what the fully connected layers see."""
        return torch.relu(features).mean(dim=(2, 3))

    def hidden(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        """Third fully connected layer, before its ReLU and dropout."""
        x = self.dropout(torch.relu(self.fc1(pooled)))
        x = self.dropout(torch.relu(self.fc2(x)))
        return self.fc3(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped

    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """Return embeddings h(x) and logits of the images as they are, without averaging over flips."""
        pooled = self.pool(self.forward_features(images))
        hidden = self.hidden(pooled)
        logits = self.classifier(self.dropout(torch.relu(hidden)))
        return (hidden if self.settings.embedding == "hidden" else self.projection(pooled)), logits


class PretrainedNetwork(Network):
    """EfficientNet-Lite0's features of an image, standardized, and a head on them.

    A feature is the mean or the maximum of a channel of two of its maps. H is the features and what a small adapter
    adds to them; the adapter begins with nothing, and the classifier is linear in H. So the network begins as a
    logistic regression on ImageNet's features (`diagnet.training.head`). Sides of images are multiples of 32.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.backbone = Lite0()
        self.register_buffer("standard", torch.stack([torch.zeros(N_FEATURES), torch.ones(N_FEATURES)]))
        self.standard: Tensor  # mean and spread of each feature, of the training images
        last = nn.Linear(settings.n_hidden, N_FEATURES)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapter = nn.Sequential(nn.Linear(N_FEATURES, settings.n_hidden), nn.ReLU(), last)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(N_FEATURES, settings.n_classes)
        frozen = {"none": self, "head": self.backbone, "last": self.backbone.first_blocks, "all": None}
        if (part := frozen[settings.trainable]) is not None:
            part.requires_grad_(False)

    @property
    def embedding_size(self) -> int:
        """Number of values in the embedding: here the features of the backbone."""
        return N_FEATURES

    def features(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b feature"]:
        """Return features less their training mean, over their training spread, before the adapter."""
        maps = self.backbone(images)
        pooled = torch.cat([part for x in maps for part in (x.mean(dim=(2, 3)), x.amax(dim=(2, 3)))], dim=1)
        mean, spread = self.standard
        return (pooled - mean) / spread  # type: ignore[no-any-return]  # nn.Module calls are untyped

    def move_and_classify(
        self, images: Float[Tensor, "b 1 h w"], moves: Float[Tensor, "b feature"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """Return embeddings h(x) and logits of images whose features, before they are standardized, are moved."""
        return self.head(self.features(images) + moves / self.standard[1])

    def head(self, features: Float[Tensor, "b feature"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """Return embeddings h(x) and logits of features whose mean is 0 and spread is 1."""
        embedded = features + self.adapter(features)
        return embedded, self.classifier(self.dropout(embedded))

    def _one_pass(self, images: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b classes"]]:
        """Return embeddings h(x) and logits of the images as they are, without averaging over flips."""
        return self.head(self.features(images))


def create_network(preset_or_settings: str | NetworkSettings = "small", *, pretrained: bool = True) -> Network:
    """Make a network with fresh weights from PyTorch's current random state.

    Args:
        preset_or_settings: "small", "paper", "lite0" (any case), or settings.
        pretrained: read the weights that lite0 begins with; without, they are about to be replaced.

    Raises:
        SettingsError: `weights` cannot be read.
    """
    if isinstance(preset_or_settings, str):
        preset_or_settings = NetworkSettings.model_validate({"preset": preset_or_settings})
    settings = preset_or_settings
    if settings.preset != "lite0":
        return SeparableNetwork(settings)
    network = PretrainedNetwork(settings)
    if pretrained:
        network.backbone.load_state_dict(read_lite0(Path(settings.weights) if settings.weights else None))
    return network
