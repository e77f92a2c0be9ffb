"""Speed of the neighbor search, against what a user would otherwise have: zoopt's SRACOS and scikit-learn's SVC.

    python benchmarks/neighbors.py --json                    # about four minutes on two cores
    python benchmarks/neighbors.py --json --quick            # fewer repetitions: for a look, not for the record

Every comparison is a ratio of medians measured in one run, in turns. Real masses are read from --data (a folder with
rois.csv); where it is missing, what needs them is skipped and said so.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from zoopt import Dimension, Objective, Opt, Parameter, Solution

from diagnet.neighbor_search import NeighborSearch
from diagnet.neighbors import NeighborSettings, find_neighbors
from diagnet.racos import minimize
from diagnet.search_space import component_space, pixel_space

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbis-ddsm"
SIZE = 224
N_ORIGINALS = 172  # of one class: 43 training masses of INbreast and their flips
BUDGET = 200


def read_crops(folder, size, n_per_class=None):
    """Mass crops of `rois.csv` as (n, size, size) float32 in [0, 1], their labels and patients."""
    images, labels, patients = [], [], []
    with (folder / "rois.csv").open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            label = {"benign": 0, "malignant": 1}.get(row["label"])
            if label is None or (n_per_class is not None and labels.count(label) >= n_per_class):
                continue
            crop = PIL.Image.open(folder / row["image"]).convert("L")
            crop = crop.resize((size, size), PIL.Image.Resampling.BILINEAR)
            images.append(np.asarray(crop, dtype=np.float32) / 255)
            labels.append(label)
            patients.append(row["patient_id"])
    return np.stack(images), np.array(labels), np.array(patients)


def with_flips(images):
    """Originals and their three mirror images."""
    return np.concatenate([images[:, ::v, ::h] for v in (1, -1) for h in (1, -1)])


def search_settings(mode, budget):
    """Settings of a search; in pixels as in the preset `paper`."""
    letter = mode == "pixel"
    return NeighborSettings(
        search_space=mode,
        enforce_rules=not letter,
        no_copies=not letter,
        start_originals=10 if letter else 1,
        budget=budget,
    )


def make_search(originals, mode, sign=1, kept=0):
    """Return the search of one class with `kept` noisy copies as neighbors found so far."""
    flat = np.ascontiguousarray(originals.reshape(len(originals), -1))
    rng = np.random.default_rng(0)
    dots = flat.astype(np.float64) @ flat.astype(np.float64).T
    unit = dots / np.sqrt(np.outer(dots.diagonal(), dots.diagonal()))
    rho = float((1 - unit[np.triu_indices(len(unit), 1)]).min())
    settings = search_settings(mode, BUDGET)
    if mode == "pixel":
        space = pixel_space(flat, rho, "cosine", rng=rng)
    else:
        space = component_space(flat, dots, sign, rho, "cosine", n_components=settings.n_components, rng=rng)
    search = NeighborSearch(space, dots, sign, rho, kept + 64, settings, rng=rng)
    for image in noisy(flat[:kept], rng):
        search.keep(image)
    return search


def noisy(images, rng, strength=0.05):
    """Copies with Gaussian noise."""
    return np.clip(images + strength * rng.standard_normal(images.shape, dtype=np.float32), 0, 1)


def seconds(job):
    """How long a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def reference_evaluations(originals, n_generated, n_evaluations):
    """Seconds per evaluation of zoopt's SRACOS with an SVC refitted on pixels at every one of them.

    The machine knows `n_generated` points: the neighbors kept and the candidates tried half-way through.
    """
    flat = originals.reshape(len(originals), -1)
    rng = np.random.default_rng(0)
    generated = list(noisy(flat[rng.integers(len(flat), size=n_generated)], rng))
    times = [time.perf_counter()]

    def objective(solution):
        x = np.asarray(solution.get_x(), dtype=np.float32)
        points = np.concatenate([flat, np.stack(generated)])
        truth = np.arange(len(points)) < len(flat)
        machine = SVC(C=1.0, kernel="rbf", gamma="scale", class_weight="balanced").fit(points, truth)
        value = -1 / (1 + np.exp(-machine.decision_function(x[None])[0]))
        generated.append(x)
        times.append(time.perf_counter())
        return float(value)

    n = flat.shape[1]
    dimension = Dimension(n, [[0, 1]] * n, [True] * n)
    seeds = [Solution(x=row.tolist()) for row in noisy(flat[:10], rng)]
    with contextlib.redirect_stdout(io.StringIO()):
        parameter = Parameter(budget=12 + n_evaluations, init_samples=seeds, seed=1)
        Opt.min(Objective(objective, dimension), parameter)
    return np.diff(times)[-n_evaluations:].tolist()  # the start of a search proposes nothing


