"""What merging networks costs: two at a time, on masses that neither has learned from.

    python benchmarks/merged.py RUN rois.csv mammograms.csv --json    # what RUN was trained on, in its order

The networks of a run of several folds are merged two at a time, as `diagnet pack` merges all. Each pair is tried on the
masses that were in the validation or test part of both. The AUC of each source is the mean over pairs, with an interval
that draws patients: of one network, of the mean of two networks' log-odds, and of the merged network.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from resampled import told, weights_of

from diagnet.data.regions import read_rois
from diagnet.data.sources import read_sources
from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.inference.model import load_model
from diagnet.inference.packing import mean_network
from diagnet.memory import keep_freed_memory
from diagnet.run.tables import read_split
from diagnet.training.scoring import embeddings_and_logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    keep_freed_memory()
    model = load_model(asked.run, engine="torch")
    mass_set = read_sources(asked.data, model.classes, model.roi)
    images = read_rois(mass_set.masses, model.roi)
    malignant, sources = mass_set.labels == 1, np.array([mass.source for mass in mass_set.masses])
    weights = weights_of(mass_set.patient_numbers)
    unseen = [set() for _ in model.networks]
    for placed in read_split(asked.run):
        if placed.part != "train":
            unseen[placed.fold].add(placed.index)

    def log_odds(network, rows):
        logits = embeddings_and_logits(network, images, rows=rows)[1].astype(np.float64)
        return logits[:, 1] - logits[:, 0]

    areas = {}
    for a, b in combinations(range(len(model.networks)), 2):
        rows = np.array(sorted(unseen[a] & unseen[b]))
        with torch.no_grad():
            pair = mean_network([model.networks[a], model.networks[b]])
        first, second = log_odds(model.networks[a], rows), log_odds(model.networks[b], rows)
        scores = {"one": first, "mean": (first + second) / 2, "merged": log_odds(pair, rows)}
        for source in sorted(set(sources)):
            here = sources[rows] == source
            if len(set(malignant[rows[here]])) == 2:
                of = weights[:, rows[here]]
                for name, each in scores.items():
                    areas.setdefault((source, name), []).append(weighted_auc(each[here], malignant[rows[here]], of))
    found = {}
    for source in sorted(set(sources)):
        means = {name: np.nanmean(areas[source, name], axis=0) for name in ("one", "mean", "merged")}
        found[source] = {name: told(each) for name, each in means.items()}
        found[source] |= {f"merged_minus_{name}": told(means["merged"] - means[name]) for name in ("one", "mean")}
        found[source]["pairs"] = len(areas[source, "one"])
    print(json.dumps(found, indent=None if asked.json else 1))


if __name__ == "__main__":
    main()
