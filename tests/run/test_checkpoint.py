import numpy as np
import pytest
import torch

from diagnet.errors import RunFolderError
from diagnet.graph import GraphSettings
from diagnet.network import NetworkSettings, create_network
from diagnet.run.checkpoint import array_hash, read_checkpoint, read_weights, write_checkpoint, write_weights
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings, start

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=0, n_hidden=8)
FACTS = {"seed": 0}
SETTINGS = TrainingSettings(epochs=3, batch_size=8)


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    images = rng.random((16, 16, 16), dtype=np.float32)
    return Points(images, np.arange(16) % 2, np.zeros(16, np.int8), np.arange(16))


@pytest.fixture
def fresh(points):
    return lambda: start(points, TINY, GraphSettings(), SETTINGS, seed=0)


def train_all_epochs(folder, points, fresh):
    train(fresh(), points, GraphSettings(), SETTINGS, seed=0, on_epoch=lambda s: write_checkpoint(folder, s, FACTS))


def test_weights_round_trip(tmp_path):
    network = create_network(TINY)
    write_weights(tmp_path / "w.safetensors", network, {"threshold": 0.4})
    again, facts = read_weights(tmp_path / "w.safetensors")
    assert facts["threshold"] == 0.4
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(again(images), network.eval()(images))


def test_the_last_two_checkpoints_are_kept(tmp_path, points, fresh):
    train_all_epochs(tmp_path, points, fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"epoch-0000{n}-step-000000.{ending}" for n in (2, 3) for ending in ("json", "safetensors")
    ]
    assert read_checkpoint(tmp_path, fresh(), FACTS).epoch == 3


@pytest.mark.parametrize("damage", ["truncate", "edit", "lose the json", "garble the json"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(tmp_path, points, fresh, damage):
    train_all_epochs(tmp_path, points, fresh)
    path = tmp_path / "epoch-00003-step-000000.safetensors"
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "edit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "lose the json":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("[1")
    assert read_checkpoint(tmp_path, fresh(), FACTS).epoch == 2
    with pytest.raises(RunFolderError, match="must be"):
        read_weights(path)


def test_another_run_is_refused(tmp_path, points, fresh):
    train_all_epochs(tmp_path, points, fresh)
    with pytest.raises(RunFolderError, match="must go on with the same seed"):
        read_checkpoint(tmp_path, fresh(), {"seed": 1})


def test_no_checkpoint_is_no_error(tmp_path, fresh):
    assert read_checkpoint(tmp_path / "none", fresh(), FACTS) is None


def test_hash_of_an_array_sees_its_values():
    a = np.arange(6.0)
    assert array_hash(a) == array_hash(a.copy())
    assert array_hash(a) != array_hash(a + 1)


def test_average_and_best_weights_come_back_as_what_they_were(tmp_path, fresh):
    state = fresh()
    weights = state.network.state_dict()
    state.average = {name: torch.full_like(value, 1) for name, value in weights.items()}
    state.best = {name: torch.full_like(value, 2) for name, value in weights.items()}
    write_checkpoint(tmp_path, state, FACTS)
    again = read_checkpoint(tmp_path, fresh(), FACTS)
    assert all((value == 1).all() for value in again.average.values())
    assert all((value == 2).all() for value in again.best.values())
