"""What nearness in pixels knows of the classes: the ground a signed graph in image space (Eq. 3) is built on.

    python benchmarks/image_neighbors.py ../shared/data/cbis-ddsm/rois.csv --json

For each mass, by the cosine distance of its region's grey values (preset `small`), masses of the same patient left out:
how often the nearest mass is of the other class, and the area under the ROC curve of the share of malignant ones among
the 15 nearest. Intervals by a bootstrap of patients. Seconds.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from diagnet.config import Config
from diagnet.data.mass import malignant_class
from diagnet.data.prepared import read_data
from diagnet.data.regions import read_rois
from diagnet.distance import cosine_distance
from diagnet.evaluation.bootstrap import draw_patients, interval, proportion, weighted_auc

N_VOTES = 15


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a manifest of masses")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    config = Config.from_preset("small")
    masses = read_data(arguments.data, config.classes)
    regions = read_rois(masses.masses, config.roi).reshape(len(masses.labels), -1)
    targets, patients = masses.labels == malignant_class(masses.classes), masses.patient_numbers

    apart = cosine_distance(regions, regions)
    apart[patients[:, None] == patients] = np.inf
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :N_VOTES]
    counts = draw_patients(int(patients.max()) + 1, 2000, rng=np.random.default_rng(0))
    votes, weights = targets[nearest].mean(axis=1), counts[:, patients].astype(np.float64)
    area = weighted_auc(votes, targets, np.ones((1, len(targets))))[0]
    figures = {
        "n_masses": len(targets),
        "nearest_is_of_the_other_class": proportion(
            targets[nearest[:, 0]] != targets, np.ones_like(targets), patients, counts, 0.95
        ),
        f"auc_of_{N_VOTES}_votes": interval(float(area), weighted_auc(votes, targets, weights), 0.95, counts.shape[1]),
    }
    print(json.dumps(figures, indent=None if arguments.json else 1))


if __name__ == "__main__":
    main()
