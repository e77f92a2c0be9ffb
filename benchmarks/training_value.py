"""What adversarial neighbors are worth in training: AUC of the preset `small` with and without them, paired.

Each job is one patient fold and one seed: the neighbors are searched once on its training masses, then one network is
trained for each arm, on the same masses with the same seed. Jobs are files in a plain folder, so any number of
processes may take shards, and a killed one goes on where it was.

    python benchmarks/training_value.py --shard 0/2 & python benchmarks/training_value.py --shard 1/2; wait
    python benchmarks/training_value.py --json
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from diagnet.augmentation import augment
from diagnet.bootstrap import draw_patients, weighted_auc
from diagnet.config import Config
from diagnet.data.manifest import read_manifest
from diagnet.data.roi import read_rois
from diagnet.data.splits import make_folds
from diagnet.points import Points
from diagnet.run_folder import write_table
from diagnet.scoring import embeddings_and_logits
from diagnet.training import train
from diagnet.training_state import start

HERE = Path(__file__).resolve().parents[1]
FOLDS, SEEDS = 5, 3
# Kinds of points each arm trains on.
ARMS = {"without": (0,), "positives": (0, 1), "negatives": (0, -1), "both": (0, 1, -1)}


def run_job(masses, images, fold, seed, epochs):
    """Score one fold's test masses with a network of each arm; the training part is all other patients."""
    config = Config.from_preset("small", {"seed": seed, "training": {"epochs": epochs}})
    split = folds_of(masses)[fold]
    own = np.sort(np.concatenate([split.train, split.validation]))
    patients = np.unique(masses.patients, return_inverse=True)[1].astype(np.int64)
    points, _, _ = augment(
        config, images, own, masses.labels[own], patients[own], rng=np.random.default_rng([seed, fold]), workers=1
    )
    scores = {}
    for arm, kinds in ARMS.items():
        began = time.perf_counter()
        kept = np.isin(points.kinds, kinds)
        labels, kinds_kept, relatives = points.labels[kept], points.kinds[kept], points.relatives[kept]
        part = Points(points.take(np.flatnonzero(kept)), labels, kinds_kept, relatives)
        state = start(part, config.network, config.graph, config.training, seed=seed)
        train(state, part, config.graph, config.training, seed=seed)
        logits = embeddings_and_logits(state.network, images[split.test])[1]
        scores[arm] = logits[:, 1] - logits[:, 0]
        took = time.perf_counter() - began
        print(f"fold {fold} seed {seed} {arm}: {took:.0f} s", file=sys.stderr, flush=True)
    return split.test, scores


def folds_of(masses):
    """The same patient folds for every seed."""
    return make_folds(masses.patients, masses.image_names, masses.labels, FOLDS, rng=np.random.default_rng(0))


def summarize(masses, out):
    """AUC of each arm over all test masses of a seed, averaged over seeds; paired differences by patient bootstrap."""
    scores = {arm: np.full((SEEDS, len(masses.labels)), np.nan) for arm in ARMS}
    jobs = 0
    for path in sorted(out.glob("fold*-seed*.csv")):
        jobs += 1
        seed = int(path.stem.split("seed")[1])
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for arm in ARMS:
                    scores[arm][seed, int(row["index"])] = float(row[arm])
    patients = np.unique(masses.patients, return_inverse=True)[1]
    draws = draw_patients(patients.max() + 1, 2000, rng=np.random.default_rng(0))
    weights = np.concatenate([np.ones((1, len(patients))), draws[:, patients]])
    areas = {}
    for arm, table in scores.items():
        per_fold = []  # within a fold: scores of different networks are not on one scale
        for fold in folds_of(masses):
            for row in table[:, fold.test]:
                if not np.isnan(row).any():
                    targets = masses.labels[fold.test] == 1
                    per_fold.append(weighted_auc(row, targets, weights[:, fold.test].astype(np.float64)))
        areas[arm] = np.nanmean(per_fold, axis=0) if per_fold else np.full(2001, np.nan)

    def told(area):
        low, high = np.quantile(area[1:], [0.025, 0.975])
        return {"value": round(float(area[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}

    if not jobs:
        return {"jobs": 0, "of": FOLDS * SEEDS}
    return {
        "jobs": jobs,
        "of": FOLDS * SEEDS,
        "auc": {arm: told(area) for arm, area in areas.items()},
        "minus_without": {arm: told(areas[arm] - areas["without"]) for arm in ARMS if arm != "without"},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared/data/cbis-ddsm/rois.csv")
    parser.add_argument("--out", type=Path, default=HERE / "evidence" / "training_value")
    parser.add_argument("--shard", default="", help="i/n: run every n-th job from the i-th; without it only summarize")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no job after this time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(f"skipped: the real masses are not there ({arguments.data})")
        return
    masses = read_manifest(arguments.data)
    if arguments.shard:
        torch.set_num_threads(1)
        first, step = map(int, arguments.shard.split("/"))
        images = read_rois(masses.masses, Config().roi)
        began = time.monotonic()
        jobs = [(fold, seed) for seed in range(SEEDS) for fold in range(FOLDS)][first::step]
        for fold, seed in jobs:
            path = arguments.out / f"fold{fold}-seed{seed}.csv"
            if path.exists() or time.monotonic() - began > arguments.minutes * 60:
                continue
            index, scores = run_job(masses, images, fold, seed, arguments.epochs)
            rows = zip(index.tolist(), *([f"{s:.5f}" for s in scores[arm]] for arm in ARMS), strict=True)
            write_table(path, ("index", *ARMS), rows)
    summary = summarize(masses, arguments.out)
    print(json.dumps(summary) if arguments.json else json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
