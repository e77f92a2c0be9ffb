"""Verbs that make a run, or use a finished one: demo, train, evaluate, export, pack, seal."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagnet.cli.shared import (
    Assignments,
    ConfigFile,
    Json,
    Out,
    Preset,
    Quiet,
    Resume,
    Seed,
    Workers,
    command,
    print_json,
    print_run,
    read_data,
)

if TYPE_CHECKING:
    from diagnet.data.mass import Mass


class Engine(StrEnum):
    """What runs the networks of a finished run."""

    auto = "auto"
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"
    torch_bfloat16 = "torch-bfloat16"
    openvino_bfloat16 = "openvino-bfloat16"


def demo(
    out: Out = Path("demo"),
    patients: Annotated[int, typer.Option(help="Synthetic patients.", min=12)] = 100,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the whole method on synthetic masses, up to the report."""
    import numpy as np

    from diagnet.atomic import require_empty
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_config
    from diagnet.data.inbreast import read_inbreast
    from diagnet.data.phantom import make_inbreast_release
    from diagnet.data.prepared import describe, write_prepared
    from diagnet.experiment import run_experiment
    from diagnet.run.report import require_report

    require_report()
    require_empty(out)
    config = read_config(None, "diagnet", _DEMO_SETTINGS, seed)
    with shown_progress(quiet=quiet) as progress:
        rng = np.random.default_rng(config.seed)
        release = make_inbreast_release(out / "release", n_patients=patients, rng=rng, progress=progress)
        found = read_inbreast(release, config.inbreast)
        prepared = write_prepared(found, out / "data", config.roi, progress=progress)
        run = run_experiment(config, prepared, out / "run", command=command(), progress=progress)
    if not as_json and not quiet:
        print("\n".join(describe(found)))
        print("These masses are synthetic: the figures say that the parts work together, nothing about patients.")
    print_run(run.folder, run.metrics, as_json)
    if not as_json and not quiet:
        print(f"The shipped model, on the first of these masses: {_shipped_score(found.masses[0])}")


def _shipped_score(mass: "Mass") -> str:
    """What the model that comes with diagnet says of a mass, in one line."""
    from diagnet.inference.assessment import Policy
    from diagnet.inference.predictor import load_model

    (found,) = load_model(engine="torch").predict(mass.image, [mass.box], Policy(allow_unlike=True))
    if found.malignancy is None:
        return found.reason
    flags = f" ({'; '.join(found.flags)})" if found.flags else ""
    return f"{found.decision}, malignancy {found.malignancy:.2f}{flags}"


_DEMO_SETTINGS = ("training.epochs=40", "training.batch_size=24")


