"""One run minus another on the same masses and folds: AUC by source, out of fold, with a paired interval by patient.

    python benchmarks/two_runs.py FIRST SECOND --json    # folders of runs; shipped: the model that comes with diagnet

Both runs must have tested the same masses in the same folds. Scores are the calibrated ones of predictions.csv; the
AUC is of all masses of a source together, and once more the mean of the folds' own.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from resampled import told, weights_of

from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.inference.predictor import shipped_run


def read(run):
    """Rows of predictions.csv by mass."""
    folder = shipped_run() if str(run) == "shipped" else run
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["index"]): row for row in csv.DictReader(file)}


def areas(scores, targets, weights, folds=None):
    """AUC of each row of weights; with `folds`, the mean of the folds' own."""
    if folds is None:
        return weighted_auc(scores, targets, weights)
    parts = [folds == fold for fold in sorted(set(folds))]
    return np.mean([weighted_auc(scores[part], targets[part], weights[:, part]) for part in parts], axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    runs = read(asked.first), read(asked.second)
    index = sorted(runs[0])
    same = ("source", "patient_id", "fold", "label")
    columns = [{name: [rows[k][name] for k in sorted(rows)] for name in same} for rows in runs]
    if columns[0] != columns[1] or index != sorted(runs[1]):
        raise SystemExit("both runs must have tested the same masses in the same folds")
    source, patients, folds, labels = (np.array(columns[0][name]) for name in same)
    scores = [np.array([float(rows[k]["malignancy"]) for k in index]) for rows in runs]
    found = {}
    for name in sorted(set(source)):
        here = source == name
        weights = weights_of(np.unique(patients[here], return_inverse=True)[1])
        of = [
            [areas(each[here], labels[here] == "malignant", weights, by) for by in (None, folds[here])]
            for each in scores
        ]
        (first, first_by_fold), (second, second_by_fold) = of
        found[name] = {
            "masses": int(here.sum()),
            "first": told(first),
            "second": told(second),
            "first_minus_second": told(first - second),
            "mean_of_folds": {"first": told(first_by_fold), "first_minus_second": told(first_by_fold - second_by_fold)},
        }
    print(json.dumps(found, indent=None if asked.json else 1))


if __name__ == "__main__":
    main()
