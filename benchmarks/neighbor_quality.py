"""What neighbors are worth: outside judges, distance rules, copies, noise, on real masses; both modes side by side.

    python benchmarks/neighbor_quality.py --json             # about eight minutes on two cores
    python benchmarks/neighbor_quality.py --json --quick     # the two modes only, fewer neighbors

Three fresh judges that took no part in the search tell originals from neighbors, cross-validated by parent, so that
an original and its descendants are never on both sides: an RBF support vector machine on 30 standardized principal
components, one on 100 whitened components, one on the radial power spectrum. Positive neighbors should be hard to
tell (AUC at most 0.65 for the best judge), negative ones easy (at least 0.90, the whitened judge at least 0.80).

What the search adds: at least 90 % of the neighbors differ from every seed that their search started from
(`differs_from_every_seed`); their objective (Eqs. 1-2) beats the best start's, both judged by a discriminator of
originals and fresh seeds that the search never saw; and under it P of negative neighbors falls with the budget.

Generators under one interface: `pixel` (as in the paper), `subspace` (the default: principal components),
`low_frequency` (a fixed cosine basis), `seeds_only` (the subspace's noisy seeds without a search) and `gradient` (the
subspace, with projected gradient steps on the same objective and budget instead of RACOS).
"""

import argparse
import itertools
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from neighbors import DATA, read_crops
from scipy.fft import dctn, idctn
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from diagnet.discriminator import probability
from diagnet.distance import cosine_distance
from diagnet.neighbor_search import Judge, NeighborSearch, fresh_seeds, point_of, rules_for
from diagnet.neighbors import NeighborSettings
from diagnet.racos import Candidate
from diagnet.search_space import ComponentSpace, component_space, pixel_space

MOVES = {1: 1.0, -1: 2.25}  # as in diagnet.neighbors, in units of rho
CLASSES = ("benign", "malignant")
SIGNS = {"positive": 1, "negative": -1}
N_DRAWS = 500
BUDGETS = (10, 50, 200)


@dataclass(frozen=True)
class LowFrequencySpace:
    """Moves along the lowest frequencies of a cosine transform; the rest of the image stays the parent's.

    Vectors are the transform's coefficients, lowest first: an orthonormal change of coordinates.
    """

    images: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    order: np.ndarray
    steps: np.ndarray
    shape: tuple

    lower = ComponentSpace.lower
    seed = ComponentSpace.seed
    values = ComponentSpace.values

    def image(self, parent, vector):  # noqa: ARG002 -- the component space needs it
        """Make the image of a point, clipped to [0, 1]."""
        coefficients = np.empty(vector.size)
        coefficients[self.order] = vector
        pixels = idctn(coefficients.reshape(self.shape), norm="ortho").ravel()
        return np.clip(pixels, 0, 1).astype(np.float32)

    def vector(self, image):
        """Return the coordinates of an image."""
        return dctn(image.reshape(self.shape).astype(np.float64), norm="ortho").ravel()[self.order]


