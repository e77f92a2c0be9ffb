"""What neighbors as feature vectors are worth to a logistic regression, arm by arm, on crops and on mammograms.

    python benchmarks/feature_apart.py rois.csv mammograms.csv --out ROWS.csv  # taken up where it was; an hour

The space is that of `feature_space.py`: 200 principal components of EfficientNet-Lite0's frozen features. The model is
the logistic regression that any user would try first, with the ridge of preset lite0. It is trained on both sources and
four flips. Each arm adds a vector for every fourth mass, or what its name says, with the weight of four flips.

Rule, written before the first run. An arm helps if its AUC minus that of `copies` has a 95 % interval (patients drawn)
above 0 on the crops and on the mammograms. The search is worth its time if `search-200` is also above `fresh` in this
way. p values are told with Holm's correction over the arms of a source. If none helps, neighbors as feature vectors
stay out of the product.

- `lr`: the originals alone. `copies`: a quarter of the masses counts twice.
- `noise`, `mixup`, `smote`, `seeds`: as in `feature_space.py`. `fresh`: four draws of such seeds, each with a quarter
  of the weight.
- `search-20`, `search-200`, `search-2000`: what RACOS finds with so many evaluations.
- `hard`: the quarter of the four draws that the logistic regression gets most wrong, among those that a kernel machine
  of the classes leaves on their side.
- `negatives`: negative neighbors (T = 200) as a class of their own, whose output the score leaves out.
- `search-200+eq3`: with the edges of Eq. 3 among originals and neighbors, as `eq3` of `feature_graphs.py`, strength
  0.01. `eq3`: the same without neighbors.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from feature_graphs import Data, Part, fit_linear, fit_quadratic, quadratic_of, spread_of
from feature_space import (
    FLIPS,
    FOUR,
    N_COMPONENTS,
    N_FOLDS,
    RANGE,
    SHARE,
    add_rows,
    areas_of,
    compared,
    components,
    features_of,
    jobs_done,
    made,
    searched,
)
from sklearn.svm import SVC

from diagnet.data.roi import RoiSettings
from diagnet.data.sources import read_sources
from diagnet.graph import signed_graph
from diagnet.memory import keep_freed_memory
from diagnet.study.jobs import folds_of

STRENGTH, N_DRAWS = 0.01, 4
ARMS = (
    "lr", "copies", "noise", "mixup", "smote", "seeds", "fresh", "hard", "search-20", "search-200", "negatives",
    "eq3", "search-200+eq3", "search-2000",
)  # fmt: skip


def scores_of(arm, part, vectors, seed, cache):
    """Log-odds of vectors by a logistic regression of a part and what the arm adds to it."""
    scaled = np.clip(part.vectors[0] / (2 * RANGE) + 0.5, 0, 1).astype(np.float32)
    rng, kind = np.random.default_rng([seed, 11]), arm.split("+")[0]
    more, parents, weight = np.zeros((0, N_COMPONENTS)), np.zeros(0, np.int64), float(len(FLIPS))
    if kind == "copies":
        parents = np.concatenate(
            [
                rng.choice(own, round(SHARE * len(own)), replace=False)
                for own in (np.flatnonzero(part.labels == label) for label in (0, 1))
            ]
        )
        more = scaled[parents]
    elif kind in ("noise", "mixup", "smote"):
        more, parents, _ = made(kind, scaled, part.labels, rng)
    elif kind in ("seeds", "fresh", "hard"):
        if "draws" not in cache:
            draws = [searched(scaled, part.labels, 1, rng=np.random.default_rng([seed, n])) for n in range(N_DRAWS)]
            cache["draws"] = tuple(np.concatenate(each) for each in zip(*draws, strict=True))[:2]
        more, parents = cache["draws"]
        if kind == "seeds":
            more, parents = more[: len(more) // N_DRAWS], parents[: len(parents) // N_DRAWS]
        elif kind == "fresh":
            weight /= N_DRAWS
        else:
            more, parents = hardest(more, parents, part)
    elif kind.startswith("search") or kind == "negatives":
        if kind not in cache:
            budget, sign = (200, "negative") if kind == "negatives" else (int(kind.split("-")[1]), "positive")
            cache[kind] = searched(scaled, part.labels, budget, sign, rng=rng)[:2]
        more, parents = cache[kind]
    added = ((more - 0.5) * 2 * RANGE).astype(np.float64)
    rows = np.concatenate([part.vectors.reshape(-1, N_COMPONENTS), added])
    own_labels = np.full(len(parents), 2) if kind == "negatives" else part.labels[parents]
    labels = np.concatenate([np.tile(part.labels, len(FLIPS)), own_labels])
    weights = np.concatenate([np.ones(part.n * len(FLIPS)), np.full(len(parents), weight)])
    spread = None
    if arm.endswith("eq3"):
        points = np.concatenate([part.vectors[0], added])
        found = signed_graph(
            points,
            np.concatenate([part.labels, part.labels[parents]]),
            np.repeat(np.array([0, 1], np.int8), [part.n, len(parents)]),
            FOUR,
            relatives=np.concatenate([part.patients, part.patients[parents]]),
            origins=np.concatenate([np.arange(part.n), parents]),
        ).signs.tocoo()
        spread = spread_of(points[None], np.stack(found.coords, axis=1), found.data.astype(float))
    fitted, bias = fit_quadratic(rows, labels, quadratic_of(1.0, STRENGTH * weights.sum(), spread), weights)
    logits = (vectors @ fitted + bias).mean(axis=0)
    return logits[:, 1] - logits[:, 0] if kind == "negatives" else logits[:, 0]


def hardest(more, parents, part):
    """Of each class's draws the quarter that the regression gets most wrong, among those that a machine accepts."""
    weight, bias = fit_linear(part, 1.0)
    vectors, sign = (more - 0.5) * 2 * RANGE, 2 * part.labels[parents] - 1
    accepted = SVC(C=0.5, gamma="scale").fit(part.vectors[0], part.labels).decision_function(vectors) * sign > 0
    ease = np.where(accepted, (vectors @ weight + bias) * sign, np.inf)
    chosen = [
        np.flatnonzero(sign == each)[np.argsort(ease[sign == each])[: int((sign == each).sum()) // N_DRAWS]]
        for each in (-1, 1)
    ]
    chosen = np.concatenate(chosen)
    chosen = chosen[np.isfinite(ease[chosen])]
    return more[chosen], parents[chosen]


def run(asked):
    """Add the rows that are not there yet: arm, fold, seed, mass, score."""
    done = jobs_done(asked.out)
    mass_set = read_sources(asked.data, ("benign", "malignant"), RoiSettings())
    data = Data(mass_set)
    features = features_of(mass_set.masses, asked.features)
    arms = asked.arms.split(",") if asked.arms else ARMS
    for seed in range(asked.seeds):
        for fold, test in enumerate(folds_of(mass_set, N_FOLDS)):
            if fold % asked.shards != asked.shard or all((arm, fold, seed) in done for arm in arms):
                continue
            own = np.setdiff1d(np.arange(len(data.labels)), test)
            vectors, cache = components(features, own), {}
            part = Part(vectors, own, data)
            for arm in arms:
                if (arm, fold, seed) in done:
                    continue
                scores = scores_of(arm, part, vectors[:, test], seed, cache)
                add_rows(asked.out, arm, fold, seed, test, scores)


def table(asked):
    """AUC of each arm on each source, and its differences to `copies` and `fresh`."""
    areas = areas_of(asked.data, asked.out)
    found, against_fresh = (compared(areas, lambda _, rival=rival: rival) for rival in ("copies", "fresh"))
    for name, row in found.items():
        row["minus_fresh"] = against_fresh[name].get("minus_rival")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs=2, help="manifests of crops and of mammograms")
    parser.add_argument("--out", type=Path, required=True, help="rows, a .csv file")
    parser.add_argument("--features", type=Path, help="keep the features in this .npy file")
    parser.add_argument("--arms", help="separated by commas; all if not given")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shard", type=int, default=0, help="take the folds of this shard alone")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the rows there are")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if not asked.table:
        run(asked)
    print(json.dumps(table(asked), indent=1))


if __name__ == "__main__":
    main()
