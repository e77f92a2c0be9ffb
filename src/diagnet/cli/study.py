"""Verbs that run and compare many trainings: study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diagnet.cli.options import grouped
from diagnet.cli.shared import Assignments, ConfigFile, Data, Json, Preset, Quiet, Workers, print_json

if TYPE_CHECKING:
    from diagnet.config import Config
    from diagnet.study.running import Study

app = typer.Typer(
    help="Train many times on patient folds, and compare. Writes tables with intervals, in resumable shards.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Option(help="Folder of the study's rows and tables.", show_default=False)]
Folds = Annotated[int, typer.Option(help="Patient folds, the same for every repeat.", min=2)]
Repeats = Annotated[int, typer.Option(help="Seeds of each arm on each fold.", min=1)]
Sources = Annotated[
    list[Path], typer.Option(help="The study's data; once for each source, in the study's order.", show_default=False)
]
_ARMS = typer.Option(help="TOML: a table for each arm, of settings that differ.", show_default=False)
Arms = Annotated[Path, _ARMS]
OwnArms = Annotated[Path | None, _ARMS]
Tests = Annotated[list[str] | None, typer.Option(help="NAME=TABLE: a manifest every run scores; may be given again.")]
SeedSd = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of a training's AUC by its seed, where no arm has repeats.", min=0, show_default=False
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")]
Interrupted = "diagnet: interrupted. Fix: --resume keeps the runs done so far"


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What all studies of arms are asked for: where, on how many folds, which part of it."""

    out: Folder
    folds: Folds = 5
    shard: Annotated[str, typer.Option(help="i/n: run the i-th of n parts of the runs, from 0.")] = "0/1"
    resume: Resume = False
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers see DATA.")] = None
    only: Annotated[str | None, typer.Option(help="Arms to run, separated by commas. [default: all]")] = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a study trains, and what is said of it."""

    preset: Preset = None
    config_file: ConfigFile = None
    assignments: Assignments = None
    workers: Workers = None
    quiet: Quiet = False
    as_json: Json = False


def _verb(name: str, what: str) -> None:
    """Add a verb that runs one of the studies there are."""

    def run(*, data: Data, asked: StudyOptions, repeats: Repeats = 3, how: RunOptions) -> None:
        _run(name, _OnData([data]), asked, repeats, how)

    example = f"Example: diagnet study {name} data/inbreast --out studies/{name}"
    app.command(name, help=what, epilog=example)(grouped(run))


_verb("ablation", "Compare the method's parts and readings, one by one.")
_verb(
    "comparators", "Compare DiagNet with rivals. Plain cross-entropy, mixup, metric losses and hand-crafted features."
)
_verb("table1", "Repeat the paper's Table 1. Accuracy and AUC of the comparators' arms, beside what the paper prints.")
_verb(
    "curve", "Measure the learning curve. DiagNet and plain cross-entropy on 43, 86, 172, 344 and all training masses."
)
_verb(
    "neighbors", "Vary the numbers of graph neighbors. Attracting 0-4, repelling 0-6, lambda 1 (Fig. 3a of the paper)."
)
_verb("lambda", "Vary the graph's weight lambda from 0 to 3. Fig. 3b of the paper.")
_verb("calibration", "Measure calibration and abstention. Before and after the temperature, at the operating point.")
_verb("robustness", "Measure AUC under noise, blur and other changes. Also rotation, scale, contrast and other boxes.")
_verb(
    "shortcuts",
    "Look for shortcuts in the data. What shuffled labels, and a mass's border, brightness or size alone, can tell.",
)


@app.command(epilog="Example: diagnet study designs data/inbreast --arms designs.toml --out studies/designs")
@grouped
def designs(
    *,
    data: Data,
    asked: StudyOptions,
    arms: Arms,
    repeats: Repeats = 3,
    how: RunOptions,
) -> None:
    """Compare arms of your own."""
    _run("designs", _OnData([data]), asked, repeats, how, arms)


@app.command(
    epilog="Example: diagnet study transfer crops.csv mammograms.csv --out studies/transfer --test other=o.csv"
)
@grouped
def transfer(
    *,
    data: Annotated[list[Path], typer.Argument(help="Manifests (.csv), one a source.")],
    asked: StudyOptions,
    arms: OwnArms = None,
    test: Tests = None,
    distinct_patients: Annotated[
        bool, typer.Option("--distinct-patients", help="Patients of one name in two tables are two patients.")
    ] = False,
    repeats: Repeats = 1,
    how: RunOptions,
) -> None:
    """Train on each source and on all, and test on each.

    Boxes are tight and loose. With --arms, arms of your own, which name their sources and margins.
    """
    _run("transfer", _OnData(data, test or (), distinct_patients), asked, repeats, how, arms)


@app.command(epilog="Example: diagnet study search data/inbreast --trials 30 --out studies/search")
@grouped
def search(
    *,
    data: Data,
    out: Folder,
    trials: Annotated[int, typer.Option(help="Trials in each outer fold.", min=1)] = 20,
    space: Annotated[
        Path | None, typer.Option(help="TOML: a table of low, high, log or choices for each setting.")
    ] = None,
    folds: Folds = 5,
    repeats: Repeats = 1,
    resume: Resume = False,
    how: RunOptions,
) -> None:
    """Search settings with Optuna on inner folds.

    The chosen settings are then tested on the outer folds (choice.csv).
    """
    import sys

    from diagnet.cli.terminal import shown_progress
    from diagnet.study import search as searching
    from diagnet.study.running import Study, claim_study

    base = _settings(how, out, resume=resume)
    searched = searching.SPACE if space is None else searching.read_space(space)
    study = Study("search", (), (data.absolute(),), base, folds, repeats)
    mass_set = _mass_set([data], base)
    claim_study(study, mass_set, out, joins=resume)
    if not how.quiet:
        print(f"{trials} trials in each of {folds} folds, {trials * folds * repeats} runs in all", file=sys.stderr)
    try:
        with shown_progress(quiet=how.quiet) as progress:
            searching.search(study, mass_set, out, searched, trials, workers=how.workers, progress=progress)
    except KeyboardInterrupt:
        print(Interrupted, file=sys.stderr)
        raise typer.Exit(130) from None
    _print_tables(out, mass_set, as_json=how.as_json)


@app.command(epilog="Example: diagnet study tables studies/ablation --data data/inbreast")
def tables(
    out: Annotated[Path, typer.Argument(help="Folder of a study.")],
    data: Sources,
    test: Tests = None,
    seed_sd: SeedSd = None,
    as_json: Json = False,
) -> None:
    """Write a study's tables and pictures again from its rows."""
    from diagnet.config import read_config
    from diagnet.data.sources import source_names
    from diagnet.run.folder import read_json
    from diagnet.study.results.scores import RECORD
    from diagnet.study.results.transfer import parse_tests, read_tests

    config, names = read_config(), source_names(data)
    mass_set = _mass_set(data, config, distinct_patients=read_json(out / RECORD).get("distinct_patients", False))
    tests = read_tests(parse_tests(test or (), names), mass_set, config.classes)
    _print_tables(out, mass_set, names, tests, seed_sd=seed_sd, as_json=as_json)


