"""Edges that are known to be right: images of one lesion."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_head import lesions_apart, log_odds_of

from diagnet.graph import GraphSettings
from diagnet.network import NetworkSettings
from diagnet.training.known_edges import KnownEdges, known_edge_loss
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings, start


def of_lesions(*lesions: int, kinds: tuple[int, ...] | None = None) -> Points:
    """Points whose images have the grey value of their place, a hundredth each."""
    n = len(lesions)
    images = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None] / 100, (n, 8, 8))
    found = Points(images.copy(), np.zeros(n, np.int64), np.array(kinds or [0] * n, np.int8), np.arange(n))
    return replace(found, lesions=np.array(lesions, np.int64))


def test_both_ends_of_an_edge_are_images_of_one_lesion():
    points, unlabelled = of_lesions(7, 7, 3, 5, 7, kinds=(0, 0, 0, 0, 1)), of_lesions(3, 9)
    edges = KnownEdges.among(points, unlabelled)
    first, second = edges.draw(4000, np.random.default_rng(0)).reshape(2, -1)
    found = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    # Point 4 is a neighbor; 3 and 6 are alone in their lesions, and are drawn twice.
    assert found == {frozenset(pair) for pair in ((0, 1), (2, 5), (3,), (6,))}
    counts = np.bincount(np.concatenate([first, second]), minlength=7)
    assert counts[4] == 0
    assert np.allclose(counts[[0, 1, 2, 5]], 1000, atol=150)  # each lesion as often
    assert np.allclose(counts[[3, 6]], 2000, atol=150)


def test_images_of_ends_come_from_the_set_they_are_in():
    edges = KnownEdges.among(of_lesions(0, 1, 2), of_lesions(0, 1))
    settings = TrainingSettings(flips="none", rotation=0, zoom=0, graph_weight=0.0, padding=(1.6, 1.6), shift=0)
    rng = np.random.default_rng(0)
    found = edges.images(np.array([4, 0, 2, 3]), settings, device=torch.device("cpu"), rng=rng)
    assert found.shape == (4, 1, 8, 8)
    assert found.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.01, 0.0, 0.02, 0.0], abs=1e-6)


def test_the_loss_is_the_mean_square_of_the_difference_of_log_odds():
    logits = torch.tensor([[0.0, 3.0], [1.0, 1.0], [2.0, 4.0], [5.0, 1.0]])
    # log-odds 3 and 0 against 2 and -4
    assert known_edge_loss(logits).item() == pytest.approx((1 + 16) / 2)
    shifted = logits + torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # the same scores
    assert known_edge_loss(shifted).item() == pytest.approx((1 + 16) / 2)


@pytest.mark.parametrize("trainable", ["head", "last"])
def test_training_draws_the_images_of_a_lesion_together(trainable: str):
    points, hidden = lesions_apart()
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": trainable, "dropout": 0.0})
    apart = []
    for weight in (1e-9, 10.0):
        settings = TrainingSettings(
            graph_weight=0.0,
            epochs=20,
            batch_size=8,
            head_views=0,
            known_weight=weight,
            learning_rate=3e-3,
            device="cpu",
            precision="float32",
        )
        # The head begins without edges, so that what differs is training.
        first = settings.model_copy(update={"known_weight": 0.0})
        state = start(points, network, GraphSettings(), first, seed=1, unlabelled=hidden)
        train(state, points, GraphSettings(), settings, seed=1, unlabelled=hidden)
        scores = log_odds_of(state.network, hidden).reshape(-1, 2)
        apart.append(np.abs(np.diff(scores)).mean())
    assert apart[1] < 0.5 * apart[0], apart


def test_without_a_weight_or_masses_nothing_changes():
    points, hidden = lesions_apart()
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": "head"})
    settings = TrainingSettings(graph_weight=0.0, epochs=2, batch_size=8, head_views=0, device="cpu")
    found = []
    for unlabelled in (None, hidden):
        state = start(points, network, GraphSettings(), settings, seed=1)
        train(state, points, GraphSettings(), settings, seed=1, unlabelled=unlabelled)
        found.append(log_odds_of(state.network, hidden))
    assert np.array_equal(*found)
