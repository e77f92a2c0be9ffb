"""Speed of training, scoring and the graph; and what each way of batching costs in AUC.

    python benchmarks/training.py --json                  # on an idle machine; what was skipped is said
    python benchmarks/training.py --json --only step,graph_overhead
    python benchmarks/training.py --json --quick          # fewer repetitions: for a look, not for the record
    python benchmarks/training.py --auc --shard 0/2 & python benchmarks/training.py --auc --shard 1/2; wait
    python benchmarks/training.py --auc --json            # batching_auc, from the rows of all shards

Every comparison is a ratio of medians measured in one run, in turns. Real masses come from --data (rois.csv); where it
is missing, what needs them is skipped and said so.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from diagnet.batches import Neighborhoods, epoch_batches
from diagnet.config import Config
from diagnet.data.manifest import read_manifest
from diagnet.data.regions import read_rois
from diagnet.data.splits import make_folds
from diagnet.evaluation.bootstrap import draw_patients, weighted_auc
from diagnet.network import NetworkSettings, create_network
from diagnet.run.folder import write_table
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import start

HERE = Path(__file__).resolve().parents[1]
BATCHINGS = ("bank", "packed", "exact")
FOLDS, SEEDS = 3, 2


def noise_points(n, size):
    """Points whose pictures say nothing: for timing only."""
    rng = np.random.default_rng(0)
    images = rng.random((n, size, size), dtype=np.float32)
    return Points(images, rng.integers(0, 2, n), np.zeros(n, np.int8), np.arange(n))


def seconds(job):
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def in_turns(jobs, n_turns):
    """Seconds of each job in each turn, after one turn that is not counted."""
    for job in jobs.values():
        job()
    times = {name: [] for name in jobs}
    for _ in range(n_turns):
        for name, job in jobs.items():
            times[name].append(seconds(job))
    return {name: statistics.median(each) for name, each in times.items()}


def plain_step(config, batch, size):
    """One step as anybody would write it: eager, float32, the same network."""
    network = create_network(config.network).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images, labels = torch.rand(batch, 1, size, size), torch.arange(batch) % 2

    def step():
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(config, batch, size):
    """One step of `train`, without a graph: one epoch over as many points as a batch has."""
    settings = config.training.model_copy(update={"epochs": 10**6, "batch_size": batch, "graph_weight": 0.0})
    points = noise_points(batch, size)
    state = start(points, config.network, config.graph, settings, seed=0)
    state.epoch = 10

    def step():
        # One more epoch of one step; the schedule's length is that of the whole training.
        train(state, points, config.graph, settings.model_copy(update={"epochs": state.epoch + 1}), seed=0)

    return step


def step_figures(quick):
    """Our training step against a plain one, and against this machine's bfloat16 matrix product."""
    figures = {}
    a, b = (torch.rand(4096, 4096, dtype=torch.bfloat16) for _ in range(2))
    for preset, batch, size in (("paper", 4, 224), ("small", 32, 64)):
        config = Config.from_preset(preset)
        jobs = {
            "plain": plain_step(config, batch, size),
            "ours": our_step(config, batch, size),
            "product": lambda: a @ b,
        }
        times = in_turns(jobs, 2 if quick else 7)
        figures[f"{preset}_step_speedup"] = times["plain"] / times["ours"]
        figures[f"{preset}_step_ms_per_image"] = 1000 * times["ours"] / batch
        network = create_network(config.network)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.rand(1, 1, size, size))
        # Forward, and two products of the same size backwards (PyTorch's counter takes grouped ones for whole ones).
        achieved = 3 * batch * counter.get_total_flops() / times["ours"]
        figures[f"{preset}_step_of_ceiling"] = achieved / (2 * 4096**3 / times["product"])
        figures["bf16_product_gflops"] = 2 * 4096**3 / times["product"] / 1e9
    return figures


def format_figures(quick):
    """The measured defaults of precision and memory format: ms per image of each, presets small and lite0."""
    figures = {}
    for preset, size in (("small", 64), ("lite0", 128)):
        config, jobs = Config.from_preset(preset), {}
        for precision in ("float32", "bfloat16"):
            for memory_format in ("contiguous", "channels_last"):
                changed = config.training.model_copy(update={"precision": precision, "memory_format": memory_format})
                step = our_step(config.model_copy(update={"training": changed}), 32, size)
                jobs[f"{precision} {memory_format}"] = step
        times = in_turns(jobs, 2 if quick else 7)
        figures[f"{preset}_step_ms_by_format"] = {name: 1000 * taken / 32 for name, taken in times.items()}
    return figures


