"""The paper's three steps in the space of EfficientNet-Lite0's frozen features, arm by arm, on crops and mammograms.

    python benchmarks/feature_space.py rois.csv mammograms.csv --out ROWS.csv  # taken up where it was; hours

A mass is a vector: 200 principal components of its frozen features, fitted on the training patients. Neighbors are
vectors too, found by `diagnet.neighbors` in that space; the graph joins its nearest vectors. A network of one residual
layer, which begins as a logistic regression, is trained by `diagnet.training.train` on both sources. All arms but `lr`
see as many vectors in as many steps. Masses are scored by the mean of their four flips, five folds by patient.

Rule, written before the first run: an arm helps if its AUC minus that of `plain` has a 95 % interval (patients drawn)
above 0 on the crops and on the mammograms. The arm with the greatest mean difference that helps is then tried in
training of the last blocks. If none helps, neighbors in feature space stay out of the product, and this is told.

- `lr`: the logistic regression alone. `lr+vote`: its log-odds and the vote of the 15 nearest, each over its spread.
- `plain`: cross-entropy on the originals.
- `noise`, `mixup`, `smote`, `seeds`, `common`, `search`: a quarter more vectors of each class. They are the originals
  with even noise, means of two originals of a class, points between near originals of a class, noisy seeds along the
  class's components (T = 1), the same along all masses' components, and what RACOS finds with T = 200.
- `negatives`: negative neighbors (T = 200), a quarter, without a class and in the graph alone (4 and 4 edges, 0.3).
- `graph-L`: no neighbors, 4 and 4 edges at lambda L. `graph-paper`: 1 and 4 edges at lambda 1.
- `search+graph`: `search`, with 4 and 4 edges at lambda 0.3.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from resampled import told, weights_of
from sklearn.linear_model import LogisticRegression
from torch import nn

from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings, flipped
from diagnet.data.sources import read_sources
from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.evaluation.delong import holm
from diagnet.graph import GraphSettings
from diagnet.memory import keep_freed_memory
from diagnet.neighbors import NeighborSettings, find_neighbors
from diagnet.network import Network, NetworkSettings, create_network
from diagnet.study.jobs import folds_of
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingSettings, start

N_COMPONENTS, N_FOLDS, EPOCHS, SHARE, N_NEAREST = 200, 5, 30, 0.25, 15
RANGE = 60.0  # values of a component on either side of its mean that [0, 1] stands for
FLIPS = ((False, False), (True, False), (False, True), (True, True))
FOUR = GraphSettings(n_attracting=4, n_repelling=4, skip_same_patient=True, skip_own_neighbors=True)
PAPER = GraphSettings(n_attracting=1, n_repelling=4, skip_same_patient=True, skip_own_neighbors=True)
GRAPHS = {
    "graph-0.1": (FOUR, 0.1),
    "graph-0.3": (FOUR, 0.3),
    "graph-1": (FOUR, 1.0),
    "graph-paper": (PAPER, 1.0),
    "search+graph": (FOUR, 0.3),
    "negatives": (FOUR, 0.3),
}
MADE = ("noise", "mixup", "smote", "seeds", "common", "search", "negatives", "search+graph")
ARMS = ("lr", "lr+vote", "plain", *MADE[:-2], *GRAPHS)


class ResidualHead(Network):
    """H is a vector and what a small layer adds to it; the classifier is linear in H."""

    def __init__(self, settings):
        super().__init__(settings)
        last = nn.Linear(128, N_COMPONENTS)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapter = nn.Sequential(nn.Linear(N_COMPONENTS, 128), nn.ReLU(), last)
        self.dropout, self.classifier = nn.Dropout(0.2), nn.Linear(N_COMPONENTS, 2)

    @property
    def embedding_size(self):
        """Length of a vector."""
        return N_COMPONENTS

    def _one_pass(self, images):
        vectors = (images.flatten(1) - 0.5) * 2 * RANGE
        embedded = vectors + self.adapter(vectors)
        return embedded, self.classifier(self.dropout(embedded))


def features_of(masses, keep=None, factor=1.6):
    """Frozen features of each mass and flip: (flip, mass, feature); read from the file `keep`, or written there."""
    if keep is not None and keep.exists():
        return np.load(keep, allow_pickle=False)
    torch.manual_seed(0)
    network = create_network("lite0").eval()
    regions = read_rois(masses, RoiSettings(size=128, padding_factor=factor))
    found = []
    with torch.inference_mode():
        for across, down in FLIPS:
            turned = torch.from_numpy(flipped(regions, across, down))[:, None]
            found.append(torch.cat([network.features(part) for part in turned.split(32)]).numpy())
    if keep is not None:
        np.save(keep, np.stack(found))
    return np.stack(found)


def components(features, own):
    """Principal components of all masses, fitted on the training masses' flips, in units of their mean spread."""
    rows = features[:, own].reshape(-1, features.shape[2]).astype(np.float64)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    axes = np.linalg.svd((rows - mean) / spread, full_matrices=False)[2][:N_COMPONENTS]
    return ((features - mean) / spread @ axes.T).astype(np.float32)


