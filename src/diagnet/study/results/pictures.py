"""Pictures of a study: Fig. 3's heat map and curve, and the learning curve, from the figures of its arms."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnet.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _LAMBDA = r"n\+(\d+)n-(\d+)", r"lambda([\d.e-]+)"


def write_pictures(out: Path, figures: Sequence[Any], n_train: Mapping[str, int]) -> None:
    """Draw what a study's arms allow: nothing where there is nothing to draw, or no matplotlib (extra `report`).

    Args:
        out: the study's folder; `neighbors.svg`, `lambda.svg` and `curve.svg` are written there.
        figures: of the arms (`ArmFigures`).
        n_train: training masses of each arm; the arms of a line in the learning curve are `<line>-<n>` and `<line>`.
    """
    if find_spec("matplotlib") is None:
        return
    import matplotlib as mpl

    from diagnet.run.report.figures import STYLE

    known = [row for row in figures if row["auc"]["value"] is not None]
    with mpl.rc_context(STYLE):
        drawn = {"neighbors": _heat_map(known), "lambda": _sweep(known), "curve": _learning_curve(known, n_train)}
        for name, figure in drawn.items():
            if figure is not None:
                with atomic_path(out / f"{name}.svg") as path:
                    figure.savefig(path, format="svg", metadata={"Date": None})


def write_transfer_picture(out: Path, rows: Sequence[Any]) -> None:
    """Draw `transfer.svg`: AUC of each arm on what it was tested on, with each margin (`TransferRow`).

    A cell holds the AUC and half the width of its interval. Nothing is drawn where there is nothing to draw, or no
    matplotlib (extra `report`).
    """
    found = {(row["arm"], row["tested_on"], row["margin"]): row["auc"] for row in rows if row["auc"]["value"]}
    if find_spec("matplotlib") is None or not found:
        return
    import matplotlib as mpl

    from diagnet.run.report.figures import STYLE

    arms = list(dict.fromkeys(arm for arm, _, _ in found))
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))
    columns = [(kind, margin) for kind in kinds for margin in sorted({m for _, k, m in found if k == kind})]
    table = np.array([[found.get((arm, *at), {"value": np.nan})["value"] for at in columns] for arm in arms], float)
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure, axes = _axes("", "", (0.75 * len(columns) + 3.6, 0.5 * len(arms) + 1.5))
        shown = axes.imshow(table, cmap="cividis", aspect="auto")
        low, high = shown.get_clim()
        for (row, column), value in np.ndenumerate(table):
            if not np.isnan(value):
                auc = found[(arms[row], *columns[column])]
                told = f"{value:.3f}" + ("" if auc["low"] is None else f"\n±{(auc['high'] - auc['low']) / 2:.3f}")
                color = "black" if value > (low + high) / 2 else "white"
                axes.text(column, row, told, ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(columns)), [f"x {margin:g}" for _, margin in columns])
        axes.set_yticks(range(len(arms)), arms)
        for kind in kinds:
            places = [place for place, at in enumerate(columns) if at[0] == kind]
            axes.text(float(np.mean(places)), -0.7, f"tested on {kind}", ha="center", va="bottom")
            axes.axvline(places[-1] + 0.5, color="white", linewidth=4)
        axes.set_xlabel("Padding factor of the test masses")
        axes.grid(visible=False)
        figure.colorbar(shown, label="AUC")
        with atomic_path(out / "transfer.svg") as path:
            figure.savefig(path, format="svg", metadata={"Date": None})


def _heat_map(figures: Sequence[Any]) -> "Figure | None":
    """Fig. 3a: AUC over attracting and repelling neighbors."""
    found = {(int(at[1]), int(at[2])): row["auc"] for row in figures if (at := re.fullmatch(_CELL, row["arm"]))}
    if not found:
        return None
    height, width = (max(cell[axis] for cell in found) + 1 for axis in (0, 1))
    table = np.full((height, width), np.nan)
    for cell, auc in found.items():
        table[cell] = auc["value"]
    figure, axes = _axes("Repelling neighbors n-", "Attracting neighbors n+", (1.2 * width + 1.6, 0.8 * height + 1.4))
    shown = axes.imshow(table, cmap="cividis", origin="lower", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for cell, auc in found.items():
        axes.text(
            cell[1],
            cell[0],
            f"{auc['value']:.3f}\n{auc['low']:.3f}-{auc['high']:.3f}",
            ha="center",
            va="center",
            fontsize=8,
            color="black" if auc["value"] > middle else "white",
        )
    axes.set_xticks(range(width))
    axes.set_yticks(range(height))
    axes.grid(visible=False)
    figure.colorbar(shown, label="AUC of outer folds")
    return figure


def _sweep(figures: Sequence[Any]) -> "Figure | None":
    """Fig. 3b: AUC over lambda; 0 stands at the left of a logarithmic axis."""
    found = sorted((float(at[1]), row["auc"]) for row in figures if (at := re.fullmatch(_LAMBDA, row["arm"])))
    if len(found) < 2:
        return None
    figure, axes = _axes("lambda" if found[0][0] else "lambda (leftmost: 0)", "AUC of outer folds", (5.6, 3.8))
    above = [weight for weight, _ in found if weight > 0]
    places = [weight or min(above) / 4 for weight, _ in found]
    _with_intervals(axes, places, [auc for _, auc in found], 0, "AUC")
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{weight:g}" for weight, _ in found])
    axes.minorticks_off()
    return figure


def _learning_curve(figures: Sequence[Any], n_train: Mapping[str, int]) -> "Figure | None":
    """AUC over the number of training masses, a line for each way to train."""
    found = {row["arm"]: row["auc"] for row in figures}
    names = {name.removesuffix(f"-{n_train[name]}") for name in found if name.endswith(f"-{n_train[name]}")}
    if not names:
        return None
    figure, axes = _axes("Training masses", "AUC of outer folds", (5.6, 3.8))
    for number, line in enumerate(sorted(names, reverse=True)):
        points = sorted((n_train[name], found[name]) for name in found if name in (line, f"{line}-{n_train[name]}"))
        # A little to the side, so that the intervals of two lines can be told apart.
        _with_intervals(axes, [n * (1 + 0.03 * number) for n, _ in points], [auc for _, auc in points], number, line)
    ticks = sorted({n_train[name] for name in found if name.removesuffix(f"-{n_train[name]}") in names})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return figure


def _axes(x: str, y: str, size: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _with_intervals(axes: "Axes", x: Sequence[float], aucs: Sequence[Any], number: int, label: str) -> None:
    """A line with a bar for each interval."""
    from diagnet.run.report.figures import COLORS, MARKS

    values = np.array([auc["value"] for auc in aucs])
    ends = np.array([[auc["value"] - auc["low"], auc["high"] - auc["value"]] for auc in aucs]).T
    axes.errorbar(x, values, np.abs(ends), fmt=f"{MARKS[number]}-", color=COLORS[number], capsize=3, label=label)