@app.command(
    epilog="Example: diagnet study compare studies/ablation/plain studies/ablation/diagnet --data data/inbreast"
)
def compare(
    arms: Annotated[list[Path], typer.Argument(help="Folders of arms; the others are compared with the first.")],
    data: Sources,
    out: Annotated[Path | None, typer.Option(help="CSV file to write the figures to.", show_default=False)] = None,
    tested_on: Annotated[str | None, typer.Option(help="Source whose masses alone count. [default: all]")] = None,
    margin: Annotated[float | None, typer.Option(help="Padding factor of the masses. [default: the study's]")] = None,
    seed_sd: SeedSd = None,
    as_json: Json = False,
) -> None:
    """Compare the AUC of arms on the same masses.

    Paired differences by bootstrap over patients and by DeLong for clusters, p values corrected by Holm.
    """
    from diagnet.atomic import require_file
    from diagnet.config import read_config
    from diagnet.run.folder import read_json, write_table
    from diagnet.study.results.differences import compare_arms
    from diagnet.study.results.scores import RECORD
    from diagnet.study.results.tables import as_table

    if out is not None:
        require_file(out, "--out")
    distinct = read_json(arms[0].parent / RECORD).get("distinct_patients", False)
    masses = _mass_set(data, read_config(), distinct_patients=distinct)
    found = compare_arms(arms, masses, seed_sd, tested_on=tested_on, margin=margin)
    if out is not None:
        write_table(out, *as_table(found))
    if as_json:
        print_json({"differences": found})
    else:
        _print_differences(found)