def made(arm, vectors, labels, rng):
    """Additional vectors in [0, 1], their parents and kinds."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if arm in ("noise", "mixup", "smote"):
        parents = np.concatenate([rng.choice(own, round(SHARE * len(own)), replace=False) for own in classes])
        found = vectors[parents].copy()
        if arm == "noise":  # as far as seeds are from their parents
            seeds, of, _ = made("seeds", vectors, labels, np.random.default_rng(0))
            away = np.median(np.linalg.norm(seeds - vectors[of], axis=1))
            found += away / np.sqrt(N_COMPONENTS) * rng.standard_normal(found.shape).astype(np.float32)
        for row, parent in enumerate(parents):
            own = classes[labels[parent]]
            if arm == "smote":
                own = own[np.argsort(np.linalg.norm(vectors[own] - vectors[parent], axis=1))[1:6]]
            if arm != "noise":
                found[row] += rng.uniform() * (vectors[rng.choice(own)] - vectors[parent])
        return np.clip(found, 0, 1), parents, np.ones(len(parents), np.int8)
    classes_of_search = np.zeros_like(labels) if arm == "common" else labels
    budget, sign = 1 if arm in ("seeds", "common") else 200, "negative" if arm == "negatives" else "positive"
    return searched(vectors, classes_of_search, budget, sign, rng=rng)


def searched(vectors, labels, budget, sign="positive", *, rng):
    """Neighbors of vectors in [0, 1] by the product's own search, their parents and kinds."""
    shares = {"positive_ratio": 0.0, "negative_ratio": 0.0, f"{sign}_ratio": SHARE}
    settings = NeighborSettings(smallest_closest_pair=1e-6, budget=budget, **shares)
    found = find_neighbors(vectors[:, None], labels, settings, rng=rng, workers=1)
    return found.images[:, 0], found.parents, found.kinds


def scores_of(arm, vectors, labels, patients, own, seed, cache):
    """Log-odds of all masses by an arm that was trained on some of them."""
    flat = vectors[:, own].reshape(-1, N_COMPONENTS)
    model = LogisticRegression(C=1 / 4000, max_iter=1000).fit(flat, np.tile(labels[own], len(FLIPS)))
    linear = np.mean([model.decision_function(each) for each in vectors], axis=0)
    if arm == "lr":
        return linear
    if arm == "lr+vote":
        units = vectors[0] / np.linalg.norm(vectors[0], axis=1, keepdims=True)
        near = units @ units[own].T
        near[patients[:, None] == patients[own]] = -np.inf
        vote = labels[own][np.argsort(-near, axis=1)[:, :N_NEAREST]].mean(axis=1)
        return linear / linear[own].std() + vote / vote[own].std()
    scaled = np.clip(vectors / (2 * RANGE) + 0.5, 0, 1).astype(np.float32)
    kind = "search" if arm == "search+graph" else arm
    if kind in MADE and kind not in cache:
        cache[kind] = made(kind, scaled[0, own], labels[own], np.random.default_rng([seed, 1]))
    more, parents, kinds = cache[kind] if kind in MADE else (scaled[0, :0], own[:0], np.zeros(0, np.int8))
    graph, weight = GRAPHS.get(arm, (FOUR, 0.0))
    points = Points(
        np.concatenate([scaled[0, own], more])[:, None],
        np.concatenate([labels[own], labels[own][parents]]),
        np.concatenate([np.zeros(len(own), np.int8), kinds]),
        np.concatenate([patients[own], patients[own][parents]]),
    )
    settings = TrainingSettings(
        epochs=max(1, round(EPOCHS * len(own) / len(points))), graph_weight=weight, weight_decay=0.01,
        flips="none", rotation=0.0, zoom=0.0, precision="float32",
    )  # fmt: skip
    state = start(points, NetworkSettings(), graph, settings, seed=seed, make_network=ResidualHead)
    with torch.no_grad():
        half = torch.from_numpy(model.coef_[0]).float() / 2
        state.network.classifier.weight.copy_(torch.stack([-half, half]))
        state.network.classifier.bias.copy_(torch.tensor([-0.5, 0.5]) * float(model.intercept_[0]))
    train(state, points, graph, settings, seed=seed)
    logits = np.mean([embeddings_and_logits(state.network, each[:, None])[1] for each in scaled], axis=0)
    return logits[:, 1] - logits[:, 0]


