"""Figures of the report: SVG with text that can be read and searched, safe for color-blind eyes."""

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image as Pillow

from diagnet.arrays import Image, Labels
from diagnet.evaluation.bootstrap import Interval
from diagnet.evaluation.figures import CalibrationBin, DecisionCurve, Roc
from diagnet.run.report.page import Html

# Okabe and Ito's colors; each class has a mark of its own too, each line a dash of its own.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "^", "s", "D", "v", "P")
_GREY = "#8a949e"
STYLE: Any = {  # matplotlib's type of this lists every setting there is
    "svg.fonttype": "none",
    "svg.hashsalt": "diagnet",  # the same run gives the same file
    "text.parse_math": False,  # a class name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e7eb",
    "figure.facecolor": "none",  # the page's own, which is dark where the system is
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_SIDE = 144  # pixels of a picture of a mass
_MANY = 1500  # points from which a scatter is drawn as pixels: thousands of SVG nodes slow a browser

Arguments = ParamSpec("Arguments")


def _drawn(draw: Callable[Arguments, tuple[Figure, str]]) -> Callable[Arguments, Html]:
    """Turn a function that gives a figure and what to say of it to the blind into one that gives inline SVG."""

    @wraps(draw)
    def inner(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Html:
        with mpl.rc_context(STYLE):
            figure, label = draw(*args, **kwargs)
            file = io.StringIO()
            figure.savefig(file, format="svg", dpi=200, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return _inline(file.getvalue(), draw.__name__, label)

    return inner


@_drawn
def loss_curves(history: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Classification loss of the training and validation masses by epoch, a line a fold."""
    figure, axes = _axes("Epoch", "Classification loss")
    _lines(axes, history, "classification_loss", 0, "-", "training")
    _lines(axes, history, "validation_loss", 1, "--", "validation")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure, "Line chart: classification loss of training and validation masses by epoch"


@_drawn
def graph_curves(history: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Signed graph loss by epoch, a line a fold."""
    figure, axes = _axes("Epoch", "Signed graph loss")
    _lines(axes, history, "signed_graph_loss", 2, "-", "training")
    axes.set_ylim(bottom=0)
    return figure, "Line chart: signed graph loss by epoch"


@_drawn
def auc_curves(history: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """AUC of the validation masses by epoch, a line a fold."""
    figure, axes = _axes("Epoch", "Validation AUC")
    _lines(axes, history, "validation_auc", 1, "--", "validation")
    axes.axhline(0.5, color=_GREY, linestyle=":", linewidth=1)
    axes.set_ylim(top=1.01)
    return figure, "Line chart: AUC of the validation masses by epoch"


@_drawn
def roc_plot(roc: Roc, auc: Interval, sensitivity: Interval, specificity: Interval) -> tuple[Figure, str]:
    """ROC curve with its pointwise band and the operating point."""
    figure, axes = _axes("1 - specificity", "Sensitivity")
    if roc["low"]:
        axes.fill_between(roc["grid"], roc["low"], roc["high"], color=COLORS[0], alpha=0.18, linewidth=0)
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    axes.plot(roc["fpr"], roc["tpr"], color=COLORS[0], linewidth=2)
    if sensitivity["value"] is not None and specificity["value"] is not None:
        axes.plot(
            1 - specificity["value"],
            sensitivity["value"],
            "D",
            color=COLORS[1],
            markersize=8,
            markeredgecolor="white",
            label="at the threshold",
        )
        axes.legend(loc="lower right")
    _square(axes)
    return figure, f"ROC curve of the test masses, AUC {auc['value'] or 0:.2f}, with the point of the threshold"


@_drawn
def calibration_plot(bins: Sequence[CalibrationBin], target: str) -> tuple[Figure, str]:
    """Fraction of malignant masses against the mean score, with intervals."""
    figure, axes = _axes("Mean score", f"Fraction that is {target}")
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    for each in bins:
        observed = each["observed"]
        if observed["low"] is not None and observed["high"] is not None:
            axes.plot([each["mean_score"]] * 2, [observed["low"], observed["high"]], color=COLORS[0], linewidth=1.2)
    scores, shares = [each["mean_score"] for each in bins], [each["observed"]["value"] or 0 for each in bins]
    axes.plot(scores, shares, "o-", color=COLORS[0], linewidth=1, markersize=6)
    _square(axes)
    return figure, f"Calibration plot: fraction of {target} test masses against their mean score, {len(bins)} bins"


@_drawn
def decision_plot(curve: DecisionCurve, target: str) -> tuple[Figure, str]:
    """Net benefit over the threshold, with its band, beside calling every mass and calling none."""
    figure, axes = _axes(f"Probability from which a mass is called {target}", "Net benefit")
    if curve["low"]:
        axes.fill_between(curve["thresholds"], curve["low"], curve["high"], color=COLORS[0], alpha=0.18, linewidth=0)
    axes.plot(curve["thresholds"], curve["net_benefit"], color=COLORS[0], linewidth=2, label="by score")
    axes.plot(curve["thresholds"], curve["call_all"], "--", color=COLORS[1], linewidth=1.5, label="all called")
    axes.axhline(0, color=_GREY, linestyle=":", linewidth=1, label="none called")
    top = max(*curve["call_all"], *curve["net_benefit"], *curve["high"], 0.05)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.25 * top, 1.1 * top)
    axes.legend(loc="upper right")
    return figure, f"Decision curve: net benefit of calling {target} test masses by score, from each threshold on"


@_drawn
def embedding_map(
    embeddings: Float[np.ndarray, "point feature"],
    labels: Labels,
    parts: Int[np.ndarray, "point"],
    classes: Sequence[str],
) -> tuple[Figure, str]:
    """First two principal components of unit embeddings; training masses pale, test masses (part 2) strong."""
    # Directions are what the signed graph loss compares, so lengths are left out.
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    units = units - units.mean(axis=0)
    _, sizes, axes_of_space = np.linalg.svd(units, full_matrices=False)
    xy = units @ axes_of_space[:2].T
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-12)
    figure, axes = _axes(*(f"Component {i + 1} ({shares[i]:.0%} of the variance)" for i in range(2)), width=6.4)
    for is_test, alpha, size in ((False, 0.3, 14), (True, 0.95, 34)):
        for label, name in enumerate(classes):
            chosen = (labels == label) & ((parts == 2) == is_test)
            axes.scatter(
                xy[chosen, 0],
                xy[chosen, 1],
                s=size,
                marker=MARKS[label % len(MARKS)],
                color=COLORS[label % len(COLORS)],
                alpha=alpha,
                edgecolors="black" if is_test else "none",
                linewidths=0.6 if is_test else 0,
                label=f"{name}, {'test' if is_test else 'training, validation'} ({int(chosen.sum())})",
                rasterized=len(labels) > _MANY,
            )
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return (
        figure,
        f"Scatter plot: embeddings of {len(labels)} masses on two principal components, by class and part",
    )


def picture(image: Image) -> str:
    """Show a mass as a PNG data URI of at most 144 pixels a side."""
    levels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    small = Pillow.fromarray(levels)
    small.thumbnail((_SIDE, _SIDE), Pillow.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _axes(x: str, y: str, *, width: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.0 if width < 5 else 5.0))
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _lines(axes: Axes, history: Sequence[Mapping[str, Any]], name: str, color: int, dash: str, label: str) -> None:
    """Draw one line a fold; epochs without the figure are left out."""
    folds = sorted({row["fold"] for row in history})
    for number, fold in enumerate(folds):
        rows = [row for row in history if row["fold"] == fold and row.get(name) is not None]
        axes.plot(
            [row["epoch"] for row in rows],
            [row[name] for row in rows],
            dash,
            color=COLORS[color],
            alpha=1 if len(folds) == 1 else 0.5,
            marker="o" if len(rows) == 1 else None,
            label=label if number == 0 else None,
        )
    epochs = [row["epoch"] for row in history]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def _inline(svg: str, name: str, label: str) -> Html:
    """Cut an SVG file down to its element, give it a description, and make its ids its own on the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    label = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return Html(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
