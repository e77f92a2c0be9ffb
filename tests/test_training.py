import dataclasses

import numpy as np
import pytest
import torch

from diagnet.checkpoint import read_checkpoint, write_checkpoint
from diagnet.graph import GraphSettings
from diagnet.losses import signed_graph_loss
from diagnet.network import NetworkSettings
from diagnet.training import (
    Points,
    TrainingSettings,
    augmented,
    embeddings_and_logits,
    resolved_precision,
    start,
    train,
)

IN_IMAGES = GraphSettings()
TINY = NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=1, n_hidden=16, dropout=0.2)


@pytest.fixture(scope="module")
def points():
    """Bright squares against bright crosses, with a few neighbors of each sign."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 48)
    images = rng.random((48, 16, 16), dtype=np.float32) * 0.3
    images[labels == 0, 5:11, 5:11] += 0.6
    images[labels == 1, 7:9, :] += 0.6
    kinds = np.zeros(48, np.int8)
    kinds[40:44], kinds[44:] = 1, -1
    return Points(images, labels, kinds, np.arange(48) // 2)


def trained(points, seed=0, graph=IN_IMAGES, on_epoch=None, network=TINY, **settings):
    settings = TrainingSettings(**{"epochs": 4, "batch_size": 16, "learning_rate": 3e-3, **settings})
    state = start(points, network, graph, settings, seed=seed)
    return train(state, points, graph, settings, seed=seed, on_epoch=on_epoch)


def weights(state):
    return torch.cat([value.flatten().float() for value in state.network.state_dict().values()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(points, precision):
    state = trained(points, epochs=15, precision=precision, graph_weight=0.3)
    _, logits = embeddings_and_logits(state.network, points.images[:40])
    assert (logits.argmax(1) == points.labels[:40]).mean() > 0.9
    assert state.history[-1]["classification_loss"] < state.history[0]["classification_loss"]
    assert state.history[-1]["signed_graph_loss"] < state.history[2]["signed_graph_loss"]


def test_same_seed_same_weights(points):
    assert torch.equal(weights(trained(points)), weights(trained(points)))
    assert not torch.equal(weights(trained(points)), weights(trained(points, seed=1)))


def test_the_callers_random_state_is_left_alone(points):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(points, epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("space", ["image", "embedding"])
def test_taken_up_again_from_a_checkpoint_the_weights_are_equal(points, tmp_path, space):
    graph = GraphSettings(space=space, refresh_epochs=2)
    settings = TrainingSettings(epochs=5, batch_size=16)
    facts = {"seed": 0}
    whole = trained(points, graph=graph, epochs=5, learning_rate=1e-3)

    class Stop(Exception):  # noqa: N818 -- not an error
        pass

    def stop_after_three(state):
        write_checkpoint(tmp_path, state, facts)
        if state.epoch == 3:
            raise Stop("here")

    with pytest.raises(Stop, match="here"):
        trained(points, graph=graph, epochs=5, learning_rate=1e-3, on_epoch=stop_after_three)
    state = read_checkpoint(tmp_path, start(points, TINY, graph, settings, seed=0), facts)
    assert state.epoch == 3
    train(state, points, graph, settings, seed=0)
    assert torch.equal(weights(state), weights(whole))
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("batching", ["bank", "exact"])
def test_graph_weight_zero_is_plain_cross_entropy(points, batching):
    plain = trained(points, graph_weight=0.0, batching=batching)
    assert plain.graph is None
    assert plain.history[-1]["signed_graph_loss"] is None
    assert plain.history[-1]["loss"] == plain.history[-1]["classification_loss"]


def test_the_graph_term_lowers_eq_4(points):
    signs = trained(points, epochs=1).graph.signs

    def j_g(state):
        embeddings, _ = embeddings_and_logits(state.network, points.images)
        return signed_graph_loss(torch.from_numpy(embeddings), signs).item()

    without = j_g(trained(points, epochs=12, graph_weight=0.0))
    for batching in ("bank", "exact"):
        assert j_g(trained(points, epochs=12, graph_weight=1.0, batching=batching)) < 0.9 * without


def test_readings_of_the_negative_neighbors_label(points):
    assert (points.targets("none", 2)[44:] == -1).all()
    assert (points.targets("own", 2) == points.labels).all()
    assert (points.targets("other", 2)[44:] == 1 - points.labels[44:]).all()
    assert (points.targets("none", 2)[:44] == points.labels[:44]).all()


def test_augmentation_keeps_the_picture_and_depends_on_the_rng_alone(points):
    images = torch.from_numpy(points.images[:8])[:, None]
    settings = TrainingSettings(rotation=0, zoom=0)
    flipped = augmented(images, settings, np.random.default_rng(0))
    for image, changed in zip(images[:, 0], flipped[:, 0], strict=True):
        variants = [image, image.flip(0), image.flip(1), image.flip(0, 1)]
        assert any(torch.equal(changed, variant) for variant in variants)
    turning = TrainingSettings(rotation=180, zoom=0.2)
    turned = augmented(images, turning, np.random.default_rng(0))
    assert turned.shape == images.shape
    assert turned.min() >= 0
    assert turned.max() <= 1
    assert torch.equal(turned, augmented(images, turning, np.random.default_rng(0)))
    still = TrainingSettings(flips="none", rotation=0, zoom=0)
    assert torch.equal(augmented(images, still, np.random.default_rng(0)), images)


def test_quarter_turn_is_a_rotation(points):
    settings = TrainingSettings(flips="none", rotation=90, zoom=0)

    class QuarterTurn(np.random.Generator):
        def uniform(self, _low, high, n):
            return np.full(n, high)

    images = torch.from_numpy(points.images[:2])[:, None]
    turned = augmented(images, settings, QuarterTurn(np.random.PCG64(0)))
    either = [torch.allclose(turned, images.rot90(k, (2, 3)), atol=1e-5) for k in (1, 3)]
    assert any(either)


def test_three_classes_train(points):
    labels = np.arange(48) % 3
    state = trained(dataclasses.replace(points, labels=labels), network=TINY.model_copy(update={"n_classes": 3}))
    assert embeddings_and_logits(state.network, points.images)[1].shape == (48, 3)


def test_scoring_nothing_gives_nothing(points):
    h, logits = embeddings_and_logits(trained(points, epochs=1).network, points.images[:0])
    assert h.shape == (0, 16)
    assert logits.shape == (0, 2)


def test_precision_is_resolved():
    assert resolved_precision("float32") == "float32"
    assert resolved_precision("bfloat16") == "bfloat16"
    assert resolved_precision("auto") in ("float32", "bfloat16")