def jobs_done(path):
    """Arm, fold and seed of the rows there are."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(row["arm"], int(row["fold"]), int(row["seed"])) for row in csv.DictReader(file)}


def add_rows(path, arm, fold, seed, masses, scores, **more):
    """Write the scores of masses behind the rows there are, and say so; `more` are columns with one value for all."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(("arm", "fold", "seed", "mass", "score", *more))
        for mass, score in zip(masses, scores, strict=True):
            writer.writerow((arm, fold, seed, mass, f"{score:.5f}", *more.values()))
    print(seed, fold, arm, *more.values(), flush=True)


def run(asked):
    """Add the rows that are not there yet: arm, fold, seed, mass, score."""
    done = jobs_done(asked.out)
    mass_set = read_sources(asked.data, ("benign", "malignant"), RoiSettings())
    labels, patients = mass_set.labels, mass_set.patient_numbers
    features = features_of(mass_set.masses, asked.features)
    for seed in range(asked.seeds):
        for fold, test in enumerate(folds_of(mass_set, N_FOLDS)):
            own = np.setdiff1d(np.arange(len(labels)), test)
            vectors, cache = components(features, own), {}
            for arm in ARMS:
                if (arm, fold, seed) in done:
                    continue
                scores = scores_of(arm, vectors, labels, patients, own, seed, cache)
                add_rows(asked.out, arm, fold, seed, test, scores[test])


def areas_of(data, rows_file):
    """AUC of each source and arm, by seed and fold: of the rows first, then of each resample of patients.

    Args:
        data: manifests.
        rows_file: with a row for each arm, fold, seed and mass.
    """
    mass_set = read_sources(data, ("benign", "malignant"), RoiSettings())
    labels, patients = mass_set.labels == 1, mass_set.patient_numbers
    sources = np.array([mass.source for mass in mass_set.masses])
    weights = weights_of(patients)
    jobs = {}
    with rows_file.open(newline="") as file:
        for row in csv.DictReader(file):
            job = jobs.setdefault((row["arm"], row["seed"], row["fold"]), [])
            job.append((int(row["mass"]), float(row["score"])))
    areas = {}
    for (arm, *place), scored in jobs.items():
        index, scores = np.array([mass for mass, _ in scored]), np.array([score for _, score in scored])
        for source in np.unique(sources):
            here = sources[index] == source
            own = index[here]
            area = weighted_auc(scores[here], labels[own], weights[:, own].astype(np.float64))
            areas.setdefault((str(source), arm), {})[tuple(place)] = area
    return areas


def compared(areas, rival_of):
    """AUC of each arm on each source, and its difference to its rival with p before and after Holm's correction.

    Args:
        areas: from `areas_of`.
        rival_of: name of an arm -> name of its rival.
    """
    found = {}
    for (source, arm), own in areas.items():
        rival = areas.get((source, rival_of(arm)), {}) if rival_of(arm) != arm else {}
        shared = sorted(own.keys() & rival.keys())
        row = {"auc": told(np.nanmean(list(own.values()), axis=0)), "trainings": len(own)}
        if shared:  # of the same folds and seeds
            minus = np.nanmean([own[place] - rival[place] for place in shared], axis=0)
            below = float(np.mean(minus[1:] <= 0))
            row |= {"rival": rival_of(arm), "minus_rival": told(minus), "p": min(1.0, 2 * min(below, 1 - below))}
        found[f"{arm} on {source}"] = row
    for source in sorted({source for source, _ in areas}):  # all arms that are compared on a source are one family
        rows = [row for name, row in found.items() if name.endswith(f" on {source}") and "p" in row]
        for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = p if p is None else round(p, 4)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs=2, help="manifests of crops and of mammograms")
    parser.add_argument("--out", type=Path, required=True, help="rows, a .csv file")
    parser.add_argument("--features", type=Path, help="keep the features in this .npy file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the table of the rows there are")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if not asked.table:
        run(asked)
    print(json.dumps(compared(areas_of(asked.data, asked.out), lambda _: "plain"), indent=1))


if __name__ == "__main__":
    main()
