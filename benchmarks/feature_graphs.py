"""The signed graph in other places than Eq. 4 has it, on EfficientNet-Lite0's frozen features of crops and mammograms.

    python benchmarks/feature_graphs.py rois.csv mammograms.csv --out ROWS.csv  # taken up where it was; an hour

A mass is a vector: 200 principal components of its frozen features, fitted on the training patients. Models are trained
on both sources and four flips, and score the mean of the four flips. There are five folds by patient, for each of three
partitions of the patients. Each arm has one or two strengths. Inner folds of the training patients choose them, by the
mean of the AUC on both sources.

Rule, written before the first run: a place for the graph helps if its AUC minus that of its rival has a 95 % interval
above 0 on the crops and on the mammograms. The interval draws patients; the three partitions are averaged. The rival
has as many choices: `lr` for what is added to it, `head` for what is added to that. p values are told with Holm's
correction over all arms of a source. What helps is tried again in training of the last blocks, which take no part here,
before it becomes a default. Where nothing helps on both sources, the graph has no place here, and this is told.

The logistic regression, and what is added to it. f is the score; J = cross-entropy + strength x mean over edges.

- `lr`: the ridge is chosen among seven, and kept in what is added.
- `eq3`: the edges of Eq. 3, four of each sign: (f_i - f_j)^2 where they attract, (f_i + f_j)^2 where they repel.
- `views`: (f_i - f_j)^2 over the CC and MLO view of a lesion. `sources`: over crop and mammogram of a mass. `lesions`:
  over both, and over the flips of an image. These edges are known to be right.
- `teacher`: the 8 nearest masses of other patients. The sign and weight of an edge is the product of both ends'
  out-of-fold scores, as 2p - 1.
- `soft`: no edges, but targets that lie between the label and the out-of-fold score of the whole lesion.
- `vote`: the score and the signed vote of the nearest training masses, when scoring. `residuals`: the mean of what
  their out-of-fold scores missed. `spread`: their labels, spread over the graph of the training masses before.
- `svm`: kernel machine (RBF), a rival that a user might pick.

A head of one residual layer, which begins as the logistic regression and keeps its ridge (H of 200):

- `head`: cross-entropy; the rate is chosen among four, and kept in what is added.
- `head+eq4`: Eq. 4 over four and four edges. `head+far`: the same, where the far end is of the average network without
  a gradient, and the strength rises from 0. `head+hard`: repelled by semi-hard masses of the batch alone.
- `head+supcon`: softmax over attracting against all, temperature 0.1. `head+views`: attracted by the other views and
  sources of a mass.

Few labels: N % of the training patients have labels, 50 and 20 first.

- `few-N`: the logistic regression on what has labels. `few-N+near`: (f_i - f_j)^2 over the 8 nearest masses of all.
  `few-N+known`: over views, sources and flips of all.

A second question came from the first rows, in which `few-20+known` was above 0 on mammograms alone. The rule is the
same, on three other partitions (`--first 3 --arms few-20,few-20+known,...`), with 10 and 5 % too: some 165 and 85
masses, the paper's number. These helped on both sources, and two more runs ask what of it counts:

- parts of it, on the same partitions: `few-N+flips`, `+views`, `+sources`, and `+known-labelled`, where the edges are
  those of masses with labels alone. They describe; nothing is chosen by them.
- the same two arms again with boxes x 1.1 (`--factor 1.1`) on the partitions 6, 7 and 8: the rule once more.
"""

import argparse
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from feature_space import FLIPS, FOUR, N_COMPONENTS, add_rows, areas_of, compared, components, features_of, jobs_done
from scipy.linalg import solve_triangular
from scipy.sparse import coo_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from torch.nn import functional

from diagnet.data.roi import RoiSettings
from diagnet.data.sources import read_sources
from diagnet.data.splits import make_folds
from diagnet.evaluation.lesions import lesion_groups, sightings_of
from diagnet.graph import signed_graph
from diagnet.laplacian import edge_spread
from diagnet.memory import keep_freed_memory

N_FOLDS, N_PARTITIONS, N_INNER = 5, 3, 3
RIDGE = 1000.0  # of one flip, as in diagnet.training.head
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
N_NEAR = 8
EPOCHS, BATCH, DROPOUT, HIDDEN, MARGIN, TEMPERATURE = 20, 128, 0.2, 128, 1.0, 0.1
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
UNIT = 20.0  # of the components, so that a layer's inputs are near 1

