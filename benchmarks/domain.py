"""Does a model know when an image is none of its kind? Shares of masses flagged by what training keeps of its regions.

    python benchmarks/domain.py --json                      # needs ../shared/data/cbis-ddsm; seven minutes of one core
    python benchmarks/domain.py --json --quick              # a quarter of the held-out pictures
    python benchmarks/domain.py --json --embedding          # distances of embeddings instead; four minutes

No network is trained: the rule of docs/predict.md looks at facts of regions. `of_other_kind` has a share of masses that
should be flagged, `of_own_kind` one that should not; intervals are 95 % by patient.

- `crops, given mammograms`: facts of rois.csv, and the masses of mammograms.csv.
  `sizes not known` leaves the size of the region out, which alone tells the two apart.
- `mammograms`, `crops`, `both`: facts of four fifths of the patients, and the other fifth, each fifth in turn. `both`
  are two sources, each a kind of its own.
- the pictures made of one fifth's mammograms, by facts of the mammograms and of both: `ultrasound` (a fan of
  speckle), `inverted`, `clahe`, `gamma_0.4`, `gamma_2.5`, `stretched` (the middle half of the breast's grey values),
  and `phantom`, of diagnet.data.phantom. `enhanced` is the mean of the four that change the contrast.

With `--embedding`, a region is described by EfficientNet-Lite0's features instead. `nearest` has the shares beyond the
98 % quantile of the mean distance to five training masses, `outside` beyond that of the distance to their principal
components. No patient of the quantiles had a part in the distances.
"""

import argparse
import json
import tempfile
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.exposure import equalize_adapthist

from diagnet.data.domain import fit_domain
from diagnet.data.image import read_image
from diagnet.data.inbreast import read_inbreast
from diagnet.data.mammogram import scaled_over_breast
from diagnet.data.manifest import read_manifest
from diagnet.data.phantom import make_inbreast_release
from diagnet.data.region_facts import RegionFacts
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.evaluation.bootstrap import draw_patients, proportion
from diagnet.network import create_network

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbis-ddsm"
SETTINGS = RoiSettings()
N_PARTS, N_RESAMPLES, N_PHANTOM_PATIENTS = 5, 2000, 60
CHANGED_PART = 1  # whose mammograms are changed; part 0 was looked at when the facts were chosen
SIZES = ("side_px", "share", "side_mm")
LETTERS = "abcdefghijklmnopqrstuvwxyz "
ENHANCED = ("clahe", "gamma_0.4", "gamma_2.5", "stretched")


def facts_of(masses):
    """Measure regions, one row a mass."""
    facts = np.empty((len(masses), len(RegionFacts._fields)))
    read_rois(masses, SETTINGS, workers=1, facts=facts)
    return facts


