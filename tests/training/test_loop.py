import dataclasses
import re

import numpy as np
import pytest
import torch

from diagnet.errors import TrainingError
from diagnet.graph import GraphSettings
from diagnet.losses import signed_graph_loss
from diagnet.network import NetworkSettings
from diagnet.run.checkpoint import read_checkpoint, write_checkpoint
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingSettings, start

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


def test_a_step_goes_down_eq_6(points, monkeypatch):
    moved, graph_weight = [], 0.3
    monkeypatch.setattr("diagnet.training.loop._Run._move_weights", lambda _run, loss: moved.append(loss.item()))
    settings = {"batching": "exact", "batch_size": 48, "epochs": 1, "precision": "float32"}
    state = trained(points, graph_weight=graph_weight, **settings)
    (row,) = state.history
    j_g = (moved[0] - row["classification_loss"]) / graph_weight
    assert j_g > 0
    trained(points, graph_weight=2 * graph_weight, **settings)
    assert moved[1] - row["classification_loss"] == pytest.approx(2 * graph_weight * j_g, rel=1e-4)


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


def test_the_graph_counts_from_where_it_is_told_to(points):
    plain = trained(points, epochs=4, graph_weight=0.0)
    late = trained(points, epochs=4, graph_weight=1.0, graph_start=1.0)
    half = trained(points, epochs=4, graph_weight=1.0, graph_start=0.5)
    assert torch.equal(weights(late), weights(plain))
    same = [
        a["classification_loss"] == b["classification_loss"] for a, b in zip(half.history, plain.history, strict=True)
    ]
    assert same == [True, True, False, False]


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
    assert (points.targets("even", 2)[44:] == -2).all()
    assert (points.targets("other", 2)[44:] == 1 - points.labels[44:]).all()
    assert (points.targets("none", 2)[:44] == points.labels[:44]).all()


def test_three_classes_train(points):
    labels = np.arange(48) % 3
    state = trained(dataclasses.replace(points, labels=labels), network=TINY.model_copy(update={"n_classes": 3}))
    assert embeddings_and_logits(state.network, points.images)[1].shape == (48, 3)


def test_taken_up_again_inside_an_epoch_the_weights_are_equal(points, tmp_path):
    settings = {"epochs": 3, "batch_size": 16, "weight_averaging": 0.9, "learning_rate": 1e-3}
    whole = trained(points, **settings)

    class Stop(Exception):  # noqa: N818 -- not an error
        pass

    def stop(state):
        if (state.epoch, state.step) == (1, 2):
            write_checkpoint(tmp_path, state, {})
            raise Stop("here")

    full = TrainingSettings(**settings)
    with pytest.raises(Stop, match="here"):
        train(start(points, TINY, IN_IMAGES, full, seed=0), points, IN_IMAGES, full, seed=0, on_step=stop)
    state = read_checkpoint(tmp_path, start(points, TINY, IN_IMAGES, full, seed=0), {})
    assert (state.epoch, state.step) == (1, 2)
    train(state, points, IN_IMAGES, full, seed=0)
    assert torch.equal(weights(state), weights(whole))
    numbers = [[{k: v for k, v in row.items() if k != "seconds"} for row in s.history] for s in (state, whole)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("batching", ["bank", "packed", "exact"])
def test_every_batching_learns_and_sees_every_point_once_an_epoch(points, batching):
    seen = []

    class Watched(Points):
        __slots__ = ()

        def take(self, index):
            seen.append(index)
            return super().take(index)

    parts = {field.name: getattr(points, field.name) for field in dataclasses.fields(points)}
    watched = Watched(**parts)
    settings = TrainingSettings(epochs=2, batch_size=16, batching=batching, graph_weight=0.3)
    state = start(watched, TINY, IN_IMAGES, settings, seed=0)
    seen.clear()
    train(state, watched, IN_IMAGES, settings, seed=0)
    if batching == "exact":  # an epoch's anchors; their neighbors come in the same pass
        seen = [index[:16] for index in seen]
    assert sorted(np.concatenate(seen)) == sorted([*range(48)] * 2)
    assert state.history[-1]["signed_graph_loss"] > 0


def test_packed_batches_need_their_graph_even_without_its_loss(points):
    state = trained(points, graph_weight=0.0, batching="packed")
    assert state.graph is not None
    assert state.history[-1]["signed_graph_loss"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_batch(points, bad):
    images = points.images.copy()
    images[7, 3, 3] = bad
    poisoned = dataclasses.replace(points, images=images)
    settings = TrainingSettings(epochs=2, batch_size=16, rotation=0, zoom=0)
    state = start(points, TINY, IN_IMAGES, settings, seed=0)
    before = weights(state)
    with pytest.raises(TrainingError, match=r"must stay finite, got nan .* in epoch 1, step \d") as caught:
        train(state, poisoned, IN_IMAGES, settings, seed=0)
    assert 7 in caught.value.points
    if state.step == 0:
        assert torch.equal(weights(state), before)


def test_a_diverging_loss_stops(points):
    with pytest.raises(TrainingError, match="must stay finite"):
        trained(points, learning_rate=1e4, schedule="constant", warm_up=0, epochs=200, precision="float32")


def test_early_stopping_keeps_the_best_epochs_weights(points):
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.8, 0.1])
    kept = []
    settings = TrainingSettings(epochs=6, batch_size=16, early_stopping=2)
    state = start(points, TINY, IN_IMAGES, settings, seed=0)
    train(
        state,
        points,
        IN_IMAGES,
        settings,
        seed=0,
        validate=lambda _: {"validation_loss": next(losses)},
        on_epoch=lambda state: kept.append(weights(state)),
    )
    assert state.epoch == 4
    assert torch.equal(weights(state), kept[1])
    with pytest.raises(ValueError, match="`early_stopping` must have a validation loss"):
        trained(points, early_stopping=2)


