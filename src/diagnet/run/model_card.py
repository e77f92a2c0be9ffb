"""model_card.md: what a run's model is, on what it was trained, how well it did, and what it must not be used for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnet.atomic import legible, write_text
from diagnet.config import Config
from diagnet.errors import printable
from diagnet.notice import SYNTHETIC_FLAG, notice_of
from diagnet.run.folder import data_name

_UNKNOWN = "TODO (diagnet cannot know this)"


def write_model_card(run: Path, config: Config, record: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Fill the card from the run; what the run cannot know is left as TODO.

    Args:
        run: the run's folder.
        config: its settings.
        record: what run.json holds.
        metrics: what metrics.json holds.
    """
    data = record["data"]
    mass = metrics["test"]["units"]["mass"]
    lines = [
        "# Model card",
        "",
        f"**{notice_of(data.get('synthetic', False))}**",
        *(["", f"**{SYNTHETIC_FLAG}.**"] if data.get("synthetic") else []),
        "",
        "## Model",
        f"Preset `{record['preset']}` of diagnet {record['versions']['diagnet']}, seed {record['seed']}, "
        f"trained {record['started']} {_how(config)}. A score is the calibrated probability that a marked mass is "
        "malignant, on masses like those it was trained on. Every setting is in config.toml.",
        "",
        "## Data",
        f"Source: {_plain(data_name(record) or 'in memory')} (SHA-256 {data['sha256'][:16]}...). "
        f"Classes: {_plain(', '.join(data['classes']))}.",
        "",
        *_sources(data),
        "| part | masses | images | patients |",
        "|---|---|---|---|",
        *(
            f"| {_plain(part)} | {n['masses']} | {n['images']} | {n['patients']} |"
            for part, n in record["counts"].items()
        ),
        "",
        *(f"- left out: {count} ({_plain(reason)})" for reason, count in data["left_out"].items()),
        *([f"- without a label, in training alone: {data['unlabelled']} masses"] if data.get("unlabelled") else []),
        f"- population, devices, years, how labels were made: {_UNKNOWN}",
        "",
        f"## Figures on {mass['n']} test masses (95 % intervals by patient bootstrap)",
        *(f"- {name}: {_figure(mass[name])}" for name in ("auc", "accuracy", "sensitivity", "specificity", "brier")),
        *(
            f"- auc on the {found['n']} masses of {_plain(name)}: {_figure(found['auc'])}"
            for name, found in metrics["test"].get("by_source", {}).items()
        ),
        "",
        "## Limits",
        "- Judges a mass somebody marked; it finds none.",
        "- Not validated on any other population, device or reader; figures hold for data like its test part.",
        f"- performance by age, breast density, ethnicity and device: {_UNKNOWN}",
        f"- intended users and setting of a study: {_UNKNOWN}",
    ]
    write_text(run / "model_card.md", legible("\n".join(lines) + "\n"))  # the data's folder may be no text


def _plain(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line; a name may hold either."""
    shown = printable(text)
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        shown = shown.replace(letter, entity)
    return re.sub(r"(^[-+.]|^\d+(?=[.)])|[\\`*\[\]{}|~!#]|(?<!\w)_|_(?!\w))", _escaped, shown)


def _escaped(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def _how(config: Config) -> str:
    """How much of the paper's method the training had."""
    parts = [
        f"{getattr(config.neighbors, sign + '_ratio'):g} {sign} neighbors for each mass"
        for sign in ("positive", "negative")
        if getattr(config.neighbors, sign + "_ratio")
    ]
    if config.training.needs_graph:
        parts.append(f"the signed graph at lambda {config.training.graph_weight:g}")
    return "with " + " and ".join(parts) if parts else "with plain cross-entropy, without neighbors and graph"


def _sources(data: Mapping[str, Any]) -> list[str]:
    """A line for each of several sources."""
    if "sources" not in data:
        return []
    rule = "different patients" if data["distinct_patients"] else "one patient"
    files = {name: Path(each["source"]).name or "in memory" for name, each in data["sources"].items()}
    return [
        *(
            f"- {_plain(name)} ({_plain(files[name])}): {each['masses']} masses of {each['patients']} patients"
            for name, each in data["sources"].items()
        ),
        f"- patients of the same name in different sources are {rule}",
        "",
    ]


def _figure(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