def speed_of_evaluations(folder, quick):
    """speedup_per_evaluation, and where the time goes."""
    originals = read_crops(folder, SIZE, N_ORIGINALS)
    originals = originals[0][originals[1] == 0]
    kept = N_ORIGINALS // 10  # half-way through 20 %
    searches = {mode: make_search(originals, mode, kept=kept) for mode in ("pixel", "subspace")}
    ours = {mode: [] for mode in searches}
    for mode, search in searches.items():
        search.find(np.random.default_rng(99))  # warm
        for i in range(3 if quick else 9):
            ours[mode].append(seconds(lambda s=search, i=i: s.find(np.random.default_rng(i))) / BUDGET)
    theirs = reference_evaluations(originals, kept + BUDGET // 2, 3 if quick else 9)
    reference = statistics.median(theirs)
    return {
        "reference_evaluation_s": reference,
        "pixel_evaluation_s": statistics.median(ours["pixel"]),
        "subspace_evaluation_s": statistics.median(ours["subspace"]),
        "speedup_per_evaluation": reference / statistics.median(ours["pixel"]),
        "speedup_per_evaluation_subspace": reference / statistics.median(ours["subspace"]),
    }


def growth_with_size(folder, quick):
    """size_ratio: time per neighbor at 224 x 224 over 64 x 64."""
    result = {}
    crops = {size: read_crops(folder, size, N_ORIGINALS) for size in (64, SIZE)}
    originals = {size: images[labels == 0] for size, (images, labels, _) in crops.items()}
    for mode, name in (("subspace", "size_ratio"), ("pixel", "size_ratio_pixel")):
        searches = {size: make_search(images, mode) for size, images in originals.items()}
        times = {size: [] for size in searches}
        for i in range(4 if quick else 16):
            for size, search in searches.items():
                times[size].append(seconds(lambda s=search, i=i: s.find(np.random.default_rng(i))))
        medians = {size: statistics.median(values[1:]) for size, values in times.items()}
        result[name] = medians[SIZE] / medians[64]
        result[name.replace("size_ratio", "neighbor_s")] = medians[SIZE]
    return result


def paper_augmentation(folder, quick):
    """paper_augmentation_s: both classes, both signs, INbreast's size, on two cores; memory; bit-equality."""
    images, labels, _ = read_crops(folder, SIZE, N_ORIGINALS // 4)
    images, labels = with_flips(images), np.tile(labels, 4)
    budget = 20 if quick else BUDGET
    result = {"paper_augmentation_originals": len(images), "paper_augmentation_budget": budget}
    for mode in ("subspace", "pixel"):
        settings = search_settings(mode, budget)
        suffix = "_pixel" if mode == "pixel" else ""
        digests = []
        for workers in (2, 1):
            peak = PeakMemory()
            with peak:
                start = time.perf_counter()
                found = find_neighbors(images, labels, settings, rng=np.random.default_rng(0), workers=workers)
                took = time.perf_counter() - start
            digests.append(hashlib.sha256(found.images.tobytes()).hexdigest())
            if workers == 2:
                result[f"paper_augmentation_s{suffix}"] = took
                result[f"paper_augmentation_peak_gb{suffix}"] = peak.gigabytes
            else:
                result[f"paper_augmentation_one_worker_s{suffix}"] = took
        result[f"paper_augmentation_bit_equal{suffix}"] = len(set(digests)) == 1
        result[f"paper_augmentation_neighbors{suffix}"] = len(found.kinds)
        result[f"paper_augmentation_kept_rules{suffix}"] = float(found.keeps_rules.mean())
    return result


class PeakMemory:
    """Largest memory of this process and its workers, sampled; pages that they share count once (Linux)."""

    def __enter__(self):
        self.gigabytes, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.2):
            self.gigabytes = max(self.gigabytes, sum(_proportional_kb(pid) for pid in _family(os.getpid())) / 1e6)


def _family(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    threads = Path(f"/proc/{pid}/task")
    if threads.is_dir():
        for task in threads.iterdir():
            with contextlib.suppress(OSError):
                children += (task / "children").read_text().split()
    return {pid} | {found for child in set(children) for found in _family(int(child))}


def _proportional_kb(pid):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def zoopt_best(function, n, edge, budget, seed):
    """Best value zoopt finds."""
    dimension = Dimension(n, [[-edge, edge]] * n, [True] * n)
    objective = Objective(lambda solution: function(np.array(solution.get_x())), dimension)
    with contextlib.redirect_stdout(io.StringIO()):
        return float(Opt.min(objective, Parameter(budget=budget, seed=seed)).get_value())


def our_best(function, n, edge, budget, seed):
    """Best value we find."""
    box = np.full(n, float(edge))
    return float(minimize(function, -box, box, budget=budget, rng=np.random.default_rng(seed)).fun)


def one_plus_one_best(function, n, edge, budget, seed):
    """Best value of a (1 + 1) evolution strategy with the one-fifth rule, as Nevergrad's OnePlusOne is one."""
    rng = np.random.default_rng(seed)
    x, step = rng.uniform(-edge, edge, n), edge / 3
    best = function(x)
    for _ in range(budget - 1):
        there = np.clip(x + step * rng.standard_normal(n), -edge, edge)
        value = function(there)
        if value <= best:
            x, best, step = there, value, step * np.exp(1 / 3)
        else:
            step *= np.exp(-1 / 12)
    return best


def racos_step(quick):
    """racos_step_speedup at D = 50,176: difference of two budgets, so that the start is not counted."""
    n, few, many = SIZE * SIZE, 20, 40 if quick else 80

    def function(x):
        return float(((x[:50] - 0.2) ** 2).sum())

    def per_step(best, few, many):
        short, long = (seconds(lambda b=b: best(function, n, 1, b, 1)) for b in (few, many))
        return (long - short) / (many - few)

    theirs, ours = [], []
    for _ in range(2 if quick else 5):
        theirs.append(per_step(zoopt_best, few, many))
        ours.append(per_step(our_best, 100, 1100))
    return {
        "zoopt_step_s": statistics.median(theirs),
        "racos_step_s": statistics.median(ours),
        "racos_step_speedup": statistics.median(theirs) / statistics.median(ours),
    }


def sphere(x):
    return float(((x - 0.2) ** 2).sum())


def ackley(x):
    x = x - 0.2
    return float(20 + np.e - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - np.exp(np.cos(2 * np.pi * x).mean()))


def rosenbrock(x):
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def racos_quality(quick):
    """Median best value over 20 seeds, ours and zoopt's, with a bootstrap interval of the ratio; and a rival's."""
    result = {}
    n_seeds = 5 if quick else 20
    rng = np.random.default_rng(0)
    for n in (20, 100):
        for function, edge in ((sphere, 1), (ackley, 1), (rosenbrock, 2)):
            budget = 2000
            theirs = np.array([zoopt_best(function, n, edge, budget, seed + 1) for seed in range(n_seeds)])
            ours = np.array([our_best(function, n, edge, budget, seed) for seed in range(n_seeds)])
            draws = rng.integers(n_seeds, size=(2, 2000, n_seeds))
            ratios = np.median(ours[draws[0]], axis=1) / np.median(theirs[draws[1]], axis=1)
            result[f"{function.__name__}_{n}"] = {
                "zoopt": float(np.median(theirs)),
                "diagnet": float(np.median(ours)),
                "one_plus_one": float(
                    np.median([one_plus_one_best(function, n, edge, budget, seed) for seed in range(n_seeds)])
                ),
                "one_plus_one_and_diagnet_in_200": [
                    float(np.median([best(function, n, edge, 200, seed) for seed in range(n_seeds)]))
                    for best in (one_plus_one_best, our_best)
                ],
                "ratio": float(np.median(ours) / np.median(theirs)),
                "ratio_95": [float(v) for v in np.quantile(ratios, [0.025, 0.975])],
            }
    return {
        "racos_median_best": result,
        "racos_no_worse": all(r["diagnet"] <= r["zoopt"] for r in result.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with rois.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()
    figures = {"quick": arguments.quick}
    # The augmentation goes first: its workers are counted with the memory of what ran before.
    if (arguments.data / "rois.csv").is_file():
        figures |= paper_augmentation(arguments.data, arguments.quick)
        with threadpool_limits(1):
            figures |= speed_of_evaluations(arguments.data, arguments.quick)
            figures |= growth_with_size(arguments.data, arguments.quick)
    else:
        figures["skipped"] = f"no rois.csv in {arguments.data}: nothing was measured on real masses"
    with threadpool_limits(1):
        figures |= racos_step(arguments.quick)
        figures |= racos_quality(arguments.quick)
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
