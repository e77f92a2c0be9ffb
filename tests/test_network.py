import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from diagnet.network import NetworkSettings, SeparableConv, create_network


@pytest.fixture(scope="module")
def paper():
    return create_network("paper").eval()


@pytest.fixture(scope="module")
def small():
    return create_network("Small").eval()


def test_the_paper_network_has_the_papers_shape(paper):
    assert sum(p.numel() for p in paper.parameters()) == pytest.approx(15.2e6, rel=0.01)
    sizes = {}
    for name, module in (("stem", paper.stem), *((str(k), block) for k, block in enumerate(paper.blocks))):
        module.register_forward_hook(lambda _m, _i, out, name=name: sizes.__setitem__(name, tuple(out.shape[1:])))
    with torch.inference_mode():
        h, logits = paper.embed_and_classify(torch.rand(1, 1, 224, 224))
    # Blocks see 224, 112 and 56 and have 128, 256 and 728 maps; the seven that follow stay at 28 (Sec. 4.2).
    assert sizes["stem"][1:] == (224, 224)
    assert [sizes[str(k)] for k in range(3)] == [(128, 112, 112), (256, 56, 56), (728, 28, 28)]
    assert [sizes[str(k)] for k in range(3, 10)] == [(728, 28, 28)] * 7
    assert len(paper.blocks) == 10
    assert h.shape == (1, 1024)
    assert logits.shape == (1, 2)
    assert paper.dropout.p == 0.5


def test_separable_convolution_is_a_depthwise_then_a_pointwise_product():
    conv = SeparableConv(3, 5)
    x = torch.randn(2, 3, 6, 6)
    depthwise, pointwise = conv[0].weight, conv[1].weight
    full = (pointwise[:, :, 0, 0, None, None] * depthwise[None, :, 0]).contiguous()
    assert torch.allclose(conv(x), torch.nn.functional.conv2d(x, full, padding=1), atol=1e-5)
    assert all(layer.bias is None for layer in conv)


def test_one_pass_equals_its_parts(small):
    images = torch.rand(3, 1, 64, 64)
    with torch.inference_mode():
        h, logits = small.embed_and_classify(images)
        assert torch.allclose(small(images), logits)
        assert torch.allclose(small.embed(images), h)
        features = small.forward_features(images)
        assert torch.allclose(small.hidden(small.pool(features)), h)
        assert features.shape[1] == small.num_features


def test_embedding_may_be_the_pooled_features():
    network = create_network(NetworkSettings(embedding="pooled")).eval()
    assert network.embed(torch.rand(2, 1, 32, 32)).shape == (2, network.embedding_size) == (2, 128)


def test_embedding_may_have_layers_of_its_own_that_the_classifier_does_not_see(small):
    network = create_network(NetworkSettings(embedding="projected", n_hidden=48, dropout=0.0))
    images = torch.rand(2, 1, 32, 32)
    h, logits = network.embed_and_classify(images)
    assert h.shape == (2, network.embedding_size) == (2, 48)
    h.sum().backward(retain_graph=True)
    assert network.fc3.weight.grad is None
    network.zero_grad(set_to_none=True)
    logits.sum().backward()
    assert all(weight.grad is None for weight in network.projection.parameters())
    assert not any(name.startswith("projection") for name in small.state_dict())


def test_there_may_be_more_classes():
    network = create_network(NetworkSettings(n_classes=4))
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def test_a_score_averaged_over_flips_does_not_depend_on_them(small):
    averaged = create_network(NetworkSettings(average_flips=True)).eval()
    averaged.load_state_dict(small.state_dict())
    images = torch.rand(3, 1, 32, 48)
    with torch.inference_mode():
        h, logits = averaged.embed_and_classify(images)
        each = [small.embed_and_classify(images.flip(axes)) for axes in ((), (2,), (3,), (2, 3))]
        assert torch.allclose(h, torch.stack([one[0] for one in each]).mean(dim=0), atol=1e-6)
        assert torch.allclose(logits, torch.stack([one[1] for one in each]).mean(dim=0), atol=1e-6)
        assert torch.allclose(averaged(images.flip(2)), logits, atol=1e-6)
        assert not torch.allclose(small(images.flip(2)), small(images), atol=1e-6)
    rows = []
    averaged.stem.register_forward_hook(lambda _module, given, _out: rows.append(len(given[0])))
    averaged.train()(images)
    averaged.eval()(images)
    assert rows == [3, 12]  # training sees each image once


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (224, 224)])
def test_any_size(small, size):
    assert small(torch.rand(1, 1, *size)).shape == (1, 2)


def test_intensity_is_taken_out(small):
    shifted = create_network("small").eval()
    shifted.load_state_dict(small.state_dict())
    shifted.intensity = torch.tensor([0.25, 0.5])
    images = torch.rand(2, 1, 32, 32)
    assert torch.allclose(shifted(images), small((images - 0.25) / 0.5), atol=1e-5)


def test_refuses_unknown_presets():
    with pytest.raises(ValidationError, match="small"):
        create_network("large")
    with pytest.raises(ValidationError, match="widths must be from 1 to 65536"):
        NetworkSettings(widths=(8, 0))


def test_channels_last_training_does_not_corrupt_memory():
    # PyTorch 2.13's backward pass of a strided 1 x 1 convolution does, channels last, for these widths: a crash
    # would take the test run with it, so it happens in a process of its own.
    code = """
import torch
from diagnet.network import NetworkSettings, create_network
for precision in (torch.float32, torch.bfloat16):
    network = create_network(NetworkSettings(stem_widths=(4, 8), widths=(12, 24), n_middle=1, n_hidden=8))
    network = network.to(memory_format=torch.channels_last)
    for n in range(2, 60):
        images = torch.rand(n, 1, 16, 16).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = network(images).float().square().sum()
        loss.backward()
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr[-500:]
