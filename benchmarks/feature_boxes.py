"""Is the mean score of two boxes better than that of one, at the same work? Frozen features of crops and mammograms.

    python benchmarks/feature_boxes.py rois.csv mammograms.csv --out ROWS.csv --features FOLDER  # 20 minutes

The model is a logistic regression on 200 principal components of EfficientNet-Lite0's frozen features. It is trained on
both sources and four flips, with boxes x 1.6, or with x 1.1, 1.6 and 2.2 (`trained-on-3`). There are five folds by
patient, for each of three partitions.

- `one`: the mean of four flips at x 1.6, as the shipped model does it.
- `two`: two flips at x 1.6 and the other two at x 1.1, so four passes as well.
- `three`: four flips at each of x 1.1, 1.6 and 2.2, so twelve passes.
- `tight`: four flips at x 1.1.

The script was written after the first partition had been looked at. No default may change by it alone.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from feature_space import FLIPS, N_COMPONENTS, add_rows, areas_of, compared, features_of, jobs_done
from sklearn.linear_model import LogisticRegression

from diagnet.data.roi import RoiSettings
from diagnet.data.sources import read_sources
from diagnet.data.splits import make_folds
from diagnet.memory import keep_freed_memory

FACTORS, N_FOLDS, N_PARTITIONS, RIDGE = (1.1, 1.6, 2.2), 5, 3, 1000.0


def fit(rows, labels, n_views):
    """A function from features to log-odds."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    axes = np.linalg.svd((rows - mean) / spread, full_matrices=False)[2][:N_COMPONENTS].T
    model = LogisticRegression(C=1 / (RIDGE * n_views), solver="newton-cholesky")
    model.fit((rows - mean) / spread @ axes, labels)
    weight = axes @ model.coef_[0] / spread
    return lambda features: (features - mean) @ weight + model.intercept_[0]


def arms_of(features, labels, own, test):
    """Name of an arm, and its scores of the test masses."""
    for suffix, factors in (("", (1.6,)), (", trained-on-3", FACTORS)):
        rows = np.concatenate([features[factor][:, own].reshape(-1, features[factor].shape[2]) for factor in factors])
        n_views = len(FLIPS) * len(factors)
        score = fit(rows.astype(np.float64), np.tile(labels[own], n_views), n_views)
        found = {factor: score(features[factor][:, test]) for factor in FACTORS}
        yield f"one{suffix}", found[1.6].mean(axis=0)
        yield f"two{suffix}", (found[1.6][[0, 3]] + found[1.1][[1, 2]]).mean(axis=0) / 2
        yield f"three{suffix}", sum(found.values()).mean(axis=0) / 3
        yield f"tight{suffix}", found[1.1].mean(axis=0)


def run(asked):
    """Add the rows that are not there yet: arm, fold, partition, mass, score."""
    mass_set = read_sources(asked.data, ("benign", "malignant"), RoiSettings())
    labels = mass_set.labels
    asked.features.mkdir(parents=True, exist_ok=True)
    features = {factor: features_of(mass_set.masses, asked.features / f"x{factor:g}.npy", factor) for factor in FACTORS}
    done = jobs_done(asked.out)
    for seed in range(N_PARTITIONS):
        rng = np.random.default_rng(seed)
        folds = make_folds(mass_set.patients, mass_set.image_names, labels, N_FOLDS, rng=rng)
        for fold, split in enumerate(folds):
            own = np.setdiff1d(np.arange(len(labels)), split.test)
            for arm, scores in arms_of(features, labels, own, split.test):
                if (arm, fold, seed) not in done:
                    add_rows(asked.out, arm, fold, seed, split.test, scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs=2, help="manifests of crops and of mammograms")
    parser.add_argument("--out", type=Path, required=True, help="rows, a .csv file")
    parser.add_argument("--features", type=Path, required=True, help="folder that keeps the features")
    asked = parser.parse_args()
    keep_freed_memory()
    run(asked)
    print(
        json.dumps(
            compared(areas_of(asked.data, asked.out), lambda arm: arm.replace(arm.split(",")[0], "one")), indent=1
        )
    )


if __name__ == "__main__":
    main()
