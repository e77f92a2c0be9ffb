"""Where and how the network computes: device, precision, memory format, and their defaults."""

from dataclasses import dataclass
from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
MemoryFormat = Literal["auto", "channels_last", "contiguous"]

# What `auto` means. The processor's rows are measured (docs/evidence/speed.md); graphics cards' follow PyTorch.
_DEFAULTS: dict[str, tuple[Literal["float32", "bfloat16"], Literal["channels_last", "contiguous"]]] = {
    "cpu with bfloat16": ("bfloat16", "channels_last"),
    "cpu": ("float32", "channels_last"),
    "cuda with bfloat16": ("bfloat16", "channels_last"),
    "cuda": ("float32", "channels_last"),
    "mps": ("float32", "contiguous"),
}


@dataclass(frozen=True, slots=True)
class Compute:
    """A device with the precision of its matrix products and the order of its pixels in memory."""

    device: torch.device
    precision: Literal["float32", "bfloat16"]
    memory_format: Literal["channels_last", "contiguous"]

    @property
    def layout(self) -> torch.memory_format:
        """The memory format as PyTorch calls it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Context in which a forward pass has the precision asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def resolve_compute(
    device: DeviceName = "auto",
    precision: Precision = "auto",
    memory_format: MemoryFormat = "auto",
    *,
    fast_in_bfloat16: bool = True,
) -> Compute:
    """Turn `auto` into what this machine is fast at.

    Args:
        device: "auto" takes CUDA where there is a card, else the processor; "mps" only when asked for.
        precision: "auto" takes bfloat16 where the device multiplies it natively.
        memory_format: "auto" takes channels last but on MPS.
        fast_in_bfloat16: of the network (`NetworkSettings.fast_in_bfloat16`); where it is not, "auto" takes float32 on
            a processor.

    Raises:
        ValueError: the device is not there.
    """
    name = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"`device` must be one that this machine has, got {name!r}")
    kind = f"{name} with bfloat16" if _multiplies_bfloat16(name) else name
    if name == "cpu" and not fast_in_bfloat16:
        kind = name
    default_precision, default_format = _DEFAULTS[kind]
    return Compute(
        torch.device(name),
        default_precision if precision == "auto" else precision,
        default_format if memory_format == "auto" else memory_format,
    )


def _multiplies_bfloat16(name: str) -> bool:
    if name == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if name != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
