import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diagnet.graph import GraphSettings
from diagnet.network import NetworkSettings
from diagnet.training.distributed import Processes, SharedBatchNorm2d, with_shared_batch_norm
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.state import TrainingSettings, start

STEPS = """
import json, sys
import numpy as np
from diagnet.graph import GraphSettings
from diagnet.network import NetworkSettings
from diagnet.training.points import Points
from diagnet.training.distributed import process_group
from diagnet.training.loop import train
from diagnet.training.state import TrainingSettings, start

batching = sys.argv[1]
rng = np.random.default_rng(0)
labels = rng.integers(0, 2, 60)
kinds = np.repeat(np.array([0, 1, -1], np.int8), [48, 6, 6])
points = Points(rng.random((60, 16, 16), dtype=np.float32), labels, kinds, np.arange(60))
network = NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=1, n_hidden=16, dropout=0)
settings = TrainingSettings(
    epochs=4, batch_size=12, batching=batching, precision="float32", graph_weight=0.5, learning_rate=3e-4
)
with process_group() as processes:
    state = start(points, network, GraphSettings(), settings, seed=0)
    losses, before = [], np.zeros(2)
    def record(_stage, done, _total, _note=""):  # J_l and J_g of each step, from the epoch's running sums
        global before
        if done:
            losses.append(((np.array(state.sums) - before * (done % 5 != 1)) / 12).tolist())
        before = np.array(state.sums)
    train(state, points, GraphSettings(), settings, seed=0, progress=record, processes=processes)
    if processes.is_first:
        weights = {name: value.double().sum().item() for name, value in state.network.state_dict().items()}
        print(json.dumps({"losses": losses, "weights": weights, "size": processes.size}))
"""


def torchrun(n, *command):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("batching", ["bank", "exact"])
def test_two_processes_have_the_losses_of_one(tmp_path, batching):
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    one = json.loads(subprocess.check_output([sys.executable, str(script), batching], text=True))
    two = json.loads(torchrun(2, str(script), batching))
    assert (one["size"], two["size"]) == (1, 2)
    assert len(one["losses"]) == 20
    assert np.abs(np.array(one["losses"]) - np.array(two["losses"])).max() < 1e-4
    assert one["losses"][-1][1] > 0
    for name, total in one["weights"].items():
        assert two["weights"][name] == pytest.approx(total, rel=1e-3, abs=1e-3), name


def test_the_same_command_under_torchrun_writes_the_same_run(manifest, tmp_path):
    options = ["--preset", "diagnet", "--quiet", "--no-report"]
    for setting in ("roi.size=32", "training.epochs=2", "training.precision=float32", "network.dropout=0"):
        options += ["--set", setting]
    options += ["--set", "neighbors.budget=2"]
    diagnet = str(Path(sys.executable).with_name("diagnet"))
    subprocess.run([diagnet, "train", str(manifest), "--out", str(tmp_path / "one"), *options], check=True)
    torchrun(2, "--no-python", diagnet, "train", str(manifest), "--out", str(tmp_path / "two"), *options)
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        assert one["classification_loss"] == pytest.approx(two["classification_loss"], abs=1e-3)
        assert one["validation_loss"] == pytest.approx(two["validation_loss"], abs=1e-2)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


def test_shares_cover_every_point_once():
    points = np.arange(11)
    shares = [Processes(rank, 3).local_shard(points) for rank in range(3)]
    assert np.concatenate(shares).tolist() == points.tolist()


def test_more_processes_than_a_batch_has_points_are_refused():
    points = Points(np.zeros((6, 16, 16), np.float32), np.arange(6) % 2, np.zeros(6, np.int8), np.arange(6))
    settings = TrainingSettings(epochs=1, batch_size=2)
    state = start(points, NetworkSettings(), GraphSettings(), settings, seed=0)
    with pytest.raises(ValueError, match="a batch must have a point for each of 3 processes, got 2"):
        train(state, points, GraphSettings(), settings, seed=0, processes=Processes(0, 3))


def test_shared_batch_norm_scores_as_the_plain_one():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    images = torch.rand(3, 1, 8, 8)
    expected = plain(images)
    shared = with_shared_batch_norm(plain)
    assert isinstance(shared[1], SharedBatchNorm2d)
    assert torch.equal(shared(images), expected)