def low_frequency_space(images, sign, move, side, n_components, rng):
    """The component space's construction on a cosine basis."""
    transformed = dctn(images.reshape(-1, side, side).astype(np.float64), axes=(1, 2), norm="ortho")
    down, right = np.indices((side, side))
    order = np.argsort((down + right).ravel(), kind="stable")
    vectors = transformed.reshape(len(images), -1)[:, order]
    spread = vectors[:, :n_components].std(axis=0)
    weights = np.zeros(vectors.shape[1])
    n_seen = min(n_components, len(images) // 3)
    weights[:n_seen] = spread[:n_seen] ** -2
    shape = spread if sign > 0 else np.sqrt(spread)
    space = LowFrequencySpace(images, vectors, weights, order, shape, (side, side))
    searched = np.arange(n_components)
    low, high = 1e-6, 1e6
    parents = rng.integers(len(images), size=16)
    seeds = [space.seed(int(parent), rng) for parent in parents]
    for _ in range(40):
        middle = np.sqrt(low * high)
        moved = vectors[parents].copy()
        for row, parent, z in zip(moved, parents, seeds, strict=True):
            row[searched] = replace(space, steps=shape * middle).values(int(parent), searched, z)
        cosines = (moved * vectors[parents]).sum(1) / np.linalg.norm(moved, axis=1)
        distance = np.median(1 - cosines / np.linalg.norm(vectors[parents], axis=1))
        low, high = (middle, high) if distance < move else (low, middle)
    return replace(space, steps=shape * low)


class GradientSearch(NeighborSearch):
    """The same objective and budget, by projected gradient steps from every seed in turn."""

    def _try_candidates(self, rng):
        space, judge, budget = self._space, self._judge, self._settings.budget
        n = judge.n_points
        parents, starts = self._starts(rng)
        points = list(starts)
        origins, ranking = [], []
        searched = np.arange(space.lower.size)
        whole = np.empty(0, dtype=np.int64)
        for t in range(budget):
            turn = t % len(parents)
            parent, z = parents[turn], points[turn]
            origins.append(parent)
            self._place(t, parent, Candidate(None, whole, z))
            broken = self._rules.broken_by(*self._nearest_of_candidate(t))
            row = judge._kernel(self._seen.rows[t, :n], self._seen.squares[t])
            ranking.append(self._ranking(probability(judge.discriminator.decision_value(row)), broken))
            strengths = row * judge.discriminator._duals[:n]
            pull = judge.columns[:, :n] @ strengths - strengths.sum() * self._tried[t]
            unit = np.sqrt(float(space.vectors[parent] @ space.vectors[parent]))
            slope = self._sign * (pull * space.weights)[searched] * space.steps * unit
            length = float(np.linalg.norm(slope))
            if length > 0:  # a step of a few percent of the box's diagonal, shorter towards the end
                size = 0.05 * np.sqrt(z.size) * (1 - t / budget)
                points[turn] = np.clip(z + size * slope / length, -1, 1)
        return origins, ranking


def watched(kind):
    """A kind of search that remembers its start seeds and how each of them, and the winner, keeps the rules."""

    class Watched(kind):
        def _starts(self, rng):
            parents, seeds = super()._starts(rng)
            images = [self._space.image(i, point_of(self._space, i, z)) for i, z in zip(parents, seeds, strict=True)]
            self.starts += [(image, self._rules.broken_by(*self._nearest(image))) for image in images]
            return parents, seeds

        def keep(self, image):
            self.winner = (image, self._rules.broken_by(*self._nearest(image)))
            super().keep(image)

        def find(self, rng):
            self.starts = []
            return super().find(rng)

    return Watched


@dataclass(frozen=True)
class Generated:
    """What a generator made, and how each neighbor fares beside the seeds its search started from.

    `winner` and `best_start` are objectives (lower is better) under a judge of originals and fresh seeds, which the
    search has not seen; the best start is chosen by this judge, among the seeds that keep the rules if any does.
    """

    images: np.ndarray
    parents: np.ndarray
    probability: np.ndarray
    differs: np.ndarray
    winner: np.ndarray
    best_start: np.ndarray
    seconds: float
    rho: float
    settings: NeighborSettings


def generate(name, images, sign, n_wanted, seed, budget=None):
    """Find neighbors of one class and sign with a generator."""
    side = images.shape[1]
    flat = np.ascontiguousarray(images.reshape(len(images), -1))
    rng = np.random.default_rng(seed)
    dots = flat.astype(np.float64) @ flat.astype(np.float64).T
    unit = dots / np.sqrt(np.outer(dots.diagonal(), dots.diagonal()))
    rho = float((1 - unit[np.triu_indices(len(unit), 1)]).min())
    settings = NeighborSettings(budget=budget or NeighborSettings().budget)
    if name == "pixel":
        settings = settings.model_copy(
            update={"search_space": "pixel", "enforce_rules": False, "no_copies": False, "start_originals": 10}
        )
        space = pixel_space(flat, rho, "cosine", rng=rng)
    elif name == "low_frequency":
        space = low_frequency_space(flat, sign, MOVES[sign] * rho, side, settings.n_components, rng)
    else:
        n = settings.n_components
        space = component_space(flat, dots, sign, MOVES[sign] * rho, "cosine", n_components=n, rng=rng)
    if name == "seeds_only":
        settings = NeighborSettings(budget=settings.n_seeds)
    seeds = fresh_seeds(space, 4, rng=np.random.default_rng([seed, 1]))
    judge = Judge(space, dots, settings.kernel, len(seeds))
    judge.learn(seeds)
    search = watched(GradientSearch if name == "gradient" else NeighborSearch)(
        space, dots, sign, rho, n_wanted, settings, rng=rng
    )
    found, differs, objectives, took = [], [], [], 0.0
    for i in range(n_wanted):
        start = time.perf_counter()
        found.append(search.find(np.random.default_rng([seed, 2, i])))  # the same seeds whatever the budget
        took += time.perf_counter() - start
        starts = search.starts if search.winner[1] > 0 else [one for one in search.starts if one[1] == 0]
        ranks = [
            search._ranking(judge.probability(space.vector(image)), broken)
            for image, broken in (search.winner, *starts)
        ]
        objectives.append((ranks[0], min(ranks[1:], default=np.nan)))
        differs.append(not any(np.array_equal(found[-1].image, image) for image, _ in search.starts))
    return Generated(
        np.stack([one.image for one in found]).reshape(-1, side, side),
        np.array([one.parent for one in found]),
        np.array([judge.probability(space.vector(one.image)) for one in found]),
        np.array(differs),
        *np.array(objectives).T,
        took / n_wanted,
        rho,
        settings,
    )


def power(images):
    """Log power at each whole radial frequency."""
    side = images.shape[1]
    spectrum = np.abs(np.fft.fft2(images)) ** 2
    frequency = np.fft.fftfreq(side) * side
    radius = np.rint(np.hypot(*np.meshgrid(frequency, frequency))).astype(int)
    rings = [spectrum[:, radius == r].mean(axis=1) for r in range(1, side // 2)]
    return np.log(np.stack(rings, axis=1) + 1e-12)


def scores(features, truth, groups, n_components):
    """Decision values of a judge on folds it did not see."""
    out = np.zeros(len(truth))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(features, truth, groups):
        steps = [PCA(n_components, whiten=True, random_state=0)] if n_components else []
        judge = make_pipeline(*steps, StandardScaler(), SVC(class_weight="balanced"))
        out[test] = judge.fit(features[train], truth[train]).decision_function(features[test])
    return out


def judged(originals, made, parents, rng):
    """AUC of each judge, with a 95 % interval by bootstrap over parents."""
    truth = np.arange(len(originals) + len(made)) >= len(originals)
    groups = np.concatenate([np.arange(len(originals)), parents])
    images = np.concatenate([originals, made])
    flat = images.reshape(len(images), -1)
    judges = {
        "components_30": scores(flat, truth, groups, 30),
        "whitened_100": scores(flat, truth, groups, 100),
        "spectrum": scores(power(images), truth, groups, 0),
    }
    result = {name: interval_auc(truth, values, groups, rng) for name, values in judges.items()}
    return result | {"best": max(auc["auc"] for auc in result.values())}


def interval_auc(truth, values, groups, rng):
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = []
    for _ in range(N_DRAWS):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if 0 < truth[rows].sum() < len(rows):
            draws.append(roc_auc_score(truth[rows], values[rows]))
    return {"auc": float(roc_auc_score(truth, values)), "interval_95": quantiles(draws, (0.025, 0.975))}


def quantiles(values, levels):
    return [round(float(v), 4) for v in np.quantile(values, levels)]


def interval_median(values, rng):
    draws = np.median(values[rng.integers(len(values), size=(N_DRAWS, len(values)))], axis=1)
    return {"median": float(np.median(values)), "interval_95": quantiles(draws, (0.025, 0.975))}


def interval_mean(values, rng):
    draws = values[rng.integers(len(values), size=(N_DRAWS, len(values)))].mean(axis=1)
    return {"mean": float(values.mean()), "interval_95": quantiles(draws, (0.025, 0.975))}


def searching_longer(originals, sign, n_wanted, seed):
    """Mean P under the judge of fresh seeds for each budget, and its change, paired by the searches' seeds."""
    rng = np.random.default_rng(3)
    chances = {t: generate("subspace", originals, sign, n_wanted, seed, budget=t).probability for t in BUDGETS}
    figures = {f"P_{t}": interval_mean(values, rng) for t, values in chances.items()}
    for few, many in itertools.pairwise(BUDGETS):
        figures[f"P_{many}_minus_{few}"] = interval_mean(chances[many] - chances[few], rng)
    return figures


def measured(name, originals, sign, n_wanted, seed):
    """All figures of one generator, class and sign."""
    rng = np.random.default_rng(1)
    one = generate(name, originals, sign, n_wanted, seed)
    made, parents, rho, settings = one.images, one.parents, one.rho, one.settings
    gains = (one.best_start - one.winner)[np.isfinite(one.best_start)]  # of those whose search had a valid start
    flat, known = made.reshape(len(made), -1), originals.reshape(len(originals), -1)
    nearest = cosine_distance(flat, known).min(axis=1)
    of_sign = cosine_distance(flat, flat)
    np.fill_diagonal(of_sign, np.inf)
    between = cosine_distance(known, known)
    np.fill_diagonal(between, np.inf)
    letter = rules_for(sign, rho, settings.model_copy(update={"no_copies": False}))
    ratio = np.exp(np.median(power(made), axis=0) - np.median(power(originals), axis=0))
    return {
        "judges": judged(originals, made, parents, rng),
        "probability_median": float(np.median(one.probability)),  # by a judge of fresh seeds
        "differs_from_every_seed": float(one.differs.mean()),
        "objective_winner_against_best_start": interval_mean(gains, rng)  # how much better the winner's is
        | {"n": len(gains), "share_better": float((gains > 0).mean())},
        "nearest_original_over_rho": interval_median(nearest / rho, rng),
        "spacing_violation_rate": float((of_sign.min(axis=1) < letter.spacing).mean()),  # r1 or r2
        "reach_violation_rate": float((nearest > letter.reach).mean()),  # r3
        "closer_than_rho_to_an_original": float((nearest < rho).mean()),
        "pixels_moved": float((np.abs(made - originals[parents]) > 1 / 255).mean()),
        "pixels_changed_by_the_search_at_most": 3 * settings.budget / originals[0].size if name == "pixel" else 1.0,
        "spectrum_factor": float(np.maximum(ratio, 1 / ratio).max()),
        "privacy_nearest_original_over_originals_own": float(np.median(nearest) / np.median(between.min(axis=1))),
        "n_neighbors": len(made),
        "n_parents": len(set(parents.tolist())),
        "seconds_per_neighbor": one.seconds,
        "nearest": nearest / rho,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with rois.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="the two modes, 30 neighbors each")
    parser.add_argument("--size", type=int, default=64, help="height and width of the crops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generators", nargs="+", help="a subset of the generators")
    arguments = parser.parse_args()
    figures = {"size": arguments.size, "seed": arguments.seed, "quick": arguments.quick}
    if not (arguments.data / "rois.csv").is_file():
        figures["skipped"] = f"no rois.csv in {arguments.data}: nothing was measured"
        print(json.dumps(figures))
        return
    every = ("subspace", "pixel", "low_frequency", "seeds_only", "gradient")[: 2 if arguments.quick else 5]
    images, labels, _ = read_crops(arguments.data, arguments.size)
    rng = np.random.default_rng(2)
    with threadpool_limits(1):
        for name in arguments.generators or every:
            figures[name] = part = {}
            for label, title in enumerate(CLASSES):
                originals = images[labels == label]
                n_wanted = 30 if arguments.quick else round(0.2 * len(originals))
                both = {kind: measured(name, originals, sign, n_wanted, arguments.seed) for kind, sign in SIGNS.items()}
                near, far = both["positive"].pop("nearest"), both["negative"].pop("nearest")
                draws = rng.integers(n_wanted, size=(2, N_DRAWS, n_wanted))
                gaps = np.median(far[draws[0]], axis=1) - np.median(near[draws[1]], axis=1)
                both["negatives_farther_by_rho"] = {
                    "median_difference": float(np.median(far) - np.median(near)),
                    "interval_95": quantiles(gaps, (0.025, 0.975)),
                }
                if name == "subspace":
                    for kind, sign in SIGNS.items():
                        both[kind]["searching_longer"] = searching_longer(originals, sign, n_wanted, arguments.seed)
                part[title] = both
            part["meets"] = {
                "positives_hard": all(part[c]["positive"]["judges"]["best"] <= 0.65 for c in CLASSES),
                "negatives_easy": all(part[c]["negative"]["judges"]["best"] >= 0.90 for c in CLASSES),
                "whitened_judge": all(part[c]["negative"]["judges"]["whitened_100"]["auc"] >= 0.80 for c in CLASSES),
                "negatives_farther": all(part[c]["negatives_farther_by_rho"]["interval_95"][0] > 0 for c in CLASSES),
                "rules": not any(
                    part[c][kind][rule]
                    for c in CLASSES
                    for kind in SIGNS
                    for rule in ("spacing_violation_rate", "reach_violation_rate")
                ),
                "differ_from_every_seed": all(
                    part[c][kind]["differs_from_every_seed"] >= 0.9 for c in CLASSES for kind in SIGNS
                ),
                "winner_beats_best_start": all(
                    part[c][kind]["objective_winner_against_best_start"]["interval_95"][0] > 0
                    for c in CLASSES
                    for kind in SIGNS
                ),
            }
            if name == "subspace":
                part["meets"]["negatives_less_probable_with_budget"] = all(
                    part[c]["negative"]["searching_longer"][f"P_{many}_minus_{few}"]["interval_95"][1] < 0
                    for c in CLASSES
                    for few, many in itertools.pairwise(BUDGETS)
                )
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        show(figures)


def show(figures):
    """One line for each generator, class and sign."""
    for name, part in figures.items():
        if not isinstance(part, dict):
            print(f"{name}: {part}")
            continue
        for title in CLASSES:
            for kind in SIGNS:
                one = part[title][kind]
                aucs = [one["judges"][judge]["auc"] for judge in ("components_30", "whitened_100", "spectrum")]
                columns = {
                    "judges": " ".join(f"{auc:.2f}" for auc in aucs),
                    "d/rho": f"{one['nearest_original_over_rho']['median']:.2f}",
                    "broken": f"{one['spacing_violation_rate']:.2f} {one['reach_violation_rate']:.2f}",
                    "moved": f"{one['pixels_moved']:.2f}",
                    "spectrum x": f"{one['spectrum_factor']:.1f}",
                    "P": f"{one['probability_median']:.2f}",
                    "new": f"{one['differs_from_every_seed']:.2f}",
                    "gain": f"{one['objective_winner_against_best_start']['mean']:.3f}",
                    "s": f"{one['seconds_per_neighbor']:.3f}",
                }
                told = " | ".join(f"{column} {value}" for column, value in columns.items())
                print(f"{name:14}{title:10}{kind:9} {told}")
        print(f"{name:14}{part['meets']}")


if __name__ == "__main__":
    main()
