"""The command line: one verb per job; imports late so that --help is instant."""

import json
import os
import shlex
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diagnet.errors import DataError, DiagNetError

if TYPE_CHECKING:
    from diagnet.config import Config
    from diagnet.data.mass import MassSet
    from diagnet.data.prepared import Prepared

app = typer.Typer(
    name="diagnet",
    help="Benign or malignant? DiagNet for breast masses in mammograms. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Engine(StrEnum):
    """What runs the networks of a finished run."""

    auto = "auto"
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class Source(StrEnum):
    """What `prepare` reads."""

    inbreast = "inbreast"
    cbis_ddsm = "cbis-ddsm"
    manifest = "manifest"


Out = Annotated[Path, typer.Option(help="Folder to write: new or empty.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="small (a laptop) or paper (the letter; slow). [default: small]")]
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


@app.command(epilog="Example: diagnet demo --out demo")
def demo(
    out: Out = Path("demo"),
    patients: Annotated[int, typer.Option(help="Synthetic patients.", min=12)] = 100,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the main job on a synthetic INbreast release: write it, prepare, augment, train, evaluate, report."""
    import numpy as np

    from diagnet.atomic import require_empty
    from diagnet.config import read_config
    from diagnet.data.inbreast import read_inbreast
    from diagnet.data.phantom import make_inbreast_release
    from diagnet.data.prepared import describe, write_prepared
    from diagnet.experiment import run_experiment
    from diagnet.report import require_report
    from diagnet.terminal import shown_progress

    require_report()
    require_empty(out)
    config = read_config(None, "small", _DEMO_SETTINGS, seed)
    with shown_progress(quiet=quiet) as progress:
        rng = np.random.default_rng(config.seed)
        release = make_inbreast_release(out / "release", n_patients=patients, rng=rng, progress=progress)
        found = read_inbreast(release, config.inbreast)
        prepared = write_prepared(found, out / "data", config.roi, progress=progress)
        run = run_experiment(config, prepared, out / "run", command=_command(), progress=progress)
    if not as_json and not quiet:
        print("\n".join(describe(found)))
        print("These masses are synthetic: the figures say that the parts work together, nothing about patients.")
    _print_run(run.folder, run.metrics, as_json)


_DEMO_SETTINGS = ("training.epochs=40", "training.batch_size=24")


@app.command(epilog="Example: diagnet prepare inbreast 'INbreast Release 1.0' --out data/inbreast")
def prepare(
    source: Annotated[Source, typer.Argument(case_sensitive=False, help="What kind of data it is.")],
    path: Annotated[Path, typer.Argument(metavar="SOURCE", help="The release's folder, or a manifest.")],
    out: Out,
    preset: Preset = None,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut the masses of a data set once and print what was found and left out."""
    from diagnet.config import read_config
    from diagnet.data.cbis_ddsm import read_cbis_ddsm
    from diagnet.data.inbreast import read_inbreast
    from diagnet.data.manifest import read_manifest
    from diagnet.data.prepared import describe, write_prepared
    from diagnet.terminal import shown_progress

    config = read_config(config_file, preset, assignments or ())
    if source is Source.inbreast:
        found = read_inbreast(path, config.inbreast)
    elif source is Source.cbis_ddsm:
        with shown_progress(quiet=quiet) as progress:
            found = read_cbis_ddsm(path, progress=progress)
    else:
        found = read_manifest(path, classes=config.classes)
    with shown_progress(quiet=quiet) as progress:
        prepared = write_prepared(found, out, config.roi, workers=workers, progress=progress)
    masses = prepared.mass_set
    if as_json:
        classes = {name: int((masses.labels == index).sum()) for index, name in enumerate(masses.classes)}
        facts = {"masses": len(masses.masses), "patients": len(set(masses.patients)), "classes": classes}
        _print_json({"out": str(out), **facts, "left_out": dict(masses.left_out), "notes": dict(masses.notes)})
    else:
        print("\n".join([*describe(masses), f"Prepared data: {out}"]))


@app.command(epilog="Example: diagnet augment data/inbreast --out neighbors --seed 0 --budget 200")
def augment(
    data: Data,
    out: Out,
    mode: Annotated[str | None, typer.Option(help="subspace or pixel (the letter). [default: subspace]")] = None,
    budget: Annotated[int | None, typer.Option(help="Evaluations for each neighbor. [default: 200]")] = None,
    preset: Preset = None,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    resume: Resume = False,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make positive and negative neighbors of all masses given (Sec. 3.1): images, provenance, contact sheet."""
    from diagnet.augmentation import write_augmentation
    from diagnet.config import read_config
    from diagnet.terminal import shown_progress

    changes = [*(assignments or ())]
    changes += [] if mode is None else [f"neighbors.search_space={mode}"]
    changes += [] if budget is None else [f"neighbors.budget={budget}"]
    config = read_config(config_file, preset, changes, seed)
    try:
        with shown_progress(quiet=quiet) as progress:
            summary = write_augmentation(
                config, _read(data, config), out, resume=resume, workers=workers, progress=progress
            )
    except KeyboardInterrupt:
        print("diagnet: interrupted. Fix: --resume keeps the neighbors found so far", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        _print_json({"out": str(out), **summary})
        return
    for name, count in summary["neighbors"].items():
        print(f"{count} {name} neighbors")
        if name in summary["privacy"]:
            near = summary["privacy"][name]["nearest_original_over_originals_own"]
            spread = f"5 % to 95 %: {near['5 %']:.2f} to {near['95 %']:.2f}"
            print(f"  moved by {near['median']:.2f} ({spread}) of the usual distance between real masses")
    print(f"breaking a distance rule: {summary['breaking_a_rule']}")
    print("Each is a variation of one real mass: handle it as that patient's data.")
    print(f"Neighbors: {out}")


@app.command(epilog="Example: diagnet train data/inbreast --out runs/first --seed 0 --set training.epochs=30")
def train(
    data: Data,
    out: Out,
    preset: Preset = None,
    config_file: ConfigFile = None,
    assignments: Assignments = None,
    seed: Seed = None,
    resume: Resume = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Split, augment, build the graph, train, evaluate and report (Fig. 1a)."""
    from diagnet.config import read_config
    from diagnet.experiment import run_experiment
    from diagnet.processes import joined
    from diagnet.terminal import shown_progress

    config = read_config(config_file, preset, assignments or (), seed)
    try:
        with joined() as processes, shown_progress(quiet=quiet or not processes.is_first) as progress:
            run = run_experiment(
                config,
                _read(data, config),
                out,
                resume=resume,
                with_report=report,
                workers=workers,
                command=_command(),
                progress=progress,
                processes=processes,
            )
    except KeyboardInterrupt:
        print("diagnet: interrupted. Fix: --resume goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None
    if processes.is_first:
        _print_run(run.folder, run.metrics, as_json)


@app.command(epilog="Example: diagnet evaluate runs/first --data other/masses.csv --json")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[Path, typer.Option(help="A manifest (.csv) or a prepared folder.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. [default: RUN/evaluations/NAME]", show_default=False)
    ] = None,
    engine: Annotated[
        Engine, typer.Option(case_sensitive=False, help="What scores; auto: the fastest installed.")
    ] = Engine.auto,
    seed: Seed = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score masses the run never saw: predictions.csv and metrics.json of their own."""
    from diagnet.config import read_config
    from diagnet.external import evaluate_run
    from diagnet.run_folder import read_json
    from diagnet.terminal import shown_progress

    read_json(run / "run.json")  # says so where this is no run
    config = read_config(run / "config.toml")
    target = out or _unused(run / "evaluations" / (data.stem or "data"))
    with shown_progress(quiet=quiet) as progress:
        metrics = evaluate_run(
            run,
            _read(data, config),
            target,
            settings=config.evaluation,
            engine=engine.value,
            seed=config.seed if seed is None else seed,
            workers=workers,
            progress=progress,
        )
    _print_run(target, metrics, as_json)


@app.command(epilog="Example: diagnet export runs/first --onnx --out first.onnx")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="File to write: a new .onnx file.", show_default=False)],
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX, the one format there is.")] = False,
    as_json: Json = False,
) -> None:
    """Write the run's model as one file, and beside it how well the file agrees with the run."""
    from diagnet.export import export_onnx

    if not onnx:
        raise typer.BadParameter("must be given, got no format. Fix: add --onnx.", param_hint="--onnx")
    report = export_onnx(run, out)
    if as_json:
        _print_json({"out": str(out), **report})
        return
    print(f"Largest difference of a probability: {report['largest_difference']:.1e}", end=" ")
    print(f"(tolerance {report['tolerance']:g}, {len(report['compared'])} comparisons: {out}.parity.json)")
    print(report["notice"])
    print(f"Model: {out}")


@app.command(epilog="Example: diagnet doctor")
def doctor(as_json: Json = False) -> None:
    """Tell what is installed, what is missing and how to install it."""
    from importlib.metadata import PackageNotFoundError, version

    from diagnet.run_folder import versions

    extras = {
        "matplotlib": "report",
        "pylibjpeg": "dicom",
        "pyjpegls": "dicom",
        "python-gdcm": "dicom",
        "tensorboard": "tensorboard",
        "mlflow-skinny": "mlflow",
        "onnx": "onnx",
        "onnxscript": "onnx",
        "onnxruntime": "onnx",
        "openvino": "openvino",
    }
    found: dict[str, str | None] = dict(versions())
    for package in extras:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    from diagnet.device import resolve_compute

    compute = resolve_compute()
    facts = {
        "device": str(compute.device),
        "precision": compute.precision,
        "memory_format": compute.memory_format,
        "processors": os.cpu_count(),
    }
    if as_json:
        _print_json({"versions": found, **facts})
        return
    for package, installed in found.items():
        missing = f"missing. Fix: pip install 'diagnet[{extras.get(package)}]'"
        print(f"{package:<14} {installed or missing}")
    for name, value in facts.items():
        print(f"{name:<14} {value}")


def main() -> None:
    """Run the command line; an expected failure is one line and an exit code."""
    warnings.showwarning = lambda message, *_, **__: print(f"diagnet: warning: {message}", file=sys.stderr)
    try:
        app()
    except DiagNetError as error:
        print(f"diagnet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `diagnet ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(data: Path, config: "Config") -> "MassSet | Prepared":
    """Read a prepared folder or a manifest."""
    from diagnet.data.manifest import read_manifest
    from diagnet.data.prepared import is_prepared, read_prepared

    if is_prepared(data):
        return read_prepared(data)
    if data.is_dir():
        raise DataError(f"`DATA` must be a manifest or a prepared folder, got {data}. Fix: diagnet prepare --help")
    return read_manifest(data, classes=config.classes)


def _unused(folder: Path) -> Path:
    """The folder, or with the first free number behind its name: evaluating again overwrites nothing."""
    number, found = 2, folder
    while found.exists():
        number, found = number + 1, folder.with_name(f"{folder.name}-{number}")
    return found


def _command() -> str:
    return shlex.join(["diagnet", *sys.argv[1:]])


def _print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


def _print_run(folder: Path, metrics: Any, as_json: bool) -> None:
    """The last lines: what was found, and where."""
    from diagnet.notice import NOTICE

    if as_json:
        _print_json({"out": str(folder), "notice": NOTICE, **metrics})
        return
    mass = metrics["test"]["units"]["mass"]
    print(f"{mass['n']} test masses:")
    for name in ("auc", "accuracy", "sensitivity", "specificity"):
        figure = mass[name]
        if figure["value"] is not None:
            interval = "" if figure["low"] is None else f" (95 % interval {figure['low']:.3f} to {figure['high']:.3f})"
            print(f"  {name:<12} {figure['value']:.3f}{interval}")
    for reason, count in metrics.get("left_out", {}).items():
        print(f"left out: {count} ({reason})")
    print(NOTICE)
    report = folder / "report.html"
    print(f"Report: {report}" if report.exists() else f"Results: {folder}")


if __name__ == "__main__":
    main()
