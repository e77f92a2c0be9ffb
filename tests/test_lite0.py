"""EfficientNet-Lite0: folded weights against the published layout, layer by layer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from diagnet.errors import SettingsError
from diagnet.lite0 import Lite0, folded_weights, read_lite0

# Kernel, stride, expansion, channels, how often, as in the published description.
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)]
STAGES += [(5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]


def published(rng: torch.Generator) -> dict[str, Tensor]:
    """Random weights with timm's names."""
    found: dict[str, Tensor] = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        found[f"{conv}.weight"] = torch.randn(*shape, generator=rng) / (shape[1] * shape[2] ** 2) ** 0.5
        found[f"{norm}.weight"], found[f"{norm}.bias"] = torch.rand(2, shape[0], generator=rng) + 0.5
        found[f"{norm}.running_mean"] = torch.randn(shape[0], generator=rng) / 10
        found[f"{norm}.running_var"] = torch.rand(shape[0], generator=rng) + 0.5

    add("conv_stem", "bn1", 32, 3, 3, 3)
    n_in = 32
    for stage, (kernel, _, expansion, n_out, times) in enumerate(STAGES):
        for index in range(times):
            at, wide = f"blocks.{stage}.{index}", n_in * expansion
            if expansion > 1:
                add(f"{at}.conv_pw", f"{at}.bn1", wide, n_in, 1, 1)
                add(f"{at}.conv_dw", f"{at}.bn2", wide, 1, kernel, kernel)
                add(f"{at}.conv_pwl", f"{at}.bn3", n_out, wide, 1, 1)
            else:
                add(f"{at}.conv_dw", f"{at}.bn1", wide, 1, kernel, kernel)
                add(f"{at}.conv_pw", f"{at}.bn2", n_out, wide, 1, 1)
            n_in = n_out
    return found


def reference(tensors: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """The published network on three equal colors, batch norms apart, padding as TensorFlow's "same"."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, *, relu: bool = True) -> Tensor:
        weight = tensors[f"{conv}.weight"]
        kernel = weight.shape[2]
        total = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
        x = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        parts = (tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = functional.batch_norm(x, *parts, eps=1e-3)
        return functional.relu6(x) if relu else x

    x = layer(images.expand(-1, 3, -1, -1) * 2 - 1, "conv_stem", "bn1", 2)
    found = []
    for stage, (_, stride, expansion, _, times) in enumerate(STAGES):
        for index in range(times):
            at, before, step = f"blocks.{stage}.{index}", x, stride if index == 0 else 1
            if expansion > 1:
                x = layer(x, f"{at}.conv_pw", f"{at}.bn1")
                x = layer(x, f"{at}.conv_dw", f"{at}.bn2", step)
                x = layer(x, f"{at}.conv_pwl", f"{at}.bn3", relu=False)
            else:
                x = layer(x, f"{at}.conv_dw", f"{at}.bn1", step)
                x = layer(x, f"{at}.conv_pw", f"{at}.bn2", relu=False)
            x = before + x if step == 1 and before.shape == x.shape else x
        if stage in (4, 6):
            found.append(x)
    return found


def as_wheel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the wheel's names."""
    names, number = {"conv_stem": "_conv_stem", "bn1": "_bn0"}, 0
    for stage, (*_, expansion, _, times) in enumerate(STAGES):
        for index in range(times):
            at, to = f"blocks.{stage}.{index}", f"_blocks.{number}"
            parts = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            ours = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            if expansion == 1:
                ours, parts = ["conv_dw", "bn1", "conv_pw", "bn2"], parts[2:]
            names |= {f"{at}.{a}": f"{to}.{b}" for a, b in zip(ours, parts, strict=True)}
            number += 1
    return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in tensors.items()}


def test_folded_weights_give_the_maps_of_the_published_network():
    tensors = published(torch.Generator().manual_seed(0))
    images = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    network = Lite0()
    network.load_state_dict(folded_weights(tensors, "test"))
    with torch.no_grad():
        for own, expected in zip(network(images), reference(tensors, images), strict=True):
            assert own.shape == expected.shape
            assert torch.allclose(own, expected, atol=1e-4)


def test_wheel_and_timm_names_give_the_same_weights(tmp_path: Path):
    tensors = published(torch.Generator().manual_seed(0))
    by_timm = folded_weights(tensors, "test")
    by_wheel = folded_weights(as_wheel(tensors), "test")
    assert by_timm.keys() == by_wheel.keys()
    assert all(torch.equal(by_timm[name], by_wheel[name]) for name in by_timm)
    save_file(tensors, tmp_path / "timm.safetensors")
    assert torch.equal(
        read_lite0(tmp_path / "timm.safetensors")["blocks.3.filter.bias"], by_timm["blocks.3.filter.bias"]
    )


def test_the_shipped_weights_are_whole_and_finite():
    weights = read_lite0()
    assert sum(value.numel() for value in weights.values()) == 2_938_544
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match="readable"):
        read_lite0(tmp_path / "none.safetensors")
    tensors = published(torch.Generator().manual_seed(0))
    del tensors["blocks.2.1.conv_dw.weight"]
    with pytest.raises(SettingsError, match="got no tensor"):
        folded_weights(tensors, "test")
    own = read_lite0()
    own["blocks.0.filter.weight"] = torch.zeros(1)
    save_file(own, tmp_path / "other.safetensors")
    with pytest.raises(SettingsError, match=r"must hold `blocks\.0\.filter\.weight` of \(32, 1, 3, 3\), got \(1,\)"):
        read_lite0(tmp_path / "other.safetensors")
