"""Verbs on masses alone: prepare, augment."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diagnet.cli.shared import (
    Assignments,
    ConfigFile,
    Data,
    Json,
    Out,
    Preset,
    Quiet,
    Resume,
    Seed,
    Workers,
    print_json,
    read_data,
)


class Source(StrEnum):
    """The kinds of data set that `prepare` reads."""

    inbreast = "inbreast"
    cbis_ddsm = "cbis-ddsm"
    manifest = "manifest"


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
    """Cut the masses of a data set and count what was left out."""
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_config
    from diagnet.data.cbis_ddsm import read_cbis_ddsm
    from diagnet.data.inbreast import read_inbreast
    from diagnet.data.manifest import read_manifest
    from diagnet.data.prepared import describe, write_prepared

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
        print_json({"out": str(out), **facts, "left_out": dict(masses.left_out), "notes": dict(masses.notes)})
    else:
        print("\n".join([*describe(masses), f"Prepared data: {out}"]))


def augment(
    data: Data,
    out: Out,
    mode: Annotated[str | None, typer.Option(help="subspace or pixel (as in the paper). [default: subspace]")] = None,
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
    """Make positive and negative neighbors of all masses.

    Writes images, their provenance and a contact sheet (Sec. 3.1 of the paper).
    """
    from diagnet.cli.terminal import shown_progress
    from diagnet.config import read_config
    from diagnet.run.augmentation import write_augmentation

    changes = [*(assignments or ())]
    changes += [] if mode is None else [f"neighbors.search_space={mode}"]
    changes += [] if budget is None else [f"neighbors.budget={budget}"]
    config = read_config(config_file, preset, changes, seed, default="diagnet")
    try:
        with shown_progress(quiet=quiet) as progress:
            summary = write_augmentation(
                config, read_data(data, config), out, resume=resume, workers=workers, progress=progress
            )
    except KeyboardInterrupt:
        print("diagnet: interrupted. Fix: --resume keeps the neighbors found so far", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"out": str(out), **summary})
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
