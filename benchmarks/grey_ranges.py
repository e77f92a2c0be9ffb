"""What a region's grey values are scaled by, and its shape: frozen features and a logistic regression, out of fold.

    python benchmarks/grey_ranges.py rois.csv mammograms.csv --json  # 12 minutes on a quiet core

One training on both sources a fold, five folds by patient, EfficientNet-Lite0 at 128 x 128, boxes x 1.6, mean of two
flips. Each way is compared with `region` (own minimum and maximum; labels and clips do not count) on each source:
difference of the means of the folds' AUC, with a 95 % interval over patients. The default would change for a way whose
interval is above 0 on both sources.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.data.sources import read_sources
from diagnet.evaluation.bootstrap import draw_patients, weighted_auc
from diagnet.memory import keep_freed_memory
from diagnet.network import NetworkSettings, create_network
from diagnet.study.jobs import folds_of

SIZE, N_FOLDS, N_RESAMPLES, PENALTY, AIR = 128, 5, 2000, 2000, 0.02


def ways(masses):
    """Name and regions of each way; those of an image's range are scaled again."""
    yield "region", read_rois(masses, RoiSettings(size=SIZE))
    image = read_rois(masses, RoiSettings(size=SIZE, grey_range="image"))
    yield "image", image
    inside = [each[each > AIR] if (each > AIR).sum() > 50 else each.ravel() for each in image]
    for suffix, values in (("", [each.ravel() for each in image]), ("-no-air", inside)):
        for share in (0.0, 0.002, 0.01) if suffix else (0.002, 0.01):
            yield (
                f"percentiles-{100 * share:g}{suffix}",
                scaled(image, *np.transpose([np.quantile(v, [share, 1 - share]) for v in values])),
            )
        middle, spread = (np.array([measure(v) for v in values]) for measure in (np.mean, np.std))
        for width in (2, 3):
            yield f"mean-spread-{width}{suffix}", scaled(image, middle - width * spread, middle + width * spread)
    yield "local-contrast", np.stack([local(each) for each in read_rois(masses, RoiSettings(size=SIZE))])
    yield "square", read_rois(masses, RoiSettings(size=SIZE, square=True))


def scaled(images, low, high):
    low, span = low[:, None, None], np.maximum(high - low, 1e-6)[:, None, None]
    return np.clip((images - low) / span, 0, 1).astype(np.float32)


def local(image, sigma=16):
    flat = image - ndimage.gaussian_filter(image, sigma)
    sharp = (flat - flat.mean()) / (np.sqrt(ndimage.gaussian_filter(flat**2, sigma)) + 0.01)
    return np.clip(sharp / 6 + 0.5, 0, 1).astype(np.float32)


def scores(network, images, labels, folds):
    """Log-odds of each mass by the regression that never saw its patient."""
    views = []
    with torch.inference_mode():
        for view in (images, np.ascontiguousarray(images[:, :, ::-1])):
            parts = [network.features(torch.from_numpy(view[k : k + 32])[:, None]) for k in range(0, len(view), 32)]
            views.append(torch.cat(parts).double().numpy())
    found = np.zeros(len(labels))
    for test in folds:
        train = np.setdiff1d(np.arange(len(labels)), test)
        rows = np.concatenate([view[train] for view in views])
        middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        model = LogisticRegression(C=1 / PENALTY, max_iter=1000)
        model.fit((rows - middle) / spread, np.tile(labels[train], 2))
        found[test] = sum(model.decision_function((view[test] - middle) / spread) for view in views) / 2
    return found


def areas(found, labels, patients, sources, folds, weights):
    """Mean AUC of the folds by source: first of all patients, then of each draw of them."""
    told = {}
    for source in np.unique(sources):
        parts = [test[sources[test] == source] for test in folds]
        each = [weighted_auc(found[part], labels[part], weights[:, patients[part]]) for part in parts]
        told[str(source)] = np.mean(each, axis=0)
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs=2, help="manifests of crops and of mammograms")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    mass_set = read_sources(asked.data, ("benign", "malignant"), RoiSettings())
    labels, patients = mass_set.labels == 1, mass_set.patient_numbers
    sources = np.array([mass.source for mass in mass_set.masses])
    counts = draw_patients(int(patients.max()) + 1, N_RESAMPLES, rng=np.random.default_rng(0))
    weights = np.concatenate([np.ones((1, counts.shape[1])), counts]).astype(np.float64)
    folds = folds_of(mass_set, N_FOLDS)
    torch.manual_seed(0)
    network = create_network(NetworkSettings(preset="lite0", trainable="none")).eval()
    table, first = [], None
    for name, images in ways(mass_set.masses):
        own = areas(scores(network, images, labels, folds), labels, patients, sources, folds, weights)
        first = first or own
        row = {"way": name}
        for source, drawn in own.items():
            low, high = np.nanquantile((drawn - first[source])[1:], [0.025, 0.975])
            row[source] = {
                "auc": round(float(drawn[0]), 4),
                "minus_region": [round(float(v), 4) for v in (drawn[0] - first[source][0], low, high)],
            }
        table.append(row)
        print(row, file=sys.stderr)
    if asked.json:
        print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
