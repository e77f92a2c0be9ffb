from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diagnet.config import Config, merged
from diagnet.data.mass import Mass
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.errors import DataError
from diagnet.network import NetworkSettings
from diagnet.run.augmentation import augment
from diagnet.study import network_fit
from diagnet.study.arms import PLAIN
from diagnet.study.features import hand_crafted, sizes
from diagnet.study.methods import METHODS, RIVALS
from diagnet.study.network_fit import Cases
from diagnet.study.rivals.multi_instance import MultiInstanceNetwork

TINY = {
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 0, "n_hidden": 8},
    "training": {"epochs": 2, "batch_size": 16, "precision": "float32"},
    "neighbors": {"budget": 2},
}


@pytest.fixture(scope="module")
def cases():
    images, labels = make_masses(80, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))
    masses = tuple(
        Mass(image, (0.0, 0.0, 20.0 + 10.0 * label, 20.0), ("benign", "malignant")[label], f"P{k}")
        for k, (image, label) in enumerate(zip(images, labels.tolist(), strict=True))
    )
    return Cases(images, masses, labels, np.arange(80))


@pytest.fixture
def one_thread():
    """As a study runs each job: several threads may add in another order on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("one_thread")
def test_each_method_scores_masses_it_has_not_seen(method, cases):
    if method in RIVALS:
        pytest.importorskip("pytorch_metric_learning", reason="the extra study is not installed")
    if method.startswith(("features", "dhungel")):
        pytest.importorskip("skimage", reason="the extra study is not installed")
    config = Config.from_preset("diagnet", merged(PLAIN, TINY))
    train, test = cases.part(np.arange(60)), cases.part(np.arange(60, 80))
    train = replace(train, patches=train.images)
    scores = METHODS[method](train, config, 0, 0)(test)
    assert scores.shape == (20,)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, METHODS[method](train, config, 0, 0)(test))
    if method == "size":  # these were made to be told apart by it
        assert roc_auc_score(test.labels, scores) > 0.7


def test_arms_on_the_same_masses_share_the_search_for_neighbors(cases, monkeypatch):
    searches = []
    monkeypatch.setattr(network_fit, "augment", lambda *given, **more: searches.append(1) or augment(*given, **more))
    train, test = cases.part(np.arange(60)), cases.part(np.arange(60, 80))
    for changes, seed, n_searches in (({}, 0, 1), ({"training": {"graph_weight": 0.3}}, 0, 1), ({}, 1, 2), ({}, 0, 3)):
        scores = METHODS["network"](train, Config.from_preset("diagnet", merged(TINY, changes)), 0, seed)(test)
        assert len(searches) == n_searches
        if n_searches == 1 and not changes:
            first = scores
    np.testing.assert_array_equal(scores, first)


def test_hand_crafted_features_are_finite_for_any_image():
    pytest.importorskip("skimage", reason="the extra study is not installed")
    rng = np.random.default_rng(0)
    images = np.stack([np.zeros((64, 64)), np.ones((64, 64)), rng.random((64, 64))]).astype(np.float32)
    assert np.isfinite(hand_crafted(images, [])).all()


def test_sizes_are_those_of_the_original(cases):
    mass = Mass(cases.images[0], (10.0, 10.0, 110.0, 60.0), "benign", "P", extra={"original_px_per_px": "2.5"})
    np.testing.assert_allclose(np.exp(sizes(cases.images[:1], [mass])), [[250, 125]])
    with pytest.raises(DataError, match="`box` must be given"):
        sizes(cases.images[:1], [Mass(cases.images[0], None, "benign", "P")])


def test_the_most_malignant_instance_decides():
    network = MultiInstanceNetwork(NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=0)).eval()
    images = torch.rand(3, 1, 32, 32)
    total, logits = network.embed_and_classify(images)
    odds = network.instances(torch.relu(network.forward_features(images))).flatten(1)
    torch.testing.assert_close(logits[:, 1], odds.max(dim=1).values)
    torch.testing.assert_close(total[:, 0], odds.sigmoid().sum(dim=1))
    assert logits[:, 0].eq(0).all()
