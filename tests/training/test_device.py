import pytest
import torch

from diagnet.network import NetworkSettings
from diagnet.training.device import resolve_compute


def test_auto_is_what_the_machine_has():
    compute = resolve_compute()
    assert compute.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert compute.precision in ("float32", "bfloat16")
    assert compute.memory_format == "channels_last"


def test_what_is_slow_in_bfloat16_is_trained_in_float32():
    assert resolve_compute("cpu", fast_in_bfloat16=False).precision == "float32"
    assert resolve_compute("cpu", precision="bfloat16", fast_in_bfloat16=False).precision == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "is_fast"),
    [
        ({}, True),
        ({"widths": (8, 32)}, False),
        ({"stem_widths": (8, 32)}, False),
        ({"preset": "lite0", "trainable": "all"}, False),
        ({"preset": "lite0", "trainable": "last"}, False),
        ({"preset": "lite0", "trainable": "head"}, True),
    ],
)
def test_narrow_layers_and_pretrained_blocks_are_slow_in_bfloat16(settings, is_fast):
    assert NetworkSettings(**settings).fast_in_bfloat16 == is_fast


def test_what_is_asked_for_is_taken():
    compute = resolve_compute("cpu", "float32", "contiguous")
    assert (compute.device.type, compute.precision, compute.memory_format) == ("cpu", "float32", "contiguous")
    assert compute.layout == torch.contiguous_format
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here: its absence was not tested")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="`device` must be one that this machine has, got 'cuda'"):
        resolve_compute("cuda")
