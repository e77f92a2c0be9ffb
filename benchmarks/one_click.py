"""Does one click inside a mass find its box? Overlap with the boxes of CBIS-DDSM's mammograms, and time a click.

    python benchmarks/one_click.py --json                    # needs ../shared/data/cbis-ddsm; five minutes of one core
    python benchmarks/one_click.py --json --tuning           # the half that the method was chosen on, instead
    python benchmarks/one_click.py --train OUT.safetensors   # how weights/one_click.safetensors was made; ten minutes

Patients are halved by a hash of their names: the network was trained, and everything about it chosen, on one half; the
other is reported. Each mammogram is brought back to its released size (a median of 15 million pixels) and read as
`diagnet serve` would hold it. The overlap is the intersection over the union of the box found and the given one.

Clicks, one a mass: `near` are normally distributed about the box's center, with a deviation of an eighth of its sides;
`middle` are uniform over the middle half of the box, across and down. `milliseconds` have no reading of the file, which
the server holds by then. Intervals are 95 % by patient. For comparison: `square`, a square of the tuning half's median
side about the click, and `watershed`, scikit-image's on the gradient, with its best setting on the tuning half.
"""

import argparse
import csv
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from skimage.segmentation import watershed
from torch.nn import functional

from diagnet.data.box import Box
from diagnet.data.mammogram import Mammogram, scaled_over_breast
from diagnet.inference.one_click import TYPICAL, BoxNetwork, box_at, surroundings, units

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbis-ddsm"
N_VARIANTS, N_EPOCHS, BATCH, N_RESAMPLES, SQUARE = 16, 150, 64, 2000, 46.0


def masses(data, *, tuning):
    """Yield the masses of a half of the patients whose mammograms' size is known, image by image."""
    rows = list(csv.DictReader((data / "mammograms.csv").open()))
    for row in rows:
        in_second = int(hashlib.sha256(row["patient_id"].encode()).hexdigest(), 16) % 2
        if row["original_width"] and bool(in_second) != tuning:
            yield row


def opened(data, row, longer=None):
    """Read a mammogram in its proportions, and the mass' box in it; `longer` side in pixels, None as released."""
    size = np.array([float(row["original_width"]), float(row["original_height"])])
    size = np.rint(size * (longer / size.max() if longer else 1)).astype(int)
    with Image.open(data / row["image"]) as file:
        stretched = scaled_over_breast(np.asarray(file.convert("L"), dtype=np.float32))
    pixels = np.asarray(Image.fromarray(stretched).resize(tuple(size), Image.Resampling.BILINEAR))
    corners = np.array([float(row[name]) for name in ("x0", "y0", "x1", "y1")]).reshape(2, 2) * size / 800
    return Mammogram(pixels=pixels.clip(0, 1)), Box(*corners.ravel())


def click(box, rng, kind):
    """Where a reader clicks."""
    across, down = np.clip(rng.normal(0, 0.125, 2), -0.45, 0.45) if kind == "near" else rng.uniform(-0.25, 0.25, 2)
    return (box.x0 + box.x1) / 2 + across * box.width, (box.y0 + box.y1) / 2 + down * box.height


def overlap(a, b):
    """Intersection over union."""
    both = Box(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))
    shared = both.width * both.height if both.has_area else 0.0
    return shared / (a.width * a.height + b.width * b.height - shared)


def square(mammogram, x, y):
    """Return what needs no picture."""
    half_x, half_y = (SQUARE / 2 * unit for unit in units(mammogram))
    return Box(x - half_x, y - half_y, x + half_x, y + half_y)


