import numpy as np
import pytest
import torch

from diagnet.network import NetworkSettings, create_network
from diagnet.training.scoring import embeddings_and_logits

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=1, n_hidden=8)


@pytest.fixture
def network():
    return create_network(TINY)


def test_scoring_nothing_gives_nothing(network):
    h, logits = embeddings_and_logits(network, np.zeros((0, 16, 16), np.float32))
    assert h.shape == (0, 8)
    assert logits.shape == (0, 2)


def test_scoring_is_without_dropout_and_leaves_the_network_as_it_was(network):
    images = np.random.default_rng(0).random((5, 16, 16), dtype=np.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    h, logits = embeddings_and_logits(network.train(), images, batch_size=2)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    again = embeddings_and_logits(network.eval(), images)
    assert not network.training
    np.testing.assert_allclose(h, again[0], atol=1e-5)
    np.testing.assert_allclose(logits, again[1], atol=1e-5)
