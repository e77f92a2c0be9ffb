"""Does the saliency map hang on what a network learned, or on the image alone? The sanity check of Adebayo et al. 2018.

    python benchmarks/saliency.py RUN DATA --figure docs/saliency.svg --json

Layers get fresh weights one after the other, from the classifier down to the stem; each time the maps of held-out
masses are compared with the trained network's by rank correlation (Spearman): of the changes as they are, for and
against malignant, and of their size alone. A method that only finds edges would stay near 1.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from diagnet.config import read_config
from diagnet.data.mass import malignant_class
from diagnet.data.prepared import Prepared, read_data
from diagnet.data.regions import read_rois
from diagnet.evaluation.calibration import probabilities
from diagnet.inference.model import load_model
from diagnet.inference.predictive_value import read_held_out
from diagnet.inference.saliency import occlusion, randomized
from diagnet.training.scoring import embeddings_and_logits


def malignancy(network, classes, temperature):
    """Score regions by one network."""

    def chances(images):
        logits = embeddings_and_logits(network, images)[1].astype(np.float64)
        return probabilities(logits, temperature)[:, malignant_class(classes)]

    return chances


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--masses", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()

    model = load_model(asked.run, engine="torch")
    network = model.networks[0]
    index = read_held_out(asked.run).index
    rng = np.random.default_rng(asked.seed)
    chosen = np.sort(rng.choice(index, size=min(asked.masses, len(index)), replace=False))
    data = read_data(asked.data, read_config(asked.run / "config.toml").classes)
    if isinstance(data, Prepared):
        images = np.array(data.images[chosen])
    else:
        images = read_rois([data.masses[i] for i in chosen], model.roi, workers=1)

    def maps(of):
        score = malignancy(of, model.classes, model.temperatures[0])
        return [occlusion(score, image).ravel() for image in images]

    trained = maps(network)
    n_down = len(network.settings.widths)
    layers = [
        ["classifier"],
        ["fc3", "fc2", "fc1"],
        [f"blocks.{k}" for k in range(n_down, len(network.blocks))],
        *([f"blocks.{k}"] for k in reversed(range(n_down))),
        ["stem"],
    ]
    rows = []
    for n_layers in range(len(layers) + 1):
        fresh = [name for group in layers[:n_layers] for name in group]
        others = maps(randomized(network, images, layers=fresh, rng=rng)) if fresh else trained
        pairs = [*zip(trained, others, strict=True)]
        found = [spearmanr(a, b)[0] for a, b in pairs]
        sizes = float(np.nanmedian([spearmanr(np.abs(a), np.abs(b))[0] for a, b in pairs]))
        low, middle, high = np.nanquantile(found, [0.25, 0.5, 0.75])
        layer = "-".join([*dict.fromkeys((layers[n_layers - 1][0], layers[n_layers - 1][-1]))]) if fresh else "none"
        rows.append({"layer": layer, "low": low, "median": middle, "high": high, "median_of_sizes": sizes})
        if not asked.json:
            print(f"{layer:<20} {middle:.2f} ({low:.2f} to {high:.2f}); sizes {sizes:.2f}")
    if asked.figure:
        draw(rows, len(images), asked.figure)
    if asked.json:
        print(json.dumps({"masses": len(images), "rank_correlation": rows, "all_layers": rows[-1]["median"]}))


def draw(rows, n_masses, path):
    """Draw the medians and quartiles as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diagnet", "font.size": 10}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        axes.fill_between(
            places,
            [row["low"] for row in rows],
            [row["high"] for row in rows],
            color="#0072B2",
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(places, [row["median"] for row in rows], "o-", color="#0072B2", label="for and against")
        axes.plot(places, [row["median_of_sizes"] for row in rows], "^--", color="#D55E00", label="size alone")
        axes.legend(frameon=False)
        axes.axhline(0, color="#8a949e", linestyle=":", linewidth=1)
        axes.set_xticks(places, [row["layer"] for row in rows], rotation=45, ha="right")
        axes.set_ylim(-0.75, 1.05)
        axes.set_xlabel("Fresh weights from the classifier down to this layer")
        axes.set_ylabel("Rank correlation with the\ntrained network's map")
        axes.set_title(f"{n_masses} held-out masses: median and quartiles", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
