"""Networks merged into one in half precision: a run like any other, at a fraction of its size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diagnet.config import Config
from diagnet.errors import RunFolderError, SettingsError
from diagnet.experiment import run_experiment
from diagnet.inference.model import load_model
from diagnet.inference.packing import pack
from diagnet.inference.similar_cases import read_case_base
from test_experiment import phantoms

TINY = {
    "roi": {"size": 32},
    "training": {"epochs": 1, "batch_size": 16, "head_views": 0, "padding": (1.6, 1.6), "shift": 0.0},
    "evaluation": {"folds": 2, "n_resamples": 50},
    "network": {"trainable": "head", "average_flips": False},
}


@pytest.fixture(scope="module")
def best_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of preset best, on small regions of synthetic masses."""
    config = Config.from_preset("best", TINY)
    return run_experiment(config, phantoms(), tmp_path_factory.mktemp("best") / "run", with_report=False).folder


def test_the_packed_run_is_the_networks_mean_in_half_precision(
    best_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("diagnet.data.domain._LEAST_MASSES", 20)  # each source has half of the masses
    masses = [replace(mass, source=("even", "odd")[k % 2]) for k, mass in enumerate(phantoms().masses)]
    agreement = pack(best_run, replace(phantoms(), masses=masses), tmp_path / "packed")
    packed, whole = load_model(tmp_path / "packed", engine="torch"), load_model(best_run, engine="torch")
    assert len(packed.networks) == 1
    assert len(whole.networks) == 2
    stored = load_file(tmp_path / "packed" / "model" / "fold-0.safetensors")
    is_large = {name: tensor.numel() > 1 << 16 for name, tensor in stored.items()}
    assert all((tensor.dtype == torch.float16) == is_large[name] for name, tensor in stored.items())
    assert set(is_large.values()) == {True, False}
    means = [each.state_dict()["classifier.weight"] for each in whole.networks]
    assert torch.equal(stored["classifier.weight"], torch.stack(means).double().mean(dim=0).float())
    assert packed.threshold == pytest.approx(whole.threshold)
    assert agreement["largest_difference_of_halving"] <= 1e-3
    images = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    assert np.abs(packed.probabilities(images) - whole.probabilities(images)).max() < 0.2
    points = agreement["operating_points"]
    assert [each["sensitivity"] >= wanted for each, wanted in zip(points, (0.9, 0.95), strict=True)] == [True, True]
    assert [kind.sources for kind in packed.domains[0].kinds] == [("even",), ("odd",)]
    assert points[0]["threshold"] >= points[1]["threshold"]
    assert json.loads((tmp_path / "packed" / "packed.json").read_text()) == agreement


def test_the_packed_run_shows_cases_and_says_nothing_of_folders(best_run: Path, tmp_path: Path):
    pack(best_run, phantoms(), tmp_path / "packed")
    base = read_case_base(tmp_path / "packed", load_model(tmp_path / "packed", engine="torch"))
    assert len(base.cases) > 0
    assert str(tmp_path) not in (tmp_path / "packed" / "run.json").read_text()
    assert json.loads((tmp_path / "packed" / "run.json").read_text())["command"] == ""


def test_what_cannot_be_packed_is_refused(best_run: Path, finished_run: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match="preset lite0 or best"):
        pack(finished_run, phantoms(), tmp_path / "packed")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(RunFolderError, match="empty or new folder"):
        pack(best_run, phantoms(), tmp_path / "taken")