@app.command(epilog="Example: diagnet study pack studies/ablation")
def pack(out: Annotated[Path, typer.Argument(help="Folder of a study.")], as_json: Json = False) -> None:
    """Put the rows of each arm into one file.

    The study can be gone on with, also by workers that are at it now.
    """
    from diagnet.study.running import pack_study

    n_files = pack_study(out)
    print_json({"out": str(out), "packed": n_files}) if as_json else print(f"{n_files} files packed in {out}")


def _settings(how: RunOptions, out: Path, *, resume: bool) -> "Config":
    """Settings all arms share: those given; a study that is taken up again has its own where none are given."""
    from diagnet.config import Config, read_config
    from diagnet.run.folder import read_json
    from diagnet.study.results.scores import RECORD

    nothing_given = not (how.config_file or how.preset or how.assignments)
    if resume and nothing_given and (out / RECORD).exists():
        return Config.stored(read_json(out / RECORD)["settings"])
    return read_config(how.config_file, how.preset, how.assignments or (), default="diagnet")


def _mass_set(data: Sequence[Path], config: Any, *, distinct_patients: bool = False) -> Any:
    from diagnet.data.prepared import mass_set_of
    from diagnet.data.sources import read_sources

    return mass_set_of(read_sources(data, config.classes, config.roi, distinct_patients=distinct_patients))


@dataclass(frozen=True, slots=True)
class _OnData:
    """What a study is on: sources, further tables, and whether one name is one patient."""

    data: Sequence[Path]
    tests: Sequence[str] = ()
    distinct_patients: bool = False


def _run(name: str, on: _OnData, asked: StudyOptions, repeats: int, how: RunOptions, arms: Path | None = None) -> None:
    """Run a study's part of the jobs, then write and print its tables as far as they go."""
    import sys

    from diagnet.cli.terminal import shown_progress
    from diagnet.data.sources import source_names
    from diagnet.study.arms import STUDIES, chosen_arms, read_arms
    from diagnet.study.results.scores import RECORD
    from diagnet.study.results.transfer import manifest_of, parse_tests, read_tests, transfer_arms
    from diagnet.study.running import Study, claim_study, parse_shard, run_study

    share = parse_shard(asked.shard)
    base = _settings(how, asked.out, resume=asked.resume)
    names = source_names(on.data)
    if name == "transfer":
        for path in on.data:
            manifest_of(path, base.classes, "DATA")
    ready = transfer_arms(names, base) if name == "transfer" else STUDIES.get(name, ())
    known = read_arms(arms, base) if arms is not None else ready
    study = Study(
        name,
        chosen_arms(known, asked.only),
        tuple(path.absolute() for path in on.data),
        base,
        asked.folds,
        repeats,
        parse_tests(on.tests, names),
        on.distinct_patients,
    )
    mass_set = _mass_set(study.data, base, distinct_patients=on.distinct_patients)
    tests = read_tests(study.tests, mass_set, base.classes)
    revisions = claim_study(study, mass_set, asked.out, joins=asked.resume or share[1] > 1, tests=tests)
    if not how.quiet:
        print(_announced(study, asked, how), file=sys.stderr)
        if len(revisions) > 1:
            print(
                f"{len(revisions)} revisions of diagnet have a part in this study ({RECORD}, revisions):"
                " make sure that its arms mean the same in all of them",
                file=sys.stderr,
            )
    try:
        with shown_progress(quiet=how.quiet) as progress:
            run_study(study, asked.out, workers=how.workers, shard=share, scheduler=asked.scheduler, progress=progress)
    except KeyboardInterrupt:
        print(Interrupted, file=sys.stderr)
        raise typer.Exit(130) from None
    _print_tables(asked.out, mass_set, names, tests, as_json=how.as_json)


