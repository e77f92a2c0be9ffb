"""Trained here, tested there: arms on each source and on all, tested on each, with wider and tighter boxes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool

from diagnet.config import LITE0, Config, merged
from diagnet.data.mass import MassSet, malignant_class
from diagnet.data.prepared import Prepared, read_data
from diagnet.data.sources import merged as one_set
from diagnet.errors import DataError, SettingsError
from diagnet.evaluation.bootstrap import Interval
from diagnet.run.folder import read_json, write_table
from diagnet.study.arms import PLAIN, Arm
from diagnet.study.jobs import margin_part
from diagnet.study.results.choice import choose
from diagnet.study.results.differences import differences
from diagnet.study.results.pictures import write_transfer_picture
from diagnet.study.results.row_files import read_jobs
from diagnet.study.results.scores import (
    RECORD,
    Truth,
    identity,
    jobs_done,
    percentiles,
    resampled,
    restricted_to,
    scores_of,
    truth_of,
)
from diagnet.study.results.seed_luck import SeedLuck, on_same_draws
from diagnet.study.results.tables import as_table

CHOSEN = "(chosen)"  # no arm of a user has such a name
MARGINS = (1.0, 1.1, 1.6, 2.2)  # padding factors: boxes drawn tight and loose
_Rows = Bool[np.ndarray, "mass"]
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}"


class TransferRow(TypedDict):
    """How well an arm tells masses of one kind apart.

    Attributes:
        arm: its name.
        tested_on: a source of the study, or a further table.
        margin: padding factor of the test masses.
        masses: how many were scored.
        jobs: trainings that are done.
        of: trainings wanted.
        auc: mean over the trainings, with an interval by patient.
    """

    arm: str
    tested_on: str
    margin: float
    masses: int
    jobs: int
    of: int
    auc: Interval


def transfer_arms(names: Sequence[str], base: Config) -> tuple[Arm, ...]:
    """Arms of a study on sources of these names: each method, trained on each source and on all.

    Plain cross-entropy takes as many steps as the method, whose neighbors make an epoch longer.
    """
    together = next(name for name in ("both" if len(names) == 2 else "all", "together", "_") if name not in names)
    trained_on: dict[str, tuple[str, ...] | None] = {_folder(name): (name,) for name in names}
    if len(trained_on) < len(names):
        raise SettingsError(f"`DATA` must have names that differ in letters and digits, got {', '.join(names)}")
    trained_on = {**trained_on, together: None} if len(names) > 1 else dict.fromkeys(trained_on)
    frozen = merged(LITE0, {"network": {"trainable": "none"}})
    plain = _plain(base.model_dump(mode="json"))
    both = ("region", "image")
    methods: tuple[tuple[str, str, Mapping[str, Any], tuple[str, ...]], ...] = (
        ("plain", "plain cross-entropy, as many steps as the preset", plain, both),
        ("diagnet", "the preset", {}, both),
        ("frozen", "ImageNet features and a logistic regression", frozen, both),
        ("lite0", "the preset lite0", LITE0, both[:1]),
    )
    return tuple(
        Arm(
            f"{name}-{method}-{grey_range}",
            f"{what}, trained on {name}, grey values of the {grey_range}",
            merged(changes, {"roi": {"grey_range": grey_range}}),
            sources=sources,
            margins=MARGINS,
        )
        for name, sources in trained_on.items()
        for method, what, changes, grey_ranges in methods
        for grey_range in grey_ranges
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that make plain cross-entropy of a study's settings, in as many steps."""
    neighbors = merged({}, settings)["neighbors"]  # old names are read
    per_mass = 1 + neighbors["positive_ratio"] + neighbors["negative_ratio"]
    return merged(PLAIN, {"training": {"epochs": round(settings["training"]["epochs"] * per_mass)}})


