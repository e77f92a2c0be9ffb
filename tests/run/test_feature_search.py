"""Neighbors in lite0's embedding: moves of features, searched, trained on, written and told of."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from diagnet.config import Config
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.distance import cosine_distance
from diagnet.errors import SettingsError
from diagnet.estimators import AdversarialAugmenter
from diagnet.experiment import run_experiment
from diagnet.inference.model import load_model
from diagnet.inference.similar_cases import read_case_base
from diagnet.network import create_network
from diagnet.run.augmentation import augment, write_augmentation
from diagnet.run.feature_search import find_moves
from diagnet.training.points import Moves, Points, Surroundings
from phantom_masses import masses_of

SEARCH = {"search_space": "embedding", "budget": 15, "positive_ratio": 0.5, "negative_ratio": 0.25}
TRAINING = {
    "epochs": 1,
    "batch_size": 16,
    "head_views": 0,
    "padding": [1.6, 1.6],
    "shift": 0.0,
    "gamma": 0.0,
    "noise": 0.0,
}


def config(**training):
    changes = {"roi": {"size": 32}, "neighbors": SEARCH, "training": {**TRAINING, **training}}
    changes["evaluation"] = {"n_resamples": 100}
    return Config.from_preset("lite0", {**changes, "network": {"trainable": "head"}})


@pytest.fixture(scope="module")
def masses(regions):
    return masses_of(*regions)


@pytest.fixture(scope="module")
def regions():
    return make_masses(60, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))


def features_of(images):
    with torch.inference_mode():
        return create_network("lite0").eval().features(torch.from_numpy(images)[:, None]).numpy()


def test_a_neighbor_is_its_originals_features_and_its_move(regions):
    images, labels = regions
    found, moves = find_moves(config(), images, labels, rng=np.random.default_rng(0))
    features = features_of(images)
    scaled = ((features - features.mean(0)) / features.std(0)).clip(-8, 8) / 16 + 0.5
    made = scaled[moves.parents] + moves.features / features.std(0) / 16
    assert set(found.kinds) == {1, -1}
    assert found.keeps_rules.all()
    for k, (label, nearest) in enumerate(zip(found.labels, found.nearest_original, strict=True)):
        assert labels[moves.parents[k]] == label
        apart = cosine_distance(made[k : k + 1], scaled[labels == label])[0]
        assert apart.min() == pytest.approx(nearest, rel=1e-2)
    assert np.array_equal(
        moves.features, find_moves(config(), images, labels, rng=np.random.default_rng(0))[1].features
    )


def test_a_move_has_its_originals_image_as_it_is_drawn():
    rng = np.random.default_rng(0)
    images = rng.random((6, 8, 8), dtype=np.float32)
    around = Surroundings(rng.random((6, 16, 16), dtype=np.float32), rng.random((6, 4), dtype=np.float32), True)
    moves = Moves(np.array([2, 0]), rng.random((2, 3), dtype=np.float32))
    kinds, rows = np.array([0, 0, 0, 1, -1], np.int8), np.array([4, 1, 3])
    points = Points(images, np.zeros(5, np.int64), kinds, np.arange(5), rows, moves=moves, surroundings=around)
    index = np.array([3, 1, 4])
    assert np.array_equal(points.take(index), images[[3, 1, 4]])
    wide, boxes = points.take_surroundings(index)
    assert np.array_equal(wide, around.images[[3, 1, 4]])
    assert np.array_equal(boxes, around.boxes[[3, 1, 4]])
    assert np.array_equal(points.take_moves(index), np.stack([moves.features[0], np.zeros(3), moves.features[1]]))
    other = Moves(moves.parents, moves.features + 1)
    assert points.sha256() != Points(images, *(points.labels, kinds, points.relatives, rows), moves=other).sha256()


def test_a_network_is_trained_on_the_moved_features(regions):
    images, labels = regions
    made = augment(config(), images, np.arange(60), labels, np.arange(60), rng=np.random.default_rng(0))
    network = create_network("lite0").eval()
    network.standard[1] = 2.0
    chosen = np.array([len(made.points) - 1, 3])
    with torch.inference_mode():
        shown, added = (torch.from_numpy(part) for part in (made.points.take(chosen), made.points.take_moves(chosen)))
        embedded, _ = network.move_and_classify(shown[:, None], added)
        plain, _ = network.embed_and_classify(shown[:, None])
    # The adapter begins with nothing, so H is the features, in units of their spread.
    assert np.allclose(embedded - plain, added / 2, atol=1e-4)
    assert (embedded[0] != plain[0]).any()


@pytest.fixture(scope="module")
def run(masses, tmp_path_factory):
    return run_experiment(config(graph_weight=0.3), masses, tmp_path_factory.mktemp("moves") / "run")


def test_a_run_trains_on_them_and_tells_of_them(run, masses, tmp_path):
    with np.load(run.folder / "neighbors.npz", allow_pickle=False) as file:
        assert len(file["moves"]) == len(file["kinds"]) > 0
        assert file["images"].size == 0
    assert "feature vectors" in (run.folder / "report.html").read_text()
    weights = load_file(run.folder / "model" / "fold-0.safetensors")
    again = run_experiment(config(graph_weight=0.3), masses, tmp_path / "again", with_report=False)
    same = load_file(again.folder / "model" / "fold-0.safetensors")
    assert all(np.array_equal(weights[name], same[name]) for name in weights)


def test_their_moves_count(masses, tmp_path, monkeypatch):
    def trained(name, factor):
        def take(self, points):
            return None if self.moves is None else factor * whole(self, points)

        monkeypatch.setattr(Points, "take_moves", take)
        done = run_experiment(config(), masses, tmp_path / name, with_report=False)
        return load_file(done.folder / "model" / "fold-0.safetensors")["classifier.weight"]

    whole = Points.take_moves
    assert not np.allclose(trained("as-found", 1), trained("without", 0), atol=1e-6)


def test_similar_cases_are_masses_alone(run):
    base = read_case_base(run.folder, load_model(run.folder))
    assert {case.kind for case in base.cases} == {"original"}


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("small", {}, "`neighbors.search_space` must be subspace or pixel without lite0's features"),
        (
            "lite0",
            {"graph": {"space": "image"}, "training": {"graph_weight": 0.1}},
            "`graph.space` must be embedding where neighbors are feature vectors",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(preset, changes, message):
    with pytest.raises(SettingsError, match=message):
        Config.from_preset(preset, {"neighbors": SEARCH, **changes})


def test_without_a_network_it_is_refused(masses, regions, tmp_path):
    with pytest.raises(SettingsError, match="must be subspace or pixel to make images"):
        write_augmentation(config(), masses, tmp_path / "out")
    with pytest.raises(SettingsError, match="`search_space` must be subspace or pixel where there is no network"):
        AdversarialAugmenter(search_space="embedding").fit_resample(*regions)
