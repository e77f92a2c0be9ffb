"""What the verbs share: their options, reading data, printing results."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diagnet.config import Config
    from diagnet.data.mass import MassSet
    from diagnet.data.prepared import Prepared

Out = Annotated[Path, typer.Option(help="Folder to write: new or empty.", show_default=False)]
Preset = Annotated[
    str | None,
    typer.Option(
        help="small, diagnet (the method), lite0 (pretrained), best (five of these) or paper. "
        "[default: small; of augment and studies: diagnet]"
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with any subset of the settings.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, section.key=value; may be given again.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw. [default: 0]", min=0)]
Workers = Annotated[int | None, typer.Option(help="Processes; never changes a result.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and print results only.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out.")]
Data = Annotated[Path, typer.Argument(help="A manifest (.csv) or a folder made by `diagnet prepare`.")]


def read_data(data: Path, config: "Config") -> "MassSet | Prepared":
    """Read a prepared folder or a manifest."""
    from diagnet.data import prepared

    return prepared.read_data(data, config.classes)


def command() -> str:
    """What the user typed, for the record."""
    return shlex.join(["diagnet", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(value, allow_nan=False))


def print_run(folder: Path, metrics: Any, as_json: bool) -> None:
    """The last lines: what was found, and where."""
    from diagnet.notice import SYNTHETIC_FLAG, notice_of

    is_synthetic = metrics.get("synthetic", False)
    if as_json:
        print_json({"out": str(folder), "notice": notice_of(is_synthetic), **metrics})
        return
    mass = metrics["test"]["units"]["mass"]
    print(f"{mass['n']} test masses:")
    for name in ("auc", "accuracy", "sensitivity", "specificity"):
        figure = mass[name]
        if figure["value"] is not None:
            interval = "" if figure["low"] is None else f" (95 % interval {figure['low']:.3f} to {figure['high']:.3f})"
            print(f"  {name:<12} {figure['value']:.3f}{interval}")
    if by_lesion := metrics["test"].get("by_lesion"):
        alone, together = (by_lesion[name]["value"] for name in ("auc_of_masses", "auc"))
        print(f"{by_lesion['n']} lesions seen more than once: AUC {together:.3f}, their masses one by one {alone:.3f}")
    for reason, count in metrics.get("left_out", {}).items():
        print(f"left out: {count} ({reason})")
    if is_synthetic:
        print(SYNTHETIC_FLAG)
    print(notice_of(is_synthetic))
    report = folder / "report.html"
    print(f"Report: {report}" if report.exists() else f"Results: {folder}")
