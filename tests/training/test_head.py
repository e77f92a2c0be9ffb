"""How lite0 begins: a logistic regression on its features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from diagnet.graph import GraphSettings
from diagnet.laplacian import SignedLaplacianClassifier, joined
from diagnet.network import Network, NetworkSettings, PretrainedNetwork
from diagnet.training.head import PENALTY
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingSettings, TrainingState, start


def some_points(n: int = 24) -> Points:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = rng.random((n, 32, 32)) * 0.5 + 0.2 * labels[:, None, None]
    return Points(images.astype(np.float32), labels, np.zeros(n, np.int8), np.arange(n))


def begun(trainable: str, points: Points, **changes: object) -> tuple[TrainingState, TrainingSettings]:
    settings = TrainingSettings(graph_weight=0.0, batch_size=8, device="cpu", precision="float32", **changes)  # type: ignore[arg-type]
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": trainable})
    return start(points, network, GraphSettings(), settings, seed=1), settings


def test_it_begins_as_a_logistic_regression_on_standardized_features():
    points = some_points()
    steps: list[tuple[object, ...]] = []
    network_settings = NetworkSettings.model_validate({"preset": "lite0", "trainable": "head"})
    settings = TrainingSettings(graph_weight=0.0, head_views=0, device="cpu", precision="float32")
    tell = lambda *step: steps.append(step)  # noqa: E731
    state = start(points, network_settings, GraphSettings(), settings, seed=1, progress=tell)
    assert steps == [("features", 0, 24), ("features", 24, 24)]
    network = state.network
    assert isinstance(network, PretrainedNetwork)
    embedded, logits = embeddings_and_logits(network, points.images)
    assert np.abs(embedded.mean(axis=0)).max() < 1e-3
    assert np.abs(embedded.std(axis=0) - 1).max() < 1e-2
    slow = LogisticRegression(C=1 / PENALTY, max_iter=1000).fit(embedded, points.labels)
    # Both stop where the gradient is small: near each other, and not equal.
    assert np.allclose(logits[:, 1] - logits[:, 0], slow.decision_function(embedded), atol=0.02)


@pytest.mark.parametrize(("trainable", "moved"), [("none", 0), ("head", 1), ("last", 2), ("all", 3)])
def test_what_is_trained_is_what_was_asked_for(trainable: str, moved: int):
    points = some_points()
    state, settings = begun(trainable, points, epochs=1, head_views=0)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    train(state, points, GraphSettings(), settings, seed=1)
    after = state.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    order = ("classifier.", "backbone.blocks.15.", "backbone.stem.")
    assert [any(name.startswith(part) for name in changed) for part in order] == [k < moved for k in range(3)]


def test_the_backbone_learns_at_a_fraction_of_the_heads_rate():
    state, _ = begun("all", some_points(), head_views=0, backbone_rate=0.25)
    rates = {group["rate"] for group in state.optimizer.param_groups}
    assert rates == {0.25, 1.0}
    head = {id(weight) for group in state.optimizer.param_groups if group["rate"] == 1 for weight in group["params"]}
    named = {id(weight): name for name, weight in state.network.named_parameters()}
    assert all(not named[key].startswith("backbone.") for key in head)


def test_the_head_is_fitted_to_originals_alone():
    points = some_points()
    kinds = np.array([0] * 20 + [1] * 4, np.int8)
    with_neighbors = Points(points.images, points.labels, kinds, points.relatives)
    originals = Points(points.images[:20], points.labels[:20], kinds[:20], points.relatives[:20])
    one, _ = begun("head", with_neighbors, head_views=0)
    other, _ = begun("head", originals, head_views=0)
    assert torch.equal(one.network.classifier.weight, other.network.classifier.weight)


def lesions_apart(n: int = 24, n_labelled: int = 8) -> tuple[Points, Points]:
    """Masses with and without a label; the second image of each lesion is lighter."""
    rng, lesions = np.random.default_rng(3), np.arange(n) // 2
    grey = 0.1 * (lesions % 2) + 0.3 * (np.arange(n) % 2)
    images = (rng.random((n, 32, 32)) * 0.3 + grey[:, None, None]).astype(np.float32)

    def part(rows: slice, labels: np.ndarray) -> Points:
        kinds = np.zeros(len(labels), np.int8)
        return Points(images[rows], labels, kinds, lesions[rows], lesions=lesions[rows])

    first, rest = slice(n_labelled), slice(n_labelled, None)
    return part(first, lesions[first] % 2), part(rest, np.full(n - n_labelled, -1))


def log_odds_of(network: Network, points: Points) -> np.ndarray:
    logits = embeddings_and_logits(network, points.images)[1]
    return np.asarray(logits[:, 1] - logits[:, 0])


def test_masses_without_a_label_draw_the_images_of_a_lesion_together():
    points, hidden = lesions_apart()
    settings = TrainingSettings(graph_weight=0.0, head_views=1, known_weight=30.0, device="cpu", precision="float32")
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": "none"})
    apart = []
    for unlabelled in (None, hidden):
        state = start(points, network, GraphSettings(), settings, seed=1, unlabelled=unlabelled)
        scores = log_odds_of(state.network, hidden).reshape(-1, 2)
        apart.append(np.abs(np.diff(scores)).mean() / scores.std())
    assert apart[1] < 0.5 * apart[0]


def test_the_head_with_masses_without_a_label_is_the_classifier_of_the_signed_laplacian():
    points, hidden = lesions_apart()
    settings = TrainingSettings(graph_weight=0.0, head_views=0, known_weight=0.3, device="cpu", precision="float32")
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": "none"})
    state = start(points, network, GraphSettings(), settings, seed=1, unlabelled=hidden)
    rows = embeddings_and_logits(state.network, np.concatenate([points.images, hidden.images]))[0].astype(np.float64)
    labels = np.concatenate([points.labels, hidden.labels])
    slow = SignedLaplacianClassifier(0.3, 1 / PENALTY, unlabelled=-1)
    slow.fit(rows, labels, joined(np.concatenate([points.lesions, hidden.lesions])))  # type: ignore[list-item]
    found = log_odds_of(state.network, hidden)
    assert np.allclose(found, slow.decision_function(rows[len(points) :]), atol=0.01)


def test_masses_without_a_label_must_say_which_lesion_they_show():
    points, hidden = lesions_apart()
    settings = TrainingSettings(graph_weight=0.0, head_views=0, device="cpu", precision="float32")
    network = NetworkSettings.model_validate({"preset": "lite0", "trainable": "none"})
    with pytest.raises(ValueError, match="`lesions` must be given"):
        start(points, network, GraphSettings(), settings, seed=1, unlabelled=replace(hidden, lesions=None))
