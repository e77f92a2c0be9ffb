"""What other boxes, noise and grey values cost a run of several folds, on masses that each network never saw.

    python benchmarks/other_boxes.py RUN rois.csv mammograms.csv --json    # what RUN was trained on, in its order

Each mass is scored by the network of the fold it was tested in. The AUC of each source is given for padding factors,
for half of the flips with boxes x 1.1, for noise on the region (standard deviations of the grey scale, after it is
scaled to its own range), for a gamma of the whole image, and for a wide window of it at 12 and at 8 bits; and its
difference to padding factor 1.6 without noise.
Intervals are 95 % by patient.
"""

import argparse
import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from resampled import told, weights_of

from diagnet.data.image import read_image
from diagnet.data.regions import read_rois
from diagnet.data.roi import flipped
from diagnet.data.sources import read_sources
from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.inference.model import load_model
from diagnet.memory import keep_freed_memory
from diagnet.network import create_network
from diagnet.run.tables import read_split
from diagnet.training.scoring import embeddings_and_logits

MARGINS, NOISES, GAMMAS, BITS = (1.0, 1.1, 1.6, 2.2), (0.02, 0.05), (0.4, 2.5), (12, 8)
TWO = "x 1.6 and x 1.1"


def scored(model, folds, images):
    """Log-odds of malignancy, each mass by the network of its fold; of two regions, two flips each are averaged."""
    found = np.empty(len(folds))
    for fold, network in enumerate(model.networks):
        rows = np.flatnonzero(folds == fold)
        if isinstance(images, tuple):
            logits = logits_of_two(network, *(each[rows] for each in images))
        else:
            logits = embeddings_and_logits(network, images, rows=rows)[1]
        found[rows] = (logits[:, 1] - logits[:, 0]) / model.temperatures[fold]
    return found


def logits_of_two(network, first, second):
    """Mean logits of the first region as it is and flipped both ways, and of the second flipped one way each."""
    single = create_network(network.settings.model_copy(update={"average_flips": False})).eval()
    single.load_state_dict(network.state_dict())
    passes = [(first, False, False), (first, True, True), (second, True, False), (second, False, True)]
    return np.mean([embeddings_and_logits(single, flipped(*each))[1] for each in passes], axis=0)


def on_changed_images(masses, settings, change):
    """Regions of the same masses on images whose grey values are changed."""
    images, regions = {}, []
    for mass in masses:
        if mass.image not in images:
            images = {mass.image: change(read_image(mass.image))}  # one at a time: masses lie in order
        regions.append(read_rois([replace(mass, image=images[mass.image])], settings, workers=1))
    return np.concatenate(regions)


def bent(gamma, image):
    """Another gamma."""
    return image ** np.float32(gamma)


def windowed(bits, image):
    """A window four times as wide as the grey values, whose middle is elsewhere, stored with so many bits."""
    levels = np.float32(2**bits - 1)
    return np.round((np.float32(0.1) + image / 4) * levels) / levels


def looks(masses, settings):
    """Name of a change, and a function that makes its regions."""

    @cache
    def cut(margin):
        return read_rois(masses, settings.model_copy(update={"padding_factor": margin}))

    found = {f"x {margin:g}": partial(cut, margin) for margin in MARGINS}
    found[TWO] = lambda: (cut(settings.padding_factor), cut(1.1))
    for noise in NOISES:
        found[f"noise {noise:g}"] = lambda noise=noise: noisy(cut(settings.padding_factor), noise)
    for gamma in GAMMAS:
        found[f"gamma {gamma:g}"] = partial(on_changed_images, masses, settings, partial(bent, gamma))
    for bits in BITS:
        found[f"wide window at {bits} bits"] = partial(on_changed_images, masses, settings, partial(windowed, bits))
    return found


def noisy(usual, noise):
    """Regions with even noise."""
    added = np.random.default_rng(0).standard_normal(usual.shape, dtype=np.float32)
    return np.clip(usual + np.float32(noise) * added, 0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--only", help="changes, separated by commas; all if not given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    keep_freed_memory()
    model = load_model(asked.run, engine="torch")
    mass_set = read_sources(asked.data, model.classes, model.roi)
    tested = {mass.index: mass.fold for mass in read_split(asked.run) if mass.part == "test"}
    rows = np.array(sorted(tested))
    masses = [mass_set.masses[row] for row in rows]
    folds, labels = np.array([tested[row] for row in rows]), mass_set.labels[rows] == 1
    sources, patients = np.array([mass.source for mass in masses]), mass_set.patient_numbers[rows]
    weights = weights_of(patients)
    areas = {}
    wanted = asked.only.split(",") if asked.only else None
    for name, make in looks(masses, model.roi).items():
        if wanted is not None and name not in (*wanted, "x 1.6"):
            continue
        scores = scored(model, folds, make())
        for source in np.unique(sources):
            here = sources == source
            areas[source, name] = weighted_auc(scores[here], labels[here], weights[:, here].astype(np.float64))
    found = {
        f"{source}, {name}".removeprefix(", "): {"auc": told(area), "difference": told(area - areas[source, "x 1.6"])}
        for (source, name), area in areas.items()
    }
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, each in found.items():
        print(f"{name:28} {each['auc']['value']:.3f}  {each['difference']}")


if __name__ == "__main__":
    main()