def by_watershed(mammogram, x, y, smooth=1.0, outside=40):
    """Return what floods from the click before it floods from a circle of `outside` units around it."""
    reach, unit = 64, units(mammogram)[0]
    grid = [np.arange(-reach, reach + 1) * unit + at for at in (y, x)]
    patch = ndimage.map_coordinates(mammogram.pixels, np.meshgrid(*grid, indexing="ij"), order=1)
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    seeds = np.where(away <= 4, 1, np.where(away >= outside, 2, 0))
    inside = watershed(ndimage.gaussian_gradient_magnitude(patch, smooth), seeds) == 1
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    x0, y0, x1, y1 = (unit * (place - reach) for place in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Box(x + x0, y + y0, x + x1, y + y1)


def measure(data, *, tuning, every):
    """Figures of one half of the patients."""
    ways = {"one click": box_at, "square": square, "watershed": by_watershed}
    rows = list(masses(data, tuning=tuning))[::every]
    patients = np.unique([row["patient_id"] for row in rows], return_inverse=True)[1]
    found = {kind: {name: [] for name in ways} for kind in ("near", "middle")}
    milliseconds, sizes = [], []
    for number, row in enumerate(rows):
        mammogram, box = opened(data, row)
        sizes.append(mammogram.pixels.size)
        for kind, of_kind in found.items():
            place = click(box, np.random.default_rng([number, kind == "near"]), kind)
            for name, way in ways.items():
                began = time.perf_counter()
                of_kind[name].append(overlap(way(mammogram, *place), box))
                if name == "one click":
                    milliseconds.append(1000 * (time.perf_counter() - began))
    members = [np.flatnonzero(patients == k) for k in range(patients.max() + 1)]
    drawn = np.random.default_rng(0).integers(0, len(members), (N_RESAMPLES, len(members)))
    drawn = [np.concatenate([members[k] for k in each]) for each in drawn]
    overlaps = {
        kind: {name: _summary(np.array(values), drawn) for name, values in of_kind.items()}
        for kind, of_kind in found.items()
    }
    return {
        "masses": len(rows),
        "patients": len(members),
        "median_pixels": int(np.median(sizes)),
        "overlap": overlaps,
        "milliseconds": dict(zip(("median", "p95", "most"), _percentiles(milliseconds, [50, 95, 100], 1), strict=True)),
    }


def _summary(values, drawn):
    return {
        "quartiles": _percentiles(values, [25, 50, 75], 3),
        "interval_of_median": _percentiles([np.median(values[each]) for each in drawn], [2.5, 97.5], 3),
        "share_above_half": round(float((values > 0.5).mean()), 3),
    }


def _percentiles(values, which, digits):
    return np.percentile(values, which).round(digits).tolist()


def train(data, out):
    """Train on the tuning half: clicks of both kinds, turned, mirrored, larger and smaller, brighter and noisier."""
    rng = np.random.default_rng(1)
    torch.manual_seed(0)
    pictures, distances = [], []
    for row in masses(data, tuning=True):
        mammogram, box = opened(data, row, longer=800)
        for variant in range(N_VARIANTS):
            x, y = click(box, rng, ("near", "middle")[variant % 2])
            unit = np.exp(rng.normal(0, 0.15)) * units(mammogram)[0]
            pictures.append(surroundings(mammogram.pixels, x, y, unit, unit).astype(np.float16))
            distances.append(np.array([x - box.x0, y - box.y0, box.x1 - x, box.y1 - y], np.float32) / unit)
    inputs, wanted = torch.from_numpy(np.array(pictures)), torch.from_numpy(np.array(distances))
    n = len(inputs) // N_VARIANTS
    network, n_steps = BoxNetwork(), n // BATCH
    torch.nn.init.zeros_(network.layers[-1].weight)
    torch.nn.init.zeros_(network.layers[-1].bias)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=N_EPOCHS * n_steps + 1, pct_start=0.1)
    for _ in range(N_EPOCHS):
        for chosen in torch.randperm(n)[: n_steps * BATCH].split(BATCH):
            at = chosen * N_VARIANTS + torch.randint(N_VARIANTS, (BATCH,))
            x, (left, up, right, down) = inputs[at].float(), wanted[at].T
            mirrored, upset, turned = torch.rand(3) < 0.5
            if mirrored:
                x, left, right = x.flip(3), right, left
            if upset:
                x, up, down = x.flip(2), down, up
            if turned:
                x, left, up, right, down = x.transpose(2, 3), up, left, down, right
            x = x * (1 + 0.1 * torch.randn(BATCH, 1, 1, 1)) + 0.1 * torch.randn(BATCH, 1, 1, 1)
            got, real = network(x + 0.05 * torch.randn_like(x)), torch.stack([left, up, right, down], 1)
            nearer = torch.minimum(got, real)
            shared = (nearer[:, 0] + nearer[:, 2]) * (nearer[:, 1] + nearer[:, 3])
            areas = [(each[:, 0] + each[:, 2]) * (each[:, 1] + each[:, 3]) for each in (got, real)]
            loss = (1 - shared / (sum(areas) - shared)).mean()
            loss = loss + 0.2 * functional.l1_loss((got / TYPICAL).log(), (real / TYPICAL).clamp(1 / TYPICAL).log())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights = network.state_dict().items()
    save_file({name: value.half() if value.is_floating_point() else value for name, value in weights}, out)


def main():
    """Print figures, or write weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    parser.add_argument("--tuning", action="store_true", help="the half that the method was chosen on")
    parser.add_argument("--every", type=int, default=1, help="one mass in so many")
    parser.add_argument("--train", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train:
        train(args.data, args.train)
        return
    found = measure(args.data, tuning=args.tuning, every=args.every)
    print(json.dumps(found, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
