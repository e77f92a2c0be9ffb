"""How often do a study's 95 % intervals hold the truth? Simulated studies in which the truth is known.

    python benchmarks/intervals.py --json                # half an hour of one core
    python benchmarks/intervals.py --json --studies 200  # six minutes: the figures of docs/evidence/studies.md

Each study has four folds of 80 patients. Patients differ in how hard their mass is, each training errs on masses of
its own, and trainings differ in quality by their seed. Three ways to make the interval are compared: patients alone,
as one-seed rows had it until November 2026; patients and the seeds' own part of the spread between repeats (what
`diagnet.study.results.seed_luck` does); patients and the whole spread, which counts what the patients' draw already
holds.

In `same_draws` five arms learn from the same drawn masses in each of three repeats, and no other arm lends. Their
differences are taken as those of arms that share nothing (`apart`), or that share the draw (`paired`).
"""

import argparse
import json

import numpy as np
from scipy.special import erf

from diagnet.study.results.scores import Scores, Truth, percentiles, resampled
from diagnet.study.results.seed_luck import SeedLuck

FOLDS, MASSES = 4, 80  # of a fold, one to a patient
QUALITY = 0.15  # spread of the trainings' quality, in standard deviations of a score
DRAW = 0.3  # the same by the masses that were drawn for training
N_RESAMPLES = 500
LENDERS = 8


def made_truth():
    targets = np.tile(np.arange(MASSES) % 2 == 1, FOLDS)
    return Truth(targets, np.arange(FOLDS * MASSES), np.repeat(np.arange(FOLDS), MASSES))


def made_arm(truth, hard, repeats, rng, drawn=0):
    """Scores of an arm's trainings on masses of given difficulty; what they learned from is worth `drawn`."""
    signal = 1 + drawn + QUALITY * rng.standard_normal((repeats, FOLDS))[:, truth.folds]
    own = rng.standard_normal((repeats, len(hard)))
    return Scores("", signal * truth.targets + (hard + own) / 2**0.5, np.ones(repeats * FOLDS))


def expected_auc():
    signal = 1 + QUALITY * np.random.default_rng(0).standard_normal(1_000_000)
    return float((0.5 + 0.5 * erf(signal / 2)).mean())


def covers(figures, truth):
    interval = percentiles(figures)
    return interval["low"] <= truth <= interval["high"]


def coverage(repeats, n_studies):
    """Share of the intervals that hold the truth, for an AUC and for a difference of two alike arms."""
    truth, rng, expected = made_truth(), np.random.default_rng(repeats), expected_auc()
    hits = {(figure, how): 0 for figure in ("auc", "difference") for how in ("patients", "seeds", "whole_spread")}
    for _ in range(n_studies):
        hard = rng.standard_normal(len(truth.targets))
        first, second = (made_arm(truth, hard, repeats, rng) for _ in range(2))
        lenders = [made_arm(truth, hard, 3, rng) for _ in range(LENDERS)] + ([first, second] if repeats > 1 else [])
        luck = SeedLuck.of([], truth, lenders=lenders)
        of_masses = np.mean([found.masses for _, found in luck.measured])
        for how in ("patients", "seeds", "whole_spread"):
            alone, both = luck.of_arm(first).seed, luck.of_difference(first, second).seed
            if how == "patients":
                alone = both = 0.0
            if how == "whole_spread":
                alone, both = alone + of_masses, both + 2 * of_masses
            figures = resampled(first, truth, n_resamples=N_RESAMPLES, seed_variance=alone)
            hits["auc", how] += covers(figures, expected)
            figures = resampled(first, truth, against=second, n_resamples=N_RESAMPLES, seed_variance=both)
            hits["difference", how] += covers(figures, 0)
    return {f"{figure}_{how}": round(n / n_studies, 3) for (figure, how), n in hits.items()}


def coverage_of_same_draws(n_studies, n_arms=5, repeats=3):
    """Fraction of the intervals of a difference of two alike arms that hold 0, and how wide they are."""
    truth, rng = made_truth(), np.random.default_rng(5)
    hits, widths = {"apart": 0, "paired": 0}, {"apart": [], "paired": []}
    for _ in range(n_studies):
        hard = rng.standard_normal(len(truth.targets))
        drawn = DRAW * rng.standard_normal((repeats, FOLDS))[:, truth.folds]
        arms = [made_arm(truth, hard, repeats, rng, drawn) for _ in range(n_arms)]
        for how, groups in (("apart", []), ("paired", [arms])):
            luck = SeedLuck.of(arms[:2], truth, lenders=[], same_draws=groups).of_difference(*arms[:2])
            figures = resampled(arms[0], truth, against=arms[1], n_resamples=N_RESAMPLES, seed_variance=luck.seed)
            interval = percentiles(figures)
            hits[how] += covers(figures, 0)
            widths[how].append(interval["high"] - interval["low"])
    figures = {how: round(n / n_studies, 3) for how, n in hits.items()}
    return {
        **figures,
        "width_paired_over_apart": round(float(np.median(widths["paired"]) / np.median(widths["apart"])), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--studies", type=int, default=1000)
    arguments = parser.parse_args()
    figures = {f"{n}_repeats": coverage(n, arguments.studies) for n in (1, 3)}
    figures["same_draws"] = coverage_of_same_draws(arguments.studies)
    print(json.dumps({"studies": arguments.studies, **figures}, indent=1 if arguments.json else None))


if __name__ == "__main__":
    main()