LINEAR = ("lr", "eq3", "views", "sources", "lesions", "teacher", "soft", "vote", "residuals", "spread", "svm")
HEADS = ("head", "head+eq4", "head+far", "head+hard", "head+supcon", "head+views")
FIRST = (*LINEAR, *(f"few-{kept}{kind}" for kept in (50, 20) for kind in ("", "+near", "+known")), *HEADS)
HEAD_STRENGTHS = (0.1, 0.3, 1.0, 3.0)


class Part:
    """Masses of some patients as vectors, and the edges among them; indices are places in the part."""

    def __init__(self, vectors, rows, data):
        self.vectors, self.rows = vectors[:, rows], rows
        self.labels, self.patients, self.sources = (each[rows] for each in (data.labels, data.patients, data.sources))
        self.lesions, self.sightings = data.lesions[rows], data.sightings[rows]
        self.n = len(rows)

    def known(self, kind):
        """Pairs that are one lesion in two views of a source, or one mass in two sources."""
        key = self.lesions if kind == "views" else self.sightings
        places = {}
        for place, name in enumerate(key):
            places.setdefault(name, []).append(place)
        pairs = [pair for found in places.values() for pair in combinations(found, 2)]
        return np.array(pairs, np.int64).reshape(-1, 2)

    def nearest(self):
        """The nearest masses of other patients, for each."""
        near = similarity(self.vectors[0], self.vectors[0])
        near[self.patients[:, None] == self.patients] = -np.inf
        far = np.argpartition(-near, N_NEAR, axis=1)[:, :N_NEAR]
        return np.stack([np.repeat(np.arange(self.n), N_NEAR), far.ravel()], axis=1)

    def eq3(self):
        """Edges and signs of Eq. 3."""
        found = signed_graph(self.vectors[0], self.labels, settings=FOUR, relatives=self.patients).signs.tocoo()
        return np.stack(found.coords, axis=1), found.data.astype(float)


class Data:
    """What is known of all masses."""

    def __init__(self, mass_set):
        self.labels, self.patients = mass_set.labels, mass_set.patient_numbers
        self.sources = np.array([mass.source for mass in mass_set.masses])
        self.lesions = lesion_groups(sightings_of(mass_set.masses, mass_set.patients))
        # A mass in two sources: the only one of its patient, side and view in each of them.
        keys = [(mass.patient_id, mass.laterality, mass.view) for mass in mass_set.masses]
        seen = {}
        for place, (key, source) in enumerate(zip(keys, self.sources, strict=True)):
            seen.setdefault(key, {}).setdefault(source, []).append(place)
        self.sightings = np.arange(len(keys))
        for by_source in seen.values():
            if len(by_source) > 1 and all(len(found) == 1 for found in by_source.values()):
                places = [found[0] for found in by_source.values()]
                self.sightings[places] = places[0]


def similarity(left, right):
    """Cosine similarity of rows."""
    left, right = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (left, right))
    return left @ right.T


def spread_of(vectors, pairs, signs=1.0, weights=1.0):
    """Mean of |w| (x_i - s x_j)(x_i - s x_j)' over edges and flips: w' of it w is the mean of |w| (f_i - s f_j)^2."""
    edges = np.broadcast_to(np.asarray(signs) * weights, len(pairs))
    matrix = coo_array((edges, tuple(pairs.T)), shape=(vectors.shape[1],) * 2)
    size = np.abs(edges).sum() / len(pairs)
    return size * np.mean([edge_spread(each.astype(np.float64), matrix) for each in vectors], axis=0)


def flips_spread(vectors):
    """The same over the flips of each image."""
    moved = (vectors - vectors.mean(axis=0)).reshape(-1, N_COMPONENTS).astype(np.float64)
    return 2 * moved.T @ moved / len(moved)


def fit_linear(part, ridge, strength=0.0, spread=None, *, targets=None, counted=None):
    """Weights and intercept of a logistic regression with a quadratic term of the graph."""
    counted = np.arange(part.n) if counted is None else counted
    rows = part.vectors[:, counted].reshape(-1, N_COMPONENTS).astype(np.float64)
    labels, weights = np.tile(part.labels[counted], len(FLIPS)), None
    quadratic = quadratic_of(ridge, strength * len(rows), spread)
    if targets is not None:  # a soft target is both labels, each with its weight
        soft = np.tile(targets[counted], len(FLIPS))
        rows, labels = np.concatenate([rows, rows]), np.repeat([0, 1], len(soft))
        weights = np.concatenate([1 - soft, soft])
    weight, bias = fit_quadratic(rows, labels, quadratic, weights)
    return weight[:, 0], float(bias[0])


