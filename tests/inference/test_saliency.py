import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.inference.saliency import occlusion, randomized
from diagnet.network import NetworkSettings, create_network
from diagnet.training.scoring import embeddings_and_logits


def test_a_score_that_hangs_on_one_corner():
    def malignancy(images):
        return 1 / (1 + np.exp(-images[:, :8, :8].mean(axis=(1, 2))))

    region = np.full((32, 32), 0.2, dtype=np.float32)
    region[:8, :8] = 0.9
    change = occlusion(malignancy, region)
    assert change.shape == (32, 32)
    assert change[0, 0] == change.max() > 0
    np.testing.assert_allclose(change[16:, 16:], 0, atol=1e-6)
    # The corner's patch alone covers the first point: its change is the score's own.
    masked = region.copy()
    masked[:8, :8] = region.mean()
    assert change[0, 0] == pytest.approx(region[:8, :8].mean() - masked[:8, :8].mean(), rel=1e-4)


def test_what_speaks_against_is_below_zero():
    change = occlusion(lambda images: 1 - 0.5 * images[:, 12:20, 12:20].mean(axis=(1, 2)), _bright_center())
    assert change[16, 16] < 0


def test_certainty_has_no_infinite_change():
    change = occlusion(lambda images: (images.mean(axis=(1, 2)) > 0.1).astype(np.float64), _bright_center())
    assert np.isfinite(change).all()


@pytest.mark.parametrize("size", [16, 17, 64])
def test_every_point_is_covered(size):
    region = np.random.default_rng(0).random((size, size), dtype=np.float32)
    change = occlusion(lambda images: images.mean(axis=(1, 2)).astype(np.float64), region)
    assert np.isfinite(change).all()


def test_randomized_weights_give_another_map():
    """The sanity check of Adebayo et al. 2018: saliency hangs on what the network learned, not on the image alone."""
    settings = NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=1, n_hidden=16, dropout=0.0)
    images, labels = make_masses(64, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))
    torch.manual_seed(0)
    network = create_network(settings)
    _train(network, images, labels)
    other = randomized(network, images, rng=np.random.default_rng(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    same, random = [], []
    for image in images[:24]:
        trained = occlusion(_malignancy(network), image)
        same.append(spearmanr(np.abs(trained).ravel(), np.abs(occlusion(_malignancy(network), image)).ravel())[0])
        random.append(spearmanr(np.abs(trained).ravel(), np.abs(occlusion(_malignancy(other), image)).ravel())[0])
    assert np.min(same) == pytest.approx(1)
    assert np.median(random) < 0.5
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])  # the network itself was left alone


def _malignancy(network):
    def chances(images):
        logits = embeddings_and_logits(network, images)[1].astype(np.float64)
        return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))

    return chances


def _train(network, images, labels):
    x, y = torch.from_numpy(np.array(images))[:, None], torch.from_numpy(np.array(labels))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    network.eval()


def _bright_center():
    region = np.zeros((32, 32), dtype=np.float32)
    region[12:20, 12:20] = 1
    return region
