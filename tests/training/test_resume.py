"""A training that is killed, cut off from its disk or fed something else, and taken up again."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

OPTIONS = ["--preset", "diagnet", "--no-report", "--seed", "5"]
for setting in (
    "roi.size=32", "neighbors.budget=2", "network.stem_widths=[4, 8]", "network.widths=[8, 16]", "network.n_middle=0",
    "network.n_hidden=16", "training.epochs=60", "training.batch_size=8", "training.checkpoint_minutes=0.0001",
    "training.weight_averaging=0.9",
):  # fmt: skip
    OPTIONS += ["--set", setting]


def train(manifest, out, *more):
    command = [sys.executable, "-m", "diagnet.cli", "train", str(manifest), "--out", str(out), *OPTIONS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finish(manifest, out, *more):
    with train(manifest, out, *more) as process:
        errors = process.stderr.read()
    return process.returncode, errors


@pytest.mark.timeout(2400)  # eleven trainings
def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(manifest, tmp_path):
    began = time.monotonic()
    with train(manifest, tmp_path / "whole") as process:
        for line in process.stderr:
            if line.startswith("train:"):
                break
        ready = time.monotonic() - began
        process.stderr.read()
    rng = np.random.default_rng()  # a new set of moments each time
    out, places = tmp_path / "killed", set()

    def checkpoints():
        return {path.name for path in (out / "checkpoints").glob("*.safetensors")}

    for kill in range(10):
        before = checkpoints()
        with train(manifest, out, *(["--resume"] if out.exists() else [])) as process:
            if kill % 2:  # half of them at any moment, half of them while it trains
                time.sleep(rng.uniform(0, ready))
            else:
                while checkpoints() <= before and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.2))
            process.kill()
        places |= checkpoints()
        if (out / "run.json").exists() and json.loads((out / "run.json").read_text())["status"] == "finished":
            pytest.fail("a killed run was finished before its ten kills: lengthen the training of this test")
    assert len(places) >= 5
    code, errors = finish(manifest, out, "--resume")
    assert code == 0, errors
    for name in ("model/fold-0.safetensors", "predictions.csv", "neighbors.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (name, sorted(places))


def test_a_resumed_run_with_other_settings_is_refused_and_told_which(manifest, tmp_path):
    with train(manifest, tmp_path / "run") as process:
        for line in process.stderr:
            if re.match(r"train: [1-9]", line):
                process.kill()
                break
    code, errors = finish(manifest, tmp_path / "run", "--resume", "--set", "training.epochs=7")
    assert code == 1
    assert errors.strip().endswith("got other settings: training.epochs 60, now 7")
    other = tmp_path / "other.csv"
    rows = manifest.read_text().splitlines()
    other.write_text("\n".join([rows[0], *(str(manifest.parent / row) for row in rows[1:50])]) + "\n")
    code, errors = finish(other, tmp_path / "run", "--resume")
    assert code == 1
    assert "got other data" in errors


def test_a_loss_without_bound_stops_with_epoch_masses_and_checkpoint(manifest, tmp_path):
    code, errors = finish(
        manifest, tmp_path / "run", "--set", "training.learning_rate=1e6", "--set", "training.schedule=constant"
    )
    assert code == 1
    last = errors.strip().splitlines()[-1]
    assert re.search(r"the loss must stay finite, got .* in epoch \d+, step \d+, in a batch of the masses \d+", last)
    assert "checkpoint" in last
    assert "Fix: a lower training.learning_rate" in last
