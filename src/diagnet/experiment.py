"""Fig. 1a as one function: split, augment, graph, train, evaluate, write the run folder."""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diagnet.atomic import write_text
from diagnet.config import Config
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared, mass_set_of
from diagnet.data.regions import read_regions
from diagnet.data.splits import Split, check_disjoint, make_folds, make_split
from diagnet.errors import DataError
from diagnet.evaluation.figures import across_folds, evaluate, figures_by_source, point_auc
from diagnet.evaluation.lesions import figures_by_lesion, lesion_groups, sightings_of
from diagnet.evaluation.predictions import Predictions
from diagnet.memory import keep_freed_memory
from diagnet.progress import Progress, silent
from diagnet.run.augmentation import Unlabelled, to_draw_from
from diagnet.run.checkpoint import array_hash
from diagnet.run.fold import Data, Fold, FoldScores, predictions_of, run_fold
from diagnet.run.folder import claim, git_revision, held, now, require_text, versions, write_metrics, write_record
from diagnet.run.model_card import write_model_card
from diagnet.run.report import require_report, write_report
from diagnet.run.seal import seal, seal_key
from diagnet.run.tables import PARTS, PlacedMass, scored_masses, write_predictions, write_split
from diagnet.training.distributed import Processes

SCHEMA_VERSION = 1
_SPLIT, _BOOTSTRAP = 0, 3  # each step draws from a stream of its own; 1 and 2 are the folds'


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder, what `metrics.json` says, and the scores of its test masses."""

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Predictions


def run_experiment(
    config: Config,
    masses: MassSet | Prepared,
    out: Path | str,
    *,
    resume: bool = False,
    with_report: bool = True,
    workers: int | None = None,
    command: str = "",
    progress: Progress = silent,
    processes: Processes = Processes(),  # noqa: B008 -- frozen, so sharing it is safe
) -> Run:
    """Run DiagNet from masses to an evaluated diagnosis (Fig. 1a) and write the run folder.

    Everything fitted (neighbors, graph, intensity, network, temperature, threshold) is fitted on the training and
    validation parts; test masses are scored once, at the end. With `evaluation.folds` > 1 each mass is tested once,
    by the network of the fold that never saw its patient.

    Args:
        config: all settings.
        masses: labeled masses, or a prepared folder; of several sources as `diagnet.data.sources` reads them.
        out: the run folder: absent, empty, or unfinished with `resume`.
        resume: take an unfinished run up again, from its last checkpoint.
        with_report: write report.html (needs the extra `report`).
        workers: processes for reading images and for the search; the result does not depend on it.
        command: what the user typed, for the record.
        progress: told about each stage.
        processes: those that train together (`diagnet.training.distributed.process_group`); each calls this with the
            same arguments, and the first alone writes.

    Returns:
        The finished run.

    Raises:
        DataError: the masses cannot be split or read, or the name of one is no text.
        RunFolderError: the folder is taken, or cannot be written.
        RunInUseError: another process is writing it.
        MissingExtraError: the report is wanted and matplotlib is not installed.
    """
    out = Path(out)
    if with_report:
        require_report()
    with held(out) if processes.is_first else nullcontext():
        return _run(config, masses, out, resume, with_report, workers, command, progress, processes)


def _run(
    config: Config,
    masses: MassSet | Prepared,
    out: Path,
    resume: bool,
    with_report: bool,
    workers: int | None,
    command: str,
    progress: Progress,
    processes: Processes,
) -> Run:
    """Run the experiment in a folder that no other process writes: read, split, train each fold, evaluate, report."""
    keep_freed_memory()
    began, started = time.perf_counter(), now()
    mass_set = mass_set_of(masses)
    if mass_set.classes != config.classes:
        raise DataError(f"`classes` must be those of the data, {mass_set.classes}, got {config.classes}")
    require_text(mass_set)
    notes: list[str] = []
    if isinstance(masses, Prepared):
        if masses.settings != config.roi:
            notes.append(f"roi settings are the prepared folder's: {masses.settings}")
            config = config.model_copy(update={"roi": masses.settings})
        images, data_hash, facts, wide = masses.images, masses.sha256, masses.facts, masses.surroundings
        if config.training.needs_surroundings and wide is None:
            notes.append("the prepared folder holds no surroundings: no region is drawn. Fix: prepare the masses again")
    else:
        regions = read_regions(
            mass_set,
            config.roi,
            surroundings=config.training.needs_surroundings,
            workers=workers,
            progress=progress,
        )
        mass_set, images, facts, wide = regions.mass_set, regions.images, regions.facts, regions.wide
        data_hash = array_hash(images)
    surroundings = to_draw_from(wide, config.roi) if config.training.needs_surroundings else None
    names, patients = mass_set.image_names, mass_set.patients
    unlabelled = _unlabelled(config, mass_set, workers, progress)
    data = Data(images, mass_set, mass_set.labels, names, patients, facts, surroundings, unlabelled)
    splits, split_notes = _splits(config, data)
    notes += split_notes
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    binding: dict[str, Any] = {"settings": config.to_toml(), "data": data_hash}
    if mass_set.sources:  # the hash is of the images; who is one patient decides the split
        binding |= {"sources": list(mass_set.sources), "patients": "distinct" if mass_set.distinct_patients else "one"}
    if unlabelled is not None:
        binding["unlabelled"] = array_hash(unlabelled.images)
    if processes.is_first:
        claim(out, binding, resume=resume)
    compute = config.training.compute(config.network)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "preset": config.preset,
        "seed": config.seed,
        "device": str(compute.device),
        "precision": compute.precision,
        "memory_format": compute.memory_format,
        "processes": processes.size,
        "command": command,
        "git_revision": git_revision(),
        "started": started,
        "duration_s": None,
        "versions": versions(),
        "data": {
            "source": mass_set.source,
            "sha256": data_hash,
            "classes": list(data.classes),
            "left_out": dict(mass_set.left_out),
            "notes": dict(mass_set.notes),
            "unlabelled": 0 if unlabelled is None else len(unlabelled.masses),
            "synthetic": mass_set.is_synthetic,
            **_sources(mass_set),
        },
        "counts": {part: _counts(data, getattr(splits[0], part)) for part in PARTS},
        "warnings": notes,
        "binding": binding,
    }
    if len(splits) > 1:
        record["counts"] = {"all folds": _counts(data, np.arange(len(data.labels)))}
    if processes.is_first:
        write_record(out, record)
        write_text(out / "config.toml", config.to_toml())
        write_split(out, _placed_masses(data, splits))

    history: list[dict[str, Any]] = []
    folds = []
    for number, split in enumerate(splits):
        fold = Fold(config, data, split, number, out, workers, progress, processes)
        folds.append(run_fold(fold, history))

    progress("evaluate", 0, 1)
    predictions, thresholds = _predictions(out if processes.is_first else None, data, folds)
    metrics = _metrics(config, data, folds, predictions, thresholds)
    if not processes.is_first:
        return Run(out, metrics, predictions)
    write_metrics(out, metrics)
    progress("evaluate", 1, 1)
    record |= {"status": "finished", "duration_s": round(time.perf_counter() - began, 1)}
    write_model_card(out, config, record, metrics)
    if with_report:
        progress("report", 0, 1)
        # The report reads run.json; the run itself is finished only once its report is there.
        write_record(out, record | {"status": "reporting"})
        write_report(out, data.images)
        progress("report", 1, 1)
    seal(out, seal_key())
    write_record(out, record | {"sealed": True})
    return Run(out, metrics, predictions)


def _unlabelled(config: Config, mass_set: MassSet, workers: int | None, progress: Progress) -> Unlabelled | None:
    """Read the masses without a label, where a pretrained network is to learn from known edges; there may be none."""
    if not config.has_known_edges:
        return None
    if not mass_set.unlabelled:
        return Unlabelled(np.empty((0, config.roi.size, config.roi.size), np.float32), (), ())
    regions = read_regions(
        replace(mass_set, masses=mass_set.unlabelled),
        config.roi,
        surroundings=config.training.needs_surroundings,
        workers=workers,
        progress=progress,
    )
    around = to_draw_from(regions.wide, config.roi) if config.training.needs_surroundings else None
    return Unlabelled(regions.images, regions.mass_set.masses, regions.mass_set.patients, around)


def _splits(config: Config, data: Data) -> tuple[list[Split], list[str]]:
    """Split, check that no patient is on two sides, and return what was warned about."""
    rng = np.random.default_rng([config.seed, _SPLIT])
    names, folds = data.names, config.evaluation.folds
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if folds == 1:
            splits = [make_split(data.patients, names, data.labels, config.split, rng=rng)]
        else:
            splits = make_folds(data.patients, names, data.labels, folds, config.split, rng=rng)
    by_image = config.split.method == "image80_20"
    for split in splits:
        check_disjoint(split, names if by_image else data.patients, unit="image" if by_image else "patient")
    return splits, [str(warning.message) for warning in caught]


def _sources(mass_set: MassSet) -> dict[str, Any]:
    """What run.json says of each of several sources; nothing of a single one."""
    if not mass_set.sources:
        return {}
    whose = list(zip(mass_set.masses, mass_set.patients, strict=True))
    counted = {
        name: {
            "source": source,
            "masses": sum(mass.source == name for mass, _ in whose),
            "patients": len({patient for mass, patient in whose if mass.source == name}),
        }
        for name, source in mass_set.sources.items()
    }
    return {"sources": counted, "distinct_patients": mass_set.distinct_patients}


def _counts(data: Data, part: Int[np.ndarray, "mass"]) -> dict[str, int]:
    """How many masses, images, patients, and masses of each class."""
    per_class = {name: int((data.labels[part] == label).sum()) for label, name in enumerate(data.classes)}
    return {
        "masses": len(part),
        "images": len({data.names[i] for i in part}),
        "patients": len({data.patients[i] for i in part}),
        **per_class,
    }


def _placed_masses(data: Data, splits: Sequence[Split]) -> list[PlacedMass]:
    """Which part each mass is in, fold by fold."""
    places = []
    for fold, split in enumerate(splits):
        for part in PARTS:
            places += [(fold, int(index), part) for index in getattr(split, part)]
    masses = data.mass_set.masses
    return [
        PlacedMass(
            index=index,
            image=data.names[index],
            patient_id=masses[index].patient_id,
            label=data.classes[data.labels[index]],
            fold=fold,
            part=part,
            source=masses[index].source,
        )
        for fold, index, part in sorted(places)
    ]


def _predictions(
    out: Path | None, data: Data, folds: Sequence[FoldScores]
) -> tuple[Predictions, Float[np.ndarray, "mass"]]:
    """Each test mass once, in the order of the table it came from, and its threshold; `out` gets predictions.csv."""
    index = np.concatenate([fold.split.test for fold in folds])
    order = np.argsort(index, kind="stable")
    chances, raw = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("probabilities", "raw"))
    number = np.repeat(np.arange(len(folds)), [len(fold.split.test) for fold in folds])[order]
    thresholds = np.array([fold.threshold for fold in folds])[number]
    predictions = predictions_of(data, index[order], chances[order])
    if out is not None:
        scored = scored_masses(
            predictions,
            data.mass_set.masses,
            index[order],
            raw_score=predictions_of(data, index[order], raw[order]).malignancy,
            threshold=thresholds,
            fold=number,
        )
        write_predictions(out, scored)
    return predictions, thresholds


def _metrics(
    config: Config,
    data: Data,
    folds: Sequence[FoldScores],
    predictions: Predictions,
    thresholds: Float[np.ndarray, "mass"],
) -> dict[str, Any]:
    """What metrics.json holds: figures of the pooled test masses, and their spread over folds."""
    seed = [config.seed, _BOOTSTRAP]
    test: dict[str, Any] = {**evaluate(predictions, thresholds, config.evaluation, rng=np.random.default_rng(seed))}
    tested = np.sort(np.concatenate([fold.split.test for fold in folds]))  # the order of the predictions
    masses = [data.mass_set.masses[index] for index in tested]
    if data.mass_set.sources:
        sources = [mass.source for mass in masses]
        test["by_source"] = figures_by_source(
            predictions, sources, list(data.mass_set.sources), config.evaluation, seed=seed
        )
    lesions = lesion_groups(sightings_of(masses, predictions.patients))
    if by_lesion := figures_by_lesion(predictions, lesions, config.evaluation, seed=seed):
        test["by_lesion"] = by_lesion
    one_by_one = [predictions_of(data, fold.split.test, fold.probabilities) for fold in folds]
    accuracies = [
        float(((each.malignancy >= fold.threshold) == (each.malignant == 1)).mean())
        for each, fold in zip(one_by_one, folds, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "synthetic": data.mass_set.is_synthetic,
        "test": test,
        "threshold": {
            "value": float(np.mean([fold.threshold for fold in folds])),
            "rule": config.evaluation.operating_point,
            "chosen_on": "validation masses",
        },
        "temperature": float(np.mean([fold.temperature for fold in folds])),
        "folds": {
            "n": len(folds),
            "auc": across_folds([point_auc(each) for each in one_by_one]),
            "accuracy": across_folds(accuracies),
        },
    }