def parse_tests(given: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """`NAME=TABLE` -> name and path of further masses.

    Args:
        given: as typed.
        names: of the study's sources.

    Raises:
        SettingsError: it is no such text, or a name is taken.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (equals and path and re.fullmatch(_NAME, name)):
            raise SettingsError(f"`--test` must be NAME=TABLE, a name of letters, digits and `_.+-`, got {text!r}")
        if name in found or name in names or name in ("test", "validation"):
            raise SettingsError(f"`--test` must have a name of its own, got {name!r} again")
        found[name] = Path(path).absolute()
    return tuple(found.items())


def read_tests(tests: Sequence[tuple[str, Path]], mass_set: MassSet, classes: tuple[str, ...]) -> dict[str, MassSet]:
    """Read further masses of a study, none of whose patients may be the study's.

    Raises:
        DataError: a table cannot be read, is a prepared folder, or shares patients or images with the study.
    """
    found = {name: manifest_of(path, classes, "--test") for name, path in tests}
    own = {mass.patient_id for mass in mass_set.masses}
    for name, test in found.items():
        shared = own & {mass.patient_id for mass in test.masses}
        if shared and not mass_set.distinct_patients:
            raise DataError(
                f"`--test` must hold no patient of the study, got {len(shared)} of them in {name}."
                " Fix: leave them out, or give --distinct-patients where they are other people of the same names."
            )
        one_set({"DATA": mass_set, name: test}, distinct_patients=True)  # refuses an image that both have
    return found


def manifest_of(path: Path, classes: tuple[str, ...], option: str) -> MassSet:
    """Read a manifest, whose images can be cut again with other margins.

    Raises:
        DataError: it cannot be read, or is a prepared folder.
    """
    found = read_data(path, classes)
    if isinstance(found, Prepared):
        raise DataError(
            f"`{option}` must be a manifest of images, to cut them with other margins, got a prepared {path}"
        )
    return found


def write_transfer(
    out: Path, mass_set: MassSet, names: Sequence[str], tests: Mapping[str, MassSet]
) -> tuple[list[TransferRow], list[dict[str, Any]]]:
    """Write what a study of transfer found, from its rows: `transfer.csv`, `transfer_differences.csv`, `transfer.svg`.

    Of two or more arms that hold out an inner fold, what the inner folds choose is an arm too, `(chosen)`.

    Args:
        out: the study's folder.
        mass_set: its masses.
        names: of its sources.
        tests: further masses by name.

    Raises:
        DataError: masses are not those of the study, or rows cannot be read.
    """
    record = read_json(out / RECORD)
    _check_same(record, mass_set, tests)
    repeats, n_folds = record["repeats"], record["folds"]
    arms = {name: read_jobs(out / name, repeats) for name, arm in record["arms"].items() if arm.get("margins")}
    truth = truth_of(mass_set, n_folds)
    margins = sorted({margin for name in arms for margin in record["arms"][name]["margins"]})
    held_out = {name: jobs for name, jobs in arms.items() if record["arms"][name]["holdout"]}
    if picked := choose(held_out, truth, repeats):
        arms[CHOSEN] = {(fold, r): held_out[one.arm][fold, r] for fold, one in picked.items() for r in one.repeats}
    source_of = np.array([mass.source or names[0] for mass in mass_set.masses])
    kinds: dict[str, tuple[Truth, _Rows | None]] = {name: restricted_to(truth, source_of == name) for name in names}
    kinds |= {name: (_as_one_fold(test), None) for name, test in tests.items()}
    rows: list[TransferRow] = []
    minus: list[dict[str, Any]] = []
    for tested_on, (measured, here) in kinds.items():
        for margin in margins:
            part = margin_part("test" if here is not None else tested_on, margin)
            found = {}
            for name, jobs in arms.items():
                if here is None:
                    scores = scores_of(name, jobs, len(measured.targets), repeats, part, n_folds)
                else:
                    scores = scores_of(name, jobs, len(here), repeats, part).of(here)
                done = jobs_done(scores, measured)
                rows.append(
                    {
                        "arm": name,
                        "tested_on": tested_on,
                        "margin": margin,
                        "masses": len(measured.targets),
                        "jobs": int(done.sum()),
                        "of": done.size,
                        "auc": percentiles(resampled(scores, measured)),
                    }
                )
                if done.any():
                    found[name] = scores
            pairs = pairs_on_sources([name for name in found if name != CHOSEN], record)
            pairs += [(CHOSEN, name) for name in held_out if CHOSEN in found and name in found]
            compared = {name: found[name] for pair in pairs for name in pair}
            drawn = on_same_draws([arm for name, arm in compared.items() if name != CHOSEN], record)
            luck = SeedLuck.of(list(compared.values()), measured, same_draws=drawn)
            minus += [
                {"tested_on": tested_on, "margin": margin, **row}
                for row in differences([(found[a], found[b]) for a, b in pairs], measured, luck)
            ]
    write_table(out / "transfer.csv", *as_table(rows))
    if minus:
        write_table(out / "transfer_differences.csv", *as_table(minus))
    write_transfer_picture(out, rows)
    return rows, minus


def pairs_on_sources(names: Sequence[str], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each arm with plain cross-entropy on the same masses and range, and each of range `region` with its `image`."""
    described = {name: record["arms"][name] for name in names}
    settings = {name: merged(record["settings"], arm["changes"]) for name, arm in described.items()}
    plain: dict[tuple[Any, ...], str] = {}

    def place(name: str) -> tuple[Any, ...]:
        arm = described[name]
        return str(arm.get("sources")), arm.get("n_train"), arm.get("holdout"), settings[name]["roi"]["grey_range"]

    def trained(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in ("graph", "roi")}

    plains = [trained(merged(record["settings"], changes)) for changes in (PLAIN, _plain(record["settings"]))]
    for name, own in settings.items():
        is_network = described[name]["method"] == "network"
        if is_network and trained(own) in plains:
            plain.setdefault(place(name), name)
    pairs = []
    for name, own in settings.items():
        against = plain.get(place(name))
        if against not in (None, name):
            pairs.append((name, str(against)))
        if own["roi"]["grey_range"] == "region":
            other = merged(own, {"roi": {"grey_range": "image"}})
            same = (described[name]["method"], described[name].get("sources"), other)
            pairs += [
                (name, each)
                for each in names
                if (described[each]["method"], described[each].get("sources"), settings[each]) == same
            ]
    return pairs


def _as_one_fold(test: MassSet) -> Truth:
    """Further masses: each training scores all of them, as a repeat of one fold."""
    targets = test.labels == malignant_class(test.classes)
    return Truth(targets, test.patient_numbers, np.zeros(len(targets), np.int64))


def _check_same(record: Mapping[str, Any], mass_set: MassSet, tests: Mapping[str, MassSet]) -> None:
    if record["data"] != identity(mass_set):
        raise DataError("`--data` must be the study's data, in the order it was given, got other masses")
    known = record.get("tests", {})
    if known != {name: identity(test) for name, test in tests.items()}:
        raise DataError(f"`--test` must give the study's further tables, {', '.join(known) or 'none'}, got others")


def _folder(name: str) -> str:
    """A source's name as part of an arm's folder."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", name).lstrip("_.+-") or "data"