def quadratic_of(ridge, strength, spread=None):
    """Q of w'Qw / 2: the ridge of four flips, and edges that count so much against the sum of the losses."""
    quadratic = RIDGE * ridge * len(FLIPS) * np.eye(N_COMPONENTS)
    return quadratic if spread is None else quadratic + 2 * strength * spread


def fit_quadratic(rows, labels, quadratic, weights=None):
    """Weights (component, output) and intercepts of a logistic regression with w'Qw / 2 as its penalty."""
    root = np.linalg.cholesky(quadratic)  # w = root'^-1 v, so that w' Q w = v' v
    turned = solve_triangular(root, rows.T, lower=True).T
    solver = "newton-cholesky" if len(np.unique(labels)) == 2 else "lbfgs"
    model = LogisticRegression(C=1.0, solver=solver, max_iter=1000).fit(turned, labels, sample_weight=weights)
    return solve_triangular(root.T, model.coef_.T, lower=False), model.intercept_


def linear_scores(fitted, vectors):
    """Mean log-odds of the flips."""
    weight, bias = fitted
    return (vectors @ weight + bias).mean(axis=0)


def inner_folds(part, seed):
    """Places of each inner test fold, by patient."""
    names = [str(row) for row in part.rows]
    rng = np.random.default_rng([seed, 7])
    return [fold.test for fold in make_folds([str(p) for p in part.patients], names, part.labels, N_INNER, rng=rng)]


def held_out_scores(part, ridge, seed):
    """Out-of-fold log-odds of a part by the logistic regression."""
    found = np.empty(part.n)
    for test in inner_folds(part, seed + 100):
        own = np.setdiff1d(np.arange(part.n), test)
        found[test] = linear_scores(fit_linear(part, ridge, counted=own), part.vectors[:, test])
    return found


def both_sources(scores, part):
    """What inner folds choose by: the mean of the AUC on each source."""
    return np.mean(
        [
            roc_auc_score(part.labels[part.sources == name], scores[part.sources == name])
            for name in np.unique(part.sources)
        ]
    )


def smoothed(arm, part, vectors, fitted, ridge, seed):
    """Arms that look at neighbors when they score: (k, scaled) -> what is added to the score, at strength 1."""
    linear, found = linear_scores(fitted, part.vectors), {}
    is_residual = arm == "residuals"
    values = part.labels - expit(held_out_scores(part, ridge, seed)) if is_residual else 2.0 * part.labels - 1
    for scaled in (False, True):
        scale = np.abs(fitted[0]) if scaled else 1.0
        own, new = part.vectors[0] * scale, vectors.mean(axis=0) * scale
        near = similarity(new, own)
        for k in (15, 60):
            carried = values
            if arm == "spread":
                among = np.maximum(similarity(own, own), 0)
                among[part.patients[:, None] == part.patients] = 0
                among[among < np.partition(among, -k, axis=1)[:, -k][:, None]] = 0
                among = np.maximum(among, among.T)
                degree = 1 / np.sqrt(among.sum(axis=1) + 1e-9)
                carried = np.linalg.solve(np.eye(part.n) - 0.9 * degree[:, None] * among * degree, values)
                carried /= np.abs(carried).mean()
            chosen = np.argpartition(-near, k, axis=1)[:, :k]
            found[k, scaled] = carried[chosen].mean(axis=1) * linear.std() * (4 if is_residual else 2)
    return found