def fan_of_speckle(image, rng):
    """Return a picture as ultrasound is shown: a fan, speckled, with logarithmic grey values; and where the fan is."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    down, across = rows + 0.15 * height, columns - width / 2
    distance, angle = np.hypot(down, across), np.arctan2(across, down)
    is_fan = (distance > 0.2 * height) & (distance < 1.1 * height) & (np.abs(angle) < 0.65)
    waves = rng.normal(size=(2, height, width))
    speckle = np.hypot(*(ndimage.gaussian_filter(wave, (0.8, 1.6)) for wave in waves))
    echo = (0.15 + image) * speckle / speckle.mean() * np.exp(-distance / height)
    return np.where(is_fan, np.clip(1 + np.log10(np.maximum(echo, 1e-3)) / 1.7, 0.02, 1), 0), is_fan


def stretched(image):
    low, high = np.quantile(image[image > 0.05], [0.25, 0.75])
    return np.clip((image - low) / (high - low), 0, 1)


CHANGES = {
    "inverted": lambda image: 1 - image,
    "clahe": lambda image: equalize_adapthist(image, clip_limit=0.03),
    "gamma_0.4": lambda image: image**0.4,
    "gamma_2.5": lambda image: image**2.5,
    "stretched": stretched,
}


def as_read(image):
    """Grey values as they come out of a file of 8 bits."""
    return scaled_over_breast(np.rint(255 * image))


def changed_facts(masses, rng, described=facts_of):
    """Facts of masses on changed pictures, by change."""
    found = {name: [] for name in ("ultrasound", *CHANGES)}
    by_image = {}
    for mass in masses:
        by_image.setdefault(mass.image, []).append(mass)
    order = [mass for group in by_image.values() for mass in group]
    for path, group in by_image.items():
        image = read_image(path)
        for name, change in CHANGES.items():
            picture = as_read(change(image))
            found[name] += list(described([replace(mass, image=picture) for mass in group]))
        fan, is_fan = fan_of_speckle(image, rng)
        fan = as_read(fan)
        for mass in group:
            x0, y0, x1, y1 = map(round, mass.box)
            box = mass.box
            if is_fan[y0:y1, x0:x1].mean() < 0.8:  # it would be refused as background: moved into the fan
                middle = [(side - mass.box[k] - mass.box[k + 2]) / 2 for k, side in enumerate(image.shape[::-1])]
                box = tuple(side + middle[k % 2] for k, side in enumerate(mass.box))
            found["ultrasound"] += list(described([replace(mass, image=fan, box=box)]))
    return order, {name: np.array(rows) for name, rows in found.items()}


def phantom(described=facts_of):
    """Masses of the synthetic release and their facts."""
    with tempfile.TemporaryDirectory() as folder:
        release = make_inbreast_release(
            Path(folder) / "release", n_patients=N_PHANTOM_PATIENTS, rng=np.random.default_rng(2)
        )
        masses = read_inbreast(release).masses
        return masses, described(masses)


def flagged(domain, facts):
    """Whether each is flagged, whether it is far, and the fact that was named of it."""
    verdicts = [domain.verdict(RegionFacts(*row)) for row in facts.tolist()]
    named = [
        "".join(letter for letter in each.reason.partition(",")[0] if letter in LETTERS).strip() for each in verdicts
    ]
    return np.array([each.is_unlike for each in verdicts]), np.array([each.is_far for each in verdicts]), named


def told(masses, is_unlike, is_far, named):
    """A share with its interval by patient, the share that is far, and the facts that were named most often."""
    numbers = np.unique([mass.patient_id for mass in masses], return_inverse=True)[1].astype(np.int64)
    counts = draw_patients(int(numbers.max()) + 1, N_RESAMPLES, rng=np.random.default_rng(0))
    return {
        "flagged": proportion(is_unlike, np.ones(len(masses), dtype=bool), numbers, counts, 0.95),
        "far": float(is_far.mean()),
        "n_masses": len(masses),
        "n_patients": int(numbers.max()) + 1,
        "named": dict(Counter(name for name in named if name).most_common(4)),
    }


def parts_of(masses):
    """A fifth for each patient, the same in both tables."""
    return np.array([zlib.crc32(mass.patient_id.encode()) % N_PARTS for mass in masses])


def figures(quick):
    tables = {
        name: read_manifest(DATA / table).masses
        for name, table in (("crops", "rois.csv"), ("mammograms", "mammograms.csv"))
    }
    facts = {name: facts_of(masses) for name, masses in tables.items()}
    tables["both"] = [*tables["crops"], *tables["mammograms"]]
    facts["both"] = np.concatenate([facts["crops"], facts["mammograms"]])
    own, other, domains = {}, {}, {}
    crops = fit_domain(facts["crops"], [mass.patient_id for mass in tables["crops"]])
    other["crops, given mammograms"] = told(tables["mammograms"], *flagged(crops, facts["mammograms"]))
    looks = {name: np.where(np.isin(RegionFacts._fields, SIZES), np.nan, rows) for name, rows in facts.items()}
    blind = fit_domain(looks["crops"], [mass.patient_id for mass in tables["crops"]])
    other["crops, given mammograms, sizes not known"] = told(tables["mammograms"], *flagged(blind, looks["mammograms"]))
    for name, masses in tables.items():
        part = parts_of(masses)
        is_unlike, is_far, named = np.zeros(len(masses), dtype=bool), np.zeros(len(masses), dtype=bool), []
        for k in range(N_PARTS):
            chosen = np.flatnonzero(part != k)
            of_table = ["crops" if i < len(tables["crops"]) else "mammograms" for i in chosen] if name == "both" else ()
            domain = fit_domain(facts[name][chosen], [masses[i].patient_id for i in chosen], of_table)
            is_unlike[part == k], is_far[part == k], why = flagged(domain, facts[name][part == k])
            named += why
            if k == CHANGED_PART:
                domains[name] = domain
        own[name] = told(masses, is_unlike, is_far, named)
    of_part = parts_of(tables["mammograms"]) == CHANGED_PART
    held_out = [mass for mass, is_in in zip(tables["mammograms"], of_part, strict=True) if is_in]
    order, changed = changed_facts(held_out[:: 4 if quick else 1], np.random.default_rng(0))
    phantoms, changed["phantom"] = phantom()
    changed["enhanced"] = np.concatenate([changed[each] for each in ENHANCED])
    whose = {"phantom": phantoms, "enhanced": order * len(ENHANCED)}
    for change, rows in changed.items():
        for name in ("mammograms", "both"):
            other[f"{change}, by {name}"] = told(whose.get(change, order), *flagged(domains[name], rows))
    return {"of_own_kind": own, "of_other_kind": other}


def embedding_of(network, masses):
    """EfficientNet-Lite0's features of regions, each scaled to its own range."""
    regions = torch.from_numpy(read_rois(masses, RoiSettings(size=128), workers=1))[:, None]
    with torch.inference_mode():
        return torch.cat([network.features(part) for part in regions.split(32)]).numpy()