def train(
    data: Annotated[
        list[Path], typer.Argument(help="Manifests (.csv) and folders made by `diagnet prepare`, one or more.")
    ],
    out: Out,
    distinct_patients: Annotated[
        bool, typer.Option("--distinct-patients", help="Patients of one name in two DATA are two patients.")
    ] = False,
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
    """Train and test a model, and write its report.

    The steps: split, augment, build the graph, train, evaluate and report (Fig. 1a of the paper).
    """
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_config, without_effect
    from diagnet.data.sources import read_sources
    from diagnet.experiment import run_experiment
    from diagnet.run.folder import RECORD
    from diagnet.training.distributed import process_group

    config = read_config(config_file, preset, assignments or (), seed)
    if resume and not (out / RECORD).exists():
        print(f"diagnet: --resume: there is no run in {out}, so it starts afresh", file=sys.stderr)
    try:
        with process_group() as processes, shown_progress(quiet=quiet or not processes.is_first) as progress:
            for line in without_effect(config, assignments or ()) if processes.is_first else ():
                print(f"diagnet: {line}", file=sys.stderr)
            masses = read_sources(
                data,
                config.classes,
                config.roi,
                distinct_patients=distinct_patients,
                workers=workers,
                progress=progress,
            )
            run = run_experiment(
                config,
                masses,
                out,
                resume=resume,
                with_report=report,
                workers=workers,
                command=command(),
                progress=progress,
                processes=processes,
            )
    except KeyboardInterrupt:
        print("diagnet: interrupted. Fix: --resume goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None
    if processes.is_first:
        print_run(run.folder, run.metrics, as_json)


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
    """Score masses the run never saw.

    Writes predictions.csv and metrics.json into a folder of their own.
    """
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_run_config
    from diagnet.inference.external_validation import evaluate_run
    from diagnet.run.folder import read_record

    read_record(run)  # says so where this is no run
    config = read_run_config(run)
    target = out or _unused(run / "evaluations" / (data.stem or "data"))
    with shown_progress(quiet=quiet) as progress:
        metrics = evaluate_run(
            run,
            read_data(data, config),
            target,
            settings=config.evaluation,
            engine=engine.value,
            seed=config.seed if seed is None else seed,
            workers=workers,
            progress=progress,
        )
    print_run(target, metrics, as_json)


def _unused(folder: Path) -> Path:
    """The folder, or with the first free number behind its name: evaluating again overwrites nothing."""
    number, found = 2, folder
    while found.exists():
        number, found = number + 1, folder.with_name(f"{folder.name}-{number}")
    return found


def export(
    out: Annotated[Path, typer.Option(help="To write: a new .onnx file, or a new folder.", show_default=False)],
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run. [default: the shipped one]", show_default=False)
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As an ONNX file, as without it.")] = False,
    monai_bundle: Annotated[bool, typer.Option("--monai-bundle", help="As a MONAI bundle, a folder.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as an ONNX file or a MONAI bundle.

    A file beside or inside it says how well it agrees with the run.
    """
    from diagnet.inference.export import export_onnx
    from diagnet.inference.monai_bundle import export_monai_bundle
    from diagnet.inference.predictor import shipped_run

    if onnx and monai_bundle:
        raise typer.BadParameter("must be one format, got both.", param_hint="--onnx, --monai-bundle")
    run = shipped_run() if run is None else run
    report = export_monai_bundle(run, out) if monai_bundle else export_onnx(run, out)
    compared = str(out / "docs" / "parity.json") if monai_bundle else f"{out}.parity.json"
    if as_json:
        print_json({"out": str(out), **report})
        return
    print(f"Largest difference of a probability: {report['largest_difference']:.1e}", end=" ")
    print(f"(tolerance {report['tolerance']:g}, {len(report['compared'])} comparisons: {compared})")
    print(report["notice"])
    print(f"Model: {out}")


def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of preset lite0 or best.")],
    data: Annotated[list[Path], typer.Argument(help="What RUN was trained on, one or more.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a new one.", show_default=False)],
    distinct_patients: Annotated[bool, typer.Option("--distinct-patients", help="As RUN was trained.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Merge a run's networks into one, in half precision.

    The result is a run small enough to ship.
    """
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_run_config
    from diagnet.data.sources import read_sources
    from diagnet.inference.packing import pack as pack_run

    config = read_run_config(run)
    with shown_progress(quiet=quiet) as progress:
        masses = read_sources(
            data, config.classes, config.roi, distinct_patients=distinct_patients, workers=workers, progress=progress
        )
        agreement = pack_run(run, masses, out, workers=workers, progress=progress)
    if as_json:
        print_json({"out": str(out), **agreement})
        return
    print(json.dumps(agreement, indent=1))
    print(f"Run: {out}")


def seal(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    key: Annotated[Path | None, typer.Option(help="File with a key that signs the seal.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Write the list of the files that scores depend on.

    It is model/manifest.json. Runs of older versions have none.
    """
    from diagnet.run.seal import MANIFEST, read_key, seal_key
    from diagnet.run.seal import seal as seal_run

    manifest = seal_run(run, seal_key() if key is None else read_key(key, "--key"))
    if as_json:
        print_json({"out": str(run / "model" / MANIFEST), **manifest.model_dump(mode="json")})
        return
    signed = "signed" if manifest.signature else "not signed"
    print(f"{len(manifest.files)} files sealed, {signed}: {run / 'model' / MANIFEST}")