def candidates_of(arm, part, ridge, seed):
    """Strength -> scores of other vectors, for each strength of a linear arm."""
    made: dict[object, Callable] = {}
    kind = arm.split("+")[-1] if arm.startswith("few") else arm
    counted = None
    if arm.startswith("few"):
        kept = int(arm.split("-")[1].split("+")[0]) / 100
        patients = np.unique(part.patients)
        chosen = np.random.default_rng([seed, 5]).permutation(patients)[: round(kept * len(patients))]
        counted = np.flatnonzero(np.isin(part.patients, chosen))
        kind = "lr" if "+" not in arm else kind
    if kind == "svm":
        for strength in (0.12, 0.25, 0.5, 1.0):  # of one flip: all four would take a minute a fit
            model = SVC(C=strength, gamma="scale").fit(part.vectors[0], part.labels)
            made[strength] = lambda new, model=model: np.mean([model.decision_function(each) for each in new], axis=0)
        return made
    if kind in ("vote", "residuals", "spread"):
        fitted, known = fit_linear(part, ridge), {}

        def score(new, key, strength):
            place = id(new)
            if place not in known:
                known.clear()
                known[place] = smoothed(arm, part, new, fitted, ridge, seed)
            return linear_scores(fitted, new) + strength * known[place][key]

        for key in ((15, False), (15, True), (60, False), (60, True)):
            for strength in (0.06, 0.12, 0.25, 0.5):
                made[(*key, strength)] = lambda new, key=key, strength=strength: score(new, key, strength)
        return made
    spread, targets = None, None
    if kind == "eq3":
        spread = spread_of(part.vectors, *part.eq3())
    elif kind in ("views", "sources"):
        spread = spread_of(part.vectors, part.known(kind))
    elif kind in ("lesions", "known", "known-labelled"):
        pairs, vectors = np.concatenate([part.known("views"), part.known("sources")]), part.vectors
        if kind == "known-labelled":  # what has no label is not looked at
            pairs, vectors = pairs[np.isin(pairs, counted).all(axis=1)], vectors[:, counted]
        spread = spread_of(part.vectors, pairs) + flips_spread(vectors)
    elif kind == "flips":
        spread = flips_spread(part.vectors)
    elif kind == "near":
        spread = spread_of(part.vectors, part.nearest())
    elif kind == "teacher":
        pairs, sure = part.nearest(), 2 * expit(held_out_scores(part, ridge, seed)) - 1
        product = sure[pairs[:, 0]] * sure[pairs[:, 1]]
        spread = spread_of(part.vectors, pairs, np.sign(product), np.abs(product))
    elif kind == "soft":
        scores = held_out_scores(part, ridge, seed)
        names = np.unique(part.lesions, return_inverse=True)[1]
        targets = expit((np.bincount(names, scores) / np.bincount(names))[names])
    if kind == "lr":
        grid = [(tried, {"ridge": tried}) for tried in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)]
    elif kind == "soft":
        grid = [(part_, {"targets": part.labels * (1 - part_) + part_ * targets}) for part_ in (0.2, 0.4, 0.6, 0.8)]
    else:
        grid = [(strength, {"strength": strength, "spread": spread}) for strength in STRENGTHS]
    for strength, given in grid:
        fitted = fit_linear(part, **{"ridge": ridge, "counted": counted, **given})
        made[strength] = lambda new, fitted=fitted: linear_scores(fitted, new)
    return made