def distances(rows, known, n_components=32, n_nearest=5):
    """Mean distance to the nearest known rows in their whitened principal components, and to the space of these."""
    center, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    known, rows = (known - center) / scale, (rows - center) / scale
    sizes, axes = np.linalg.svd(known, full_matrices=False)[1:]
    axes, spreads = axes[:n_components], sizes[:n_components] / np.sqrt(len(known))
    near = np.sort(cdist(rows @ axes.T / spreads, known @ axes.T / spreads), axis=1)[:, :n_nearest].mean(axis=1)
    return {"nearest": near, "outside": np.linalg.norm(rows - rows @ axes.T @ axes, axis=1)}


def embedding_figures(quick):
    """Shares of masses beyond the limits of distances in embedding space."""
    torch.manual_seed(0)
    network = create_network("lite0").eval()
    masses = read_manifest(DATA / "mammograms.csv").masses
    part, rows = parts_of(masses), embedding_of(network, masses)
    is_known = part != CHANGED_PART
    known, numbers = rows[is_known], np.unique([m.patient_id for m in masses], return_inverse=True)[1][is_known]
    left_out = {"nearest": np.zeros(len(known)), "outside": np.zeros(len(known))}
    for k in range(N_PARTS):
        is_out = numbers % N_PARTS == k
        for name, found in distances(known[is_out], known[~is_out]).items():
            left_out[name][is_out] = found
    limits = {name: np.quantile(found, 0.98) for name, found in left_out.items()}
    held_out = [mass for mass, is_in in zip(masses, is_known, strict=True) if not is_in]
    described = partial(embedding_of, network)
    changed = changed_facts(held_out[:: 4 if quick else 1], np.random.default_rng(0), described)[1]
    changed |= {"mammograms": rows[~is_known], "phantom": phantom(described)[1]}
    return {
        name: {which: float((away > limits[which]).mean()) for which, away in distances(each, known).items()}
        for name, each in changed.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a quarter of the changed pictures")
    parser.add_argument("--embedding", action="store_true", help="distances of embeddings instead of facts")
    asked = parser.parse_args()
    if asked.embedding:
        print(json.dumps({"quick": asked.quick, "beyond": embedding_figures(asked.quick)}, indent=1))
        return
    found = {"quick": asked.quick, **figures(asked.quick)}
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for kind in ("of_own_kind", "of_other_kind"):
        for name, each in found[kind].items():
            low, value, high = (each["flagged"][side] for side in ("low", "value", "high"))
            print(f"{kind:14} {name:32} {value:.3f} ({low:.3f} to {high:.3f}), far {each['far']:.3f}")


if __name__ == "__main__":
    main()