def test_averaged_weights_are_scored_with(points):
    during = []
    state = trained(points, weight_averaging=0.5, epochs=2, on_epoch=lambda s: during.append((weights(s), s.scored())))
    plain = trained(points, epochs=2)
    raw, scored = during[-1]
    assert torch.equal(raw, weights(plain))  # the average watches, it does not interfere
    assert not torch.equal(weights(state), raw)
    _, logits = embeddings_and_logits(scored, points.images)
    assert np.array_equal(logits, embeddings_and_logits(state.network, points.images)[1])


def test_batch_norms_of_averaged_weights_are_measured_for_them(points):
    """Statistics met on the way belong to other weights."""
    settings = {"weight_averaging": 0.9, "epochs": 3, "batch_size": 64, "learning_rate": 0.03, "precision": "float32"}
    state = trained(points, **settings)
    network = state.network
    with torch.no_grad():
        mean, spread = network.intensity
        seen = network.stem[0]((torch.from_numpy(points.images)[:, None] - mean) / spread)
    assert torch.allclose(network.stem[1].running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-4)
    assert torch.allclose(network.stem[1].running_var, seen.var(dim=(0, 2, 3)), rtol=1e-3)
    full = TrainingSettings(**settings)
    watched = start(points, TINY, IN_IMAGES, full, seed=0)
    train(watched, points, IN_IMAGES, full, seed=0, validate=lambda _: {})
    assert torch.equal(weights(watched), weights(state))  # measured after each epoch or once, the same


def test_a_clipped_gradient_is_another_path_only_when_it_binds(points):
    free = weights(trained(points, epochs=1))
    assert torch.equal(free, weights(trained(points, epochs=1, gradient_clip=1e9)))
    assert not torch.equal(free, weights(trained(points, epochs=1, gradient_clip=1e-3)))


def test_points_on_disk_train_as_points_in_memory(points, tmp_path):
    shuffled = np.random.default_rng(1).permutation(60)
    table = np.zeros((60, 16, 16), np.float32)
    table[shuffled[:40]] = points.images[:40]
    np.save(tmp_path / "images.npy", table)
    on_disk = dataclasses.replace(
        points,
        images=np.load(tmp_path / "images.npy", mmap_mode="r"),
        rows=shuffled[:40],
        neighbors=points.images[40:],
    )
    assert on_disk.sha256() == points.sha256()
    assert on_disk.intensity() == points.intensity()
    assert torch.equal(weights(trained(points, epochs=2)), weights(trained(on_disk, epochs=2)))


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_memory_format_is_a_setting(points, memory_format):
    state = trained(points, epochs=1, precision="float32", memory_format=memory_format)
    assert np.isfinite(state.history[-1]["loss"])


def test_progress_tells_images_per_second_and_the_losses_parts(points):
    notes = []
    settings = TrainingSettings(epochs=3, batch_size=16)
    state = start(points, TINY, IN_IMAGES, settings, seed=0)
    train(state, points, IN_IMAGES, settings, seed=0, progress=lambda *step: notes.append(step))
    assert re.fullmatch(r"\d+ images/s, J_l \d\.\d+, J_g \d\.\d+", notes[-1][3])
    assert notes[-1][1:3] == (9, 9)


def test_j_g_of_an_epoch_is_eq_4_whatever_the_size_of_its_blocks(points, monkeypatch):
    whole = trained(points, epochs=2).history[-1]["signed_graph_loss"]
    monkeypatch.setattr("diagnet.training.graph_term._EDGES", 7)
    state = trained(points, epochs=2)
    assert state.history[-1]["signed_graph_loss"] == pytest.approx(whole, rel=1e-5)
    assert signed_graph_loss(state.bank, state.graph.signs).item() == pytest.approx(whole, rel=1e-5)


def test_mixup_learns_and_is_not_for_a_graph(points):
    state = trained(points, epochs=15, graph_weight=0.0, mixup=0.2, precision="float32")
    _, logits = embeddings_and_logits(state.network, points.images[:40])
    assert (logits.argmax(1) == points.labels[:40]).mean() > 0.9
    with pytest.raises(ValueError, match="must be 0 where `graph_weight` is above 0"):
        TrainingSettings(mixup=0.2)


def test_an_extra_loss_is_added_to_j(points):
    settings = TrainingSettings(epochs=1, batch_size=48, graph_weight=0.0, weight_decay=0.0)
    seen = []

    def watching(embeddings, targets):
        seen.append((tuple(embeddings.shape), targets.tolist()))
        return 0 * embeddings.sum()

    plain, same = (start(points, TINY, IN_IMAGES, settings, seed=0) for _ in range(2))
    train(plain, points, IN_IMAGES, settings, seed=0)
    train(same, points, IN_IMAGES, settings, seed=0, extra_loss=watching)
    assert torch.equal(weights(plain), weights(same))
    assert seen[0][0] == (48, 16)
    assert sorted(seen[0][1]) == sorted(points.targets("none", 2).tolist())
    moved = start(points, TINY, IN_IMAGES, settings, seed=0)
    train(moved, points, IN_IMAGES, settings, seed=0, extra_loss=lambda h, _: h.square().mean())
    assert not torch.equal(weights(plain), weights(moved))