def fit_heads(arm, part, strengths, rates, ridge, seed):
    """Heads of several strengths or rates at once, from the same start and batches: a function of vectors."""
    weight, bias = fit_linear(part, ridge)
    n, torch_rng, rng = len(strengths), torch.Generator().manual_seed(seed), np.random.default_rng([seed, 3])
    first = torch.randn(1, N_COMPONENTS, HIDDEN, generator=torch_rng) * (2 / N_COMPONENTS) ** 0.5
    project = torch.randn(1, N_COMPONENTS, 64, generator=torch_rng) * N_COMPONENTS**-0.5
    values = {
        "first": first.repeat(n, 1, 1),
        "bent": torch.zeros(n, 1, HIDDEN),
        "last": torch.zeros(n, HIDDEN, N_COMPONENTS),
        "weight": torch.from_numpy(weight * UNIT).float().repeat(n, 1)[..., None],
        "bias": torch.full((n, 1, 1), bias),
        "project": project.repeat(n, 1, 1),
    }
    values = {name: value.requires_grad_() for name, value in values.items()}
    average = {name: value.detach().clone() for name, value in values.items()}
    inputs = torch.from_numpy(part.vectors / UNIT).float()
    labels = torch.from_numpy(part.labels).float()
    strength = torch.tensor(strengths).float()
    edges, signs = part.eq3()
    attracting, repelling = (by_anchor(edges[signs * sign > 0], part.n) for sign in (1, -1))
    others = by_anchor(both_ways(np.concatenate([part.known("views"), part.known("sources")])), part.n)
    has_other = torch.from_numpy(others[:, 0] >= 0)
    n_steps = EPOCHS * (part.n // BATCH)
    rate = torch.tensor(rates).float()[:, None, None]
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in values.items()}

    def embed(x, of):
        return x + torch.relu(x @ of["first"] + of["bent"]) @ of["last"]

    def drawn(table, batch):
        return table[batch, rng.integers(0, table.shape[1], len(batch))]

    def of_flip(rows):
        return inputs[rng.integers(0, len(FLIPS), len(rows)), rows][None]

    def distance(left, right):
        return 1 - functional.cosine_similarity(left, right, dim=-1)

    for step in range(n_steps):
        if step % (part.n // BATCH) == 0:
            order = rng.permutation(part.n)
        at = (step % (part.n // BATCH)) * BATCH
        batch = order[at : at + BATCH]
        hidden = embed(of_flip(batch), values)
        kept = (torch.rand(1, *hidden.shape[1:], generator=torch_rng) > DROPOUT).float() / (1 - DROPOUT)
        logits = ((hidden * kept) @ values["weight"] + values["bias"])[..., 0]
        loss = functional.binary_cross_entropy_with_logits(logits, labels[batch].expand(n, -1), reduction="none").mean(
            1
        )
        loss = loss + 0.5 * RIDGE * ridge / part.n * (values["weight"] / UNIT).square().sum((1, 2))
        graph = torch.zeros(n)
        if arm in ("head+eq4", "head+far"):
            of = values if arm == "head+eq4" else average
            pulled, pushed = (embed(of_flip(drawn(table, batch)), of) for table in (attracting, repelling))
            graph = (distance(hidden, pulled) + torch.relu(MARGIN - distance(hidden, pushed))).mean(1)
        elif arm == "head+views":
            rows = np.flatnonzero(has_other[batch].numpy())
            if len(rows):
                graph = distance(hidden[:, rows], embed(of_flip(drawn(others, batch[rows])), values)).mean(1)
        elif arm in ("head+hard", "head+supcon"):
            same = labels[batch][:, None] == labels[batch]
            own = torch.from_numpy(part.patients[batch][:, None] == part.patients[batch])
            if arm == "head+supcon":
                units = functional.normalize(hidden @ values["project"], dim=-1)
                odds = (units @ units.transpose(1, 2) / TEMPERATURE).masked_fill(own, -1e9)
                wanted = (same & ~own).float()
                logs = odds - torch.logsumexp(odds, dim=-1, keepdim=True)
                graph = -((logs * wanted).sum(-1) / wanted.sum(-1).clamp_min(1)).mean(1)
            else:
                units = functional.normalize(hidden, dim=-1)
                apart = 1 - units @ units.transpose(1, 2)
                pulled = distance(hidden, embed(of_flip(drawn(attracting, batch)), values))
                other = apart.masked_fill(same | own, 9.0)
                other = other.masked_fill(other < pulled[..., None], 9.0)  # semi-hard: farther than what attracts
                graph = (pulled + torch.relu(MARGIN - other.amin(-1))).mean(1)
        rising = min(1.0, 2 * step / n_steps) if arm == "head+far" else 1.0
        gradients = torch.autograd.grad(
            (loss + rising * strength * graph).sum(), list(values.values()), allow_unused=True
        )
        falling = 0.5 * (1 + np.cos(np.pi * step / n_steps))
        with torch.no_grad():  # AdamW, each head at its own rate
            for (name, value), gradient in zip(values.items(), gradients, strict=True):
                if gradient is None:
                    continue
                first_moment, second_moment = moments[name]
                first_moment.lerp_(gradient, 0.1)
                second_moment.lerp_(gradient.square(), 0.001)
                spread = (second_moment / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                value -= falling * rate * (first_moment / (1 - 0.9 ** (step + 1)) / spread + 0.01 * value)
                average[name].lerp_(value, 0.02)

    def scores(new):
        with torch.no_grad():
            x = torch.from_numpy(new / UNIT).float()
            return np.stack(
                [((embed(each[None], values) @ values["weight"] + values["bias"])[..., 0]).numpy() for each in x]
            ).mean(axis=0)

    return scores


def both_ways(pairs):
    return np.concatenate([pairs, pairs[:, ::-1]])


def by_anchor(edges, n):
    """A row of far ends for each anchor, repeated to one length; -1 where it has none."""
    found = [[] for _ in range(n)]
    for anchor, far in edges:
        found[anchor].append(far)
    width = max(map(len, found))
    return np.array([np.resize(far, width) if far else np.full(width, -1) for far in found])


def choose(arm, part, vectors, data, own, kept, seed):
    """The strength of an arm that inner folds choose."""
    gained = {}
    ridge = kept.get(arm.split("+")[0] if arm.startswith("few") else "lr")
    strengths, rates = HEAD_STRENGTHS, [kept.get("head")] * len(HEAD_STRENGTHS)
    if arm == "head":
        strengths, rates = [0.0] * len(RATES), RATES
    for number, inner in enumerate(inner_folds(part, seed)):
        rest = np.setdiff1d(np.arange(part.n), inner)
        learned, held = Part(vectors, own[rest], data), Part(vectors, own[inner], data)
        if arm.startswith("head"):
            found = fit_heads(arm, learned, strengths, rates, ridge, seed * 10 + number)(held.vectors)
            scored = dict(zip(rates if arm == "head" else strengths, found, strict=True))
        else:
            scored = {key: score(held.vectors) for key, score in candidates_of(arm, learned, ridge, seed).items()}
        for key, scores in scored.items():
            gained.setdefault(key, []).append(both_sources(scores, held))
    return max(gained, key=lambda key: np.mean(gained[key]))


def scores_of(arm, vectors, data, own, test, seed, kept):
    """Log-odds of the test masses, at the strength that inner folds choose, and that strength.

    The ridge is chosen first, without a graph, and so is the rate of the head; `kept` holds what was chosen here.
    """
    part = Part(vectors, own, data)
    needed = [arm.split("+")[0]] if arm.startswith("few") else ["lr", "head"] if arm.startswith("head") else ["lr"]
    for base in needed:
        if base not in kept:
            kept[base] = choose(base, part, vectors, data, own, kept, seed)
    chosen = kept[arm] if arm in kept else choose(arm, part, vectors, data, own, kept, seed)
    if arm.startswith("head"):
        strength = 0.0 if arm == "head" else chosen
        return fit_heads(arm, part, [strength], [kept["head"]], kept["lr"], seed)(vectors[:, test])[0], chosen
    return candidates_of(arm, part, kept[needed[0]], seed)[chosen](vectors[:, test]), chosen


def run(asked):
    """Add the rows that are not there yet: arm, fold, partition, mass, score."""
    done = jobs_done(asked.out)
    mass_set = read_sources(asked.data, ("benign", "malignant"), RoiSettings())
    data = Data(mass_set)
    features = features_of(mass_set.masses, asked.features, asked.factor)
    arms = asked.arms.split(",") if asked.arms else FIRST
    for seed in range(asked.first, asked.first + N_PARTITIONS):
        folds = make_folds(
            mass_set.patients, mass_set.image_names, mass_set.labels, N_FOLDS, rng=np.random.default_rng(seed)
        )
        for fold, split in enumerate(folds):
            if fold % asked.shards != asked.shard or all((arm, fold, seed) in done for arm in arms):
                continue
            own = np.setdiff1d(np.arange(len(data.labels)), split.test)
            vectors, kept = components(features, own), {}
            for arm in arms:
                if (arm, fold, seed) in done:
                    continue
                scores, chosen = scores_of(arm, vectors, data, own, split.test, seed, kept)
                add_rows(asked.out, arm, fold, seed, split.test, scores, chosen=chosen)


def rival_of(arm):
    """What an arm is to be better than."""
    if arm.startswith("few"):
        return arm.split("+")[0]
    return "head" if arm.startswith("head+") else "lr"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs=2, help="manifests of crops and of mammograms")
    parser.add_argument("--out", type=Path, required=True, help="rows, a .csv file")
    parser.add_argument("--features", type=Path, help="keep the features in this .npy file")
    parser.add_argument("--shard", type=int, default=0, help="take the folds of this shard alone")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--arms", help="separated by commas; all of the first question if not given")
    parser.add_argument("--first", type=int, default=0, help="first of the three partitions")
    parser.add_argument("--factor", type=float, default=1.6, help="padding factor of the boxes")
    parser.add_argument("--table", action="store_true", help="print the table of the rows there are")
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if not asked.table:
        run(asked)
    print(json.dumps(compared(areas_of(asked.data, asked.out), rival_of), indent=1))


if __name__ == "__main__":
    main()