def _announced(study: "Study", asked: StudyOptions, how: RunOptions) -> str:
    """How much work it is, and who does it."""
    import os

    workers = asked.scheduler or f"{how.workers or os.cpu_count()} workers"
    return (
        f"{len(study.jobs())} runs: {len(study.arms)} arms on {study.folds} folds, {study.repeats} times;"
        f" shard {asked.shard}, {workers}"
    )


def _print_tables(
    out: Path,
    mass_set: Any,
    names: Sequence[str] = (),
    tests: Mapping[str, Any] | None = None,
    *,
    seed_sd: float | None = None,
    as_json: bool,
) -> None:
    """Write a study's tables and print the main ones."""
    from diagnet.run.folder import read_json
    from diagnet.study.results.scores import RECORD
    from diagnet.study.results.tables import write_tables
    from diagnet.study.results.transfer import write_transfer

    moved: dict[str, Any] = {}
    if any(arm.get("margins") for arm in read_json(out / RECORD)["arms"].values()):
        moved["transfer"], moved["transfer_differences"] = write_transfer(out, mass_set, names, tests or {})
    figures, minus = write_tables(out, mass_set, seed_sd)
    if as_json:
        print_json({"out": str(out), "arms": figures, "differences": minus, **moved})
        return
    if moved:
        _print_transfer(moved["transfer"])
        _print_differences(moved["transfer_differences"])
        print(f"Tables: {out}")
        return
    for row in figures:
        together = _of_mean_score(row["auc_of_mean_score"])
        minutes = "" if row["minutes"] is None else f", {row['minutes']} min each"
        print(f"{row['arm']:<18} AUC {_interval_text(row['auc'])}{together}  {row['jobs']}/{row['of']} runs{minutes}")
    _print_differences(minus)
    print(f"Tables: {out}")


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _print_transfer(rows: Any) -> None:
    """A line for each arm and what it was tested on; a column for each margin."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        told = f"x{row['margin']:g} {_interval_text(row['auc'])}"
        lines.setdefault((row["arm"], row["tested_on"]), [f"{row['jobs']}/{row['of']} runs"]).append(told)
    for (arm, tested_on), (jobs, *aucs) in sorted(lines.items()):
        print(f"{arm} on {tested_on}: AUC {'; '.join(aucs)}  {jobs}")


_SEEDS = {
    "own": "",
    "borrowed": ", luck of seeds borrowed",
    "given": ", luck of seeds given",
    "none": ", luck of seeds not known",
}


def _print_differences(found: Any) -> None:
    for row in found:
        p = "" if row["p_holm"] is None else f"  p {_chance(row['p_holm'])} (Holm, bootstrap)"
        p += "" if row["delong_p_holm"] is None else f", {_chance(row['delong_p_holm'])} (DeLong)"
        print(
            f"{row['arm']} minus {row['against']}{_where(row)}: {_interval_text(row['auc'], sign='+')}{p},"
            f" {row['jobs']} runs{_SEEDS[row['seeds']]}{_of_mean_score(row['of_mean_score'], sign='+')}"
        )


def _where(row: Any) -> str:
    return f" on {row['tested_on']} x{row['margin']:g}" if "tested_on" in row else ""


def _of_mean_score(interval: Any, sign: str = "") -> str:
    """The same of each mass's mean score, where all repeats are done."""
    return "" if interval["value"] is None else f"; mean score of all repeats {_interval_text(interval, sign)}"


def _interval_text(interval: Any, sign: str = "") -> str:
    if interval["value"] is None:
        return "-"
    return "{:{s}.3f} ({:{s}.3f} to {:{s}.3f})".format(*(interval[k] for k in ("value", "low", "high")), s=sign)
