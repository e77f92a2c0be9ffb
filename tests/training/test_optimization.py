import pytest
import torch
from torch import nn

from diagnet.training.optimization import make_optimizer, rate_factor


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_the_top_and_then_follows_its_schedule(schedule):
    factors = [rate_factor(schedule, 0.1, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert sorted(factors[10:], reverse=True) == factors[10:]
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=0.02)
    half = {"cosine": 0.5, "linear": 0.5, "constant": 1.0}[schedule]
    assert factors[55] == pytest.approx(half, abs=0.01)


def test_without_warm_up_the_first_step_is_at_the_top():
    assert rate_factor("cosine", 0.0, 0, 10) == 1.0
    assert rate_factor("cosine", 1.0, 9, 10) == 1.0


def test_the_fused_optimizer_walks_weights_of_any_memory_format():
    torch.manual_seed(0)
    networks = [nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain = torch.optim.AdamW(networks[0].parameters(), lr=0.1, weight_decay=0.2, foreach=False)
    ours = make_optimizer(networks[1], 0.1, 0.2)
    assert ours.param_groups[0]["weight_decay"] == 0.2
    for _ in range(3):
        images = torch.rand(2, 3, 8, 8)
        for network, optimizer in zip(networks, (plain, ours), strict=True):
            optimizer.zero_grad()
            network(images).square().mean().backward()
            optimizer.step()
    assert networks[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(networks[0].weight, networks[1].weight, atol=1e-5)
