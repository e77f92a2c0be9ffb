import pytest
import torch

from diagnet.training.device import resolve_compute


def test_auto_is_what_the_machine_has():
    compute = resolve_compute()
    assert compute.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert compute.precision in ("float32", "bfloat16")
    assert compute.memory_format == "channels_last"


def test_a_narrow_network_is_trained_in_float32():
    assert resolve_compute("cpu", n_narrowest=8).precision == "float32"
    assert resolve_compute("cpu", precision="bfloat16", n_narrowest=8).precision == "bfloat16"


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