def overhead_figures(quick):
    """An epoch with lambda = 1 over one with lambda = 0, same images seen, each batching; graph rebuilding included."""
    figures = {}
    config = Config.from_preset("diagnet")
    points = noise_points(320 if quick else 640, 64)
    for batching in BATCHINGS:
        runs = {}
        for weight in (0.0, 1.0):
            settings = config.training.model_copy(
                update={"graph_weight": weight, "batching": batching, "epochs": 10**6, "batch_size": 64}
            )
            graph = config.graph.model_copy(update={"refresh_epochs": 5})
            state = start(points, config.network, graph, settings, seed=0)
            runs[weight] = (state, settings, graph)

        def five_epochs(weight, runs=runs):
            state, settings, graph = runs[weight]
            until = settings.model_copy(update={"epochs": state.epoch + (2 if quick else 5)})
            train(state, points, graph, until, seed=0)

        times = in_turns({w: lambda w=w, go=five_epochs: go(w) for w in runs}, 1 if quick else 3)
        figures[f"graph_overhead_{batching}"] = times[1.0] / times[0.0]
    figures["graph_overhead"] = figures["graph_overhead_bank"]  # the default's
    return figures


def paper_figures(data, quick):
    """Preset `paper` for real: an epoch over real masses, with neighbors, graph and all."""
    masses = read_manifest(data)
    config = Config.from_preset("paper")
    n = 8 if quick else 32
    index = np.concatenate([np.flatnonzero(masses.labels == label)[: n // 2] for label in (0, 1)])
    images = read_rois([masses.masses[i] for i in index], config.roi)
    points = Points(images, masses.labels[index], np.zeros(n, np.int8), np.arange(n))
    settings = config.training.model_copy(update={"epochs": 1})
    state = start(points, config.network, config.graph, settings, seed=0)
    neighborhoods = Neighborhoods(state.graph)
    passed = sum(
        len(neighborhoods.outgoing(batch).points)
        for batch in epoch_batches(n, settings.batch_size, np.random.default_rng([0, 1]))
    )
    took = seconds(lambda: train(state, points, config.graph, settings, seed=0))
    # The paper's training set: 86 masses, their four flips, 40 % neighbors; passes per point as measured here.
    per_epoch = took / n * 86 * 4 * 1.4
    return {
        "paper_epoch_s": took,
        "paper_epoch_masses": n,
        "paper_epoch_passes": passed,
        "paper_epoch_s_per_pass": took / passed,
        "paper_training_hours_estimated": per_epoch * Config.from_preset("paper").training.epochs / 3600,
    }


def memory_figures(quick):
    """Peak memory of training on a mapped file, ten times the data over once the data, the same number of steps.

    glibc raises the size from which it takes memory from the system, and gives it back, as a program runs; where it
    ends is luck, and is worth half a gigabyte here. With a fixed size the peak is the program's own.
    """
    sizes = (1_000, 10_000) if quick else (10_000, 100_000)
    command = [sys.executable, __file__, "--memory-steps", str(2 * sizes[1] // 256), "--memory-of"]
    fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    peaks = [float(subprocess.check_output([*command, str(n)], env=fixed)) for n in sizes]
    return {"memory_growth": peaks[1] / peaks[0], "memory_gb": dict(zip(map(str, sizes), peaks, strict=True))}


def measured_memory(n, n_steps):
    """Train on a mapped file of n regions; the peak of resident memory, GB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rois.npy"
        rng = np.random.default_rng(0)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, 64, 64))
        for left in range(0, n, 1000):
            table[left : left + 1000] = rng.random((min(1000, n - left), 64, 64), dtype=np.float32)
            table.flush()
        del table
        images = np.load(path, mmap_mode="r")
        points = Points(
            images, rng.integers(0, 2, n), np.zeros(n, np.int8), np.arange(n), rows=np.arange(n), neighbors=images[:0]
        )
        config = Config.from_preset("diagnet")
        network = NetworkSettings(stem_widths=(4, 8), widths=(8, 16, 32), n_middle=0, n_hidden=32)
        settings = config.training.model_copy(update={"epochs": round(n_steps * 256 / n), "batch_size": 256})
        if hasattr(os, "posix_fadvise"):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
        state = start(points, network, config.graph, settings, seed=0)
        train(state, points, config.graph, settings, seed=0)
        embeddings_and_logits(state.network, images, rows=np.arange(n))
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def auc_job(masses, images, fold, seed, epochs, out):
    """AUC of one fold's test masses at lambda = 0, for each way of batching (packed is shuffled by the graph)."""
    split = folds_of(masses)[fold]
    own = np.sort(np.concatenate([split.train, split.validation]))
    patients = masses.patient_numbers
    points = Points(images[own], masses.labels[own], np.zeros(len(own), np.int8), patients[own])
    scores = {}
    for batching in ("bank", "packed"):  # at lambda = 0, exact is bank: shuffled batches and no graph
        config = Config.from_preset("small", {"training": {"batching": batching, "epochs": epochs}})
        state = start(points, config.network, config.graph, config.training, seed=seed)
        train(state, points, config.graph, config.training, seed=seed)
        logits = embeddings_and_logits(state.network, images, rows=split.test)[1]
        scores[batching] = logits[:, 1] - logits[:, 0]
    rows = zip(split.test.tolist(), *([f"{s:.5f}" for s in each] for each in scores.values()), strict=True)
    write_table(out / f"fold{fold}-seed{seed}.csv", ("index", *scores), rows)


def folds_of(masses):
    return make_folds(masses.patients, masses.image_names, masses.labels, FOLDS, rng=np.random.default_rng(0))


def auc_figures(masses, out):
    """Mean AUC over the jobs that are there, and packed minus shuffled with a patient-bootstrap interval."""
    patients = masses.patient_numbers
    draws = draw_patients(patients.max() + 1, 2000, rng=np.random.default_rng(0))
    weights = np.concatenate([np.ones((1, len(patients))), draws[:, patients]]).astype(np.float64)
    areas = {"bank": [], "packed": []}
    for path in sorted(out.glob("fold*-seed*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        index = np.array([int(row["index"]) for row in rows])
        for batching, each in areas.items():
            scores = np.array([float(row[batching]) for row in rows])
            each.append(weighted_auc(scores, masses.labels[index] == 1, weights[:, index]))
    if not areas["bank"]:
        return {"batching_auc": {"jobs": 0, "of": FOLDS * SEEDS}}
    means = {batching: np.nanmean(each, axis=0) for batching, each in areas.items()}
    means["packed_minus_shuffled"] = means["packed"] - means["bank"]
    told = {}
    for name, area in means.items():
        low, high = np.quantile(area[1:], [0.025, 0.975])
        told[name] = {"value": round(float(area[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return {"batching_auc": {"jobs": len(areas["bank"]), "of": FOLDS * SEEDS, **told}}


def graph_figures(quick):
    import graph

    return graph.figures(quick)


def inference_figures(quick):
    import inference

    return inference.figures(quick)


SECTIONS = {
    "step": step_figures,
    "format": format_figures,
    "graph_overhead": overhead_figures,
    "memory": memory_figures,
    "graph_100k": graph_figures,
    "inference": inference_figures,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared/data/cbis-ddsm/rois.csv")
    parser.add_argument("--only", default=",".join([*SECTIONS, "paper"]), help="comma-separated sections")
    parser.add_argument("--auc", action="store_true", help="batching_auc instead of speed")
    parser.add_argument("--shard", default="", help="with --auc, i/n: run every n-th job from the i-th")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=HERE / "evidence" / "batching_auc")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-steps", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(measured_memory(arguments.memory_of, arguments.memory_steps))
        return
    has_data = arguments.data.exists()
    if not has_data:
        print(f"skipped: the real masses are not there ({arguments.data})", file=sys.stderr)
    figures = {}
    if arguments.auc and has_data:
        masses = read_manifest(arguments.data)
        if arguments.shard:
            torch.set_num_threads(1)
            first, step = map(int, arguments.shard.split("/"))
            images = read_rois(masses.masses, Config().roi)
            for fold, seed in [(fold, seed) for seed in range(SEEDS) for fold in range(FOLDS)][first::step]:
                if not (arguments.out / f"fold{fold}-seed{seed}.csv").exists():
                    auc_job(masses, images, fold, seed, arguments.epochs, arguments.out)
        figures = auc_figures(masses, arguments.out)
    elif not arguments.auc:
        wanted = arguments.only.split(",")
        for name, section in SECTIONS.items():
            if name in wanted:
                print(f"{name} ...", file=sys.stderr, flush=True)
                try:
                    figures |= section(arguments.quick)
                except ImportError as error:
                    print(f"skipped {name}: {error}. Fix: pip install {error.name}", file=sys.stderr)
        if "paper" in wanted and has_data:
            figures |= paper_figures(arguments.data, arguments.quick)
    print(json.dumps(figures) if arguments.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
