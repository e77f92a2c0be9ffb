"""Fig. 1a as one function: split, augment, graph, train, evaluate, write the run folder."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import save_npz

from diagnet.arrays import Images, Labels
from diagnet.atomic import atomic_path, write_text
from diagnet.augmentation import augment, write_neighbors
from diagnet.calibration import choose_threshold, fit_temperature, probabilities
from diagnet.checkpoint import array_hash, read_checkpoint, read_weights, write_checkpoint, write_weights
from diagnet.config import Config
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared
from diagnet.data.roi import read_rois
from diagnet.data.splits import Split, check_disjoint, make_folds, make_split
from diagnet.errors import DataError
from diagnet.evaluation import across_folds, evaluate, point_auc
from diagnet.model_card import write_model_card
from diagnet.network import SeparableNetwork
from diagnet.predictions import Predictions
from diagnet.progress import Progress, silent
from diagnet.report import require_report, write_report
from diagnet.run_folder import claim, git_revision, now, versions, write_json, write_predictions, write_table
from diagnet.training import TrainingState, embeddings_and_logits, resolved_precision, start, train

SCHEMA_VERSION = 1
_PARTS = ("train", "validation", "test")
_SPLIT, _SEARCH, _TRAINING, _BOOTSTRAP = range(4)  # each step draws from a stream of its own


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder, what `metrics.json` says, and the scores of its test masses."""

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Predictions


@dataclass(frozen=True, slots=True)
class _Data:
    """The masses of an experiment, aligned."""

    images: Images
    mass_set: MassSet
    labels: Labels
    names: list[str]  # of the image files
    patients: list[str]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.mass_set.classes


@dataclass(frozen=True, slots=True)
class _Fold:
    """What a fold's network says of its test masses."""

    split: Split
    probabilities: Float[np.ndarray, "mass classes"]
    raw: Float[np.ndarray, "mass classes"]
    temperature: float
    threshold: float


def run_experiment(
    config: Config,
    masses: MassSet | Prepared,
    out: Path,
    *,
    resume: bool = False,
    with_report: bool = True,
    workers: int | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Run DiagNet from masses to an evaluated diagnosis (Fig. 1a) and write the run folder.

    Everything fitted (neighbors, graph, intensity, network, temperature, threshold) is fitted on the training and
    validation parts; test masses are scored once, at the end. With `evaluation.folds` > 1 each mass is tested once,
    by the network of the fold that never saw its patient.

    Args:
        config: all settings.
        masses: labeled masses, or a prepared folder.
        out: the run folder: absent, empty, or unfinished with `resume`.
        resume: take an unfinished run up again, from its last checkpoint.
        with_report: write report.html (needs the extra `report`).
        workers: processes for reading images and for the search; the result does not depend on it.
        command: what the user typed, for the record.
        progress: told about each stage.

    Returns:
        The finished run.

    Raises:
        DataError: the masses cannot be split or read.
        RunFolderError: the folder is taken, or cannot be written.
        MissingExtraError: the report is wanted and matplotlib is not installed.
    """
    if with_report:
        require_report()
    began, started = time.perf_counter(), now()
    mass_set = masses.mass_set if isinstance(masses, Prepared) else masses
    if mass_set.classes != config.classes:
        raise DataError(f"`classes` must be those of the data, {mass_set.classes}, got {config.classes}")
    notes: list[str] = []
    if isinstance(masses, Prepared):
        if masses.settings != config.roi:
            notes.append(f"roi settings are the prepared folder's: {masses.settings}")
            config = config.model_copy(update={"roi": masses.settings})
        images, data_hash = masses.images, masses.sha256
    else:
        images = read_rois(mass_set.masses, config.roi, workers=workers, progress=progress)
        data_hash = array_hash(images)
    data = _Data(images, mass_set, mass_set.labels, mass_set.image_names, mass_set.patients)
    splits, split_notes = _splits(config, data)
    notes += split_notes
    binding = {"settings": config.to_toml(), "data": data_hash}
    claim(out, binding, resume=resume)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "preset": config.preset,
        "seed": config.seed,
        "device": "cpu",
        "precision": resolved_precision(config.training.precision),
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
        },
        "counts": {part: _counts(data, getattr(splits[0], part)) for part in _PARTS},
        "warnings": notes,
        "binding": binding,
    }
    if len(splits) > 1:
        record["counts"] = {"all folds": _counts(data, np.arange(len(data.labels)))}
    write_json(out / "run.json", record)
    write_text(out / "config.toml", config.to_toml())
    _write_splits(out, data, splits)

    history: list[dict[str, Any]] = []
    folds = []
    for number, split in enumerate(splits):
        folds.append(_run_fold(config, data, split, number, out, history, workers, progress))

    progress("evaluate", 0, 1)
    predictions, thresholds = _write_predictions(out, data, folds)
    metrics = _metrics(config, data, folds, predictions, thresholds)
    write_json(out / "metrics.json", metrics)
    progress("evaluate", 1, 1)
    record |= {"status": "finished", "duration_s": round(time.perf_counter() - began, 1)}
    write_model_card(out, record, metrics)
    if with_report:
        progress("report", 0, 1)
        # The report reads run.json; the run itself is finished only once its report is there.
        write_json(out / "run.json", record | {"status": "reporting"})
        write_report(out, data.images)
        progress("report", 1, 1)
    write_json(out / "run.json", record)
    return Run(out, metrics, predictions)


def _splits(config: Config, data: _Data) -> tuple[list[Split], list[str]]:
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


def _counts(data: _Data, part: Int[np.ndarray, "mass"]) -> dict[str, int]:
    """How many masses, images, patients, and masses of each class."""
    per_class = {name: int((data.labels[part] == label).sum()) for label, name in enumerate(data.classes)}
    return {
        "masses": len(part),
        "images": len({data.names[i] for i in part}),
        "patients": len({data.patients[i] for i in part}),
        **per_class,
    }


def _run_fold(
    config: Config,
    data: _Data,
    split: Split,
    number: int,
    out: Path,
    history: list[dict[str, Any]],
    workers: int | None,
    progress: Progress,
) -> _Fold:
    """Train on one split and score its test masses; a network that an interrupted run had finished is read back."""
    weights = out / "model" / f"fold-{number}.safetensors"
    if not weights.with_suffix(".json").exists():
        state = _trained(config, data, split, number, out, history, workers, progress)
        labels = data.labels[split.validation]
        logits = embeddings_and_logits(state.network, data.images[split.validation])[1].astype(np.float64)
        temperature = fit_temperature(labels, logits)
        validation = _predictions(data, split.validation, probabilities(logits, temperature))
        facts: dict[str, Any] = {
            "classes": list(data.classes),
            "roi": config.roi.model_dump(mode="json"),
            "temperature": temperature,
            "threshold": choose_threshold(
                validation.malignant, validation.malignancy, config.evaluation.operating_point
            ),
            "history": state.history,
        }
        write_weights(weights, state.network, facts)
    network, facts = read_weights(weights)
    history += facts["history"]
    if number == 0:
        _write_embeddings(out, network, data, split)
    logits = embeddings_and_logits(network, data.images[split.test])[1].astype(np.float64)
    return _Fold(
        split,
        probabilities(logits, facts["temperature"]),
        probabilities(logits, 1.0),
        facts["temperature"],
        facts["threshold"],
    )


def _trained(
    config: Config,
    data: _Data,
    split: Split,
    number: int,
    out: Path,
    history: list[dict[str, Any]],
    workers: int | None,
    progress: Progress,
) -> TrainingState:
    """Augment, build the graph and train on one split's training part; write what the report shows of fold 0."""
    folder = out if config.evaluation.folds == 1 else out / f"fold-{number}"
    patients = np.unique(data.patients, return_inverse=True)[1].astype(np.int64)
    points, neighbors, origin = augment(
        config,
        np.array(data.images[split.train]),
        data.labels[split.train],
        patients[split.train],
        rng=np.random.default_rng([config.seed, _SEARCH, number]),
        workers=workers,
        progress=progress,
    )
    parents = split.train[origin[len(origin) - len(neighbors.kinds) :]]
    write_neighbors(folder, neighbors, parents, data.mass_set, config.neighbors)
    seed = int(np.random.SeedSequence([config.seed, _TRAINING, number]).generate_state(1)[0])
    state = start(points, config.network, config.graph, config.training, seed=seed)
    binding = {"seed": seed, "settings": config.to_toml(), "points": array_hash(points.images)}
    checkpoints = folder / "checkpoints"
    state = read_checkpoint(checkpoints, state, binding) or state
    validation_labels = data.labels[split.validation]
    validation_images = np.array(data.images[split.validation])

    def on_epoch(state: TrainingState) -> None:
        logits = embeddings_and_logits(state.network, validation_images)[1].astype(np.float64)
        chances = probabilities(logits, 1.0)
        own = np.clip(chances[np.arange(len(chances)), validation_labels], 1e-12, 1)
        state.history[-1] |= {
            "fold": number,
            "validation_loss": float(-np.log(own).mean()),
            "validation_auc": point_auc(_predictions(data, split.validation, chances)),
        }
        write_checkpoint(checkpoints, state, binding)
        _write_history(out, history + state.history)

    state = train(
        state,
        points,
        config.graph,
        config.training,
        seed=seed,
        on_epoch=on_epoch,
        progress=progress,
        stage="train" if config.evaluation.folds == 1 else f"train fold {number + 1}/{config.evaluation.folds}",
    )
    if state.graph is not None:
        with atomic_path(folder / "graph.npz") as temporary:
            save_npz(temporary, state.graph.signs)
    return state


def _predictions(data: _Data, part: Int[np.ndarray, "mass"], chances: Float[np.ndarray, "mass classes"]) -> Predictions:
    return Predictions(
        images=tuple(data.names[i] for i in part),
        patients=tuple(data.patients[i] for i in part),
        labels=data.labels[part],
        probabilities=chances,
        classes=data.classes,
    )


def _write_history(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _write_splits(out: Path, data: _Data, splits: Sequence[Split]) -> None:
    rows = []
    for fold, split in enumerate(splits):
        for part in _PARTS:
            rows += [(fold, int(index), part) for index in getattr(split, part)]
    write_table(
        out / "split.csv",
        ("index", "image", "patient_id", "label", "fold", "part"),
        (
            (index, data.names[index], data.patients[index], data.classes[data.labels[index]], fold, part)
            for fold, index, part in sorted(rows)
        ),
    )


def _write_embeddings(out: Path, network: SeparableNetwork, data: _Data, split: Split) -> None:
    """Embeddings of all masses by one fold's network, for the report's map."""
    parts = [getattr(split, part) for part in _PARTS]
    index = np.concatenate(parts)
    embeddings = embeddings_and_logits(network, data.images[index])[0]
    with atomic_path(out / "embeddings.npz") as temporary:
        np.savez_compressed(
            temporary,
            embeddings=embeddings,
            index=index,
            part=np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts]),
            labels=data.labels[index],
        )


def _write_predictions(out: Path, data: _Data, folds: Sequence[_Fold]) -> tuple[Predictions, Float[np.ndarray, "mass"]]:
    """Write predictions.csv: each test mass once, in the order of the table it came from; return the thresholds."""
    index = np.concatenate([fold.split.test for fold in folds])
    order = np.argsort(index, kind="stable")
    chances, raw = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("probabilities", "raw"))
    number = np.repeat(np.arange(len(folds)), [len(fold.split.test) for fold in folds])[order]
    thresholds = np.array([fold.threshold for fold in folds])[number]
    predictions = _predictions(data, index[order], chances[order])
    write_predictions(
        out / "predictions.csv",
        predictions,
        data.mass_set.masses,
        index[order],
        raw_score=_predictions(data, index[order], raw[order]).malignancy,
        threshold=thresholds,
        fold=number,
    )
    return predictions, thresholds


def _metrics(
    config: Config,
    data: _Data,
    folds: Sequence[_Fold],
    predictions: Predictions,
    thresholds: Float[np.ndarray, "mass"],
) -> dict[str, Any]:
    """What metrics.json holds: figures of the pooled test masses, and their spread over folds."""
    test = evaluate(predictions, thresholds, config.evaluation, rng=np.random.default_rng([config.seed, _BOOTSTRAP]))
    one_by_one = [_predictions(data, fold.split.test, fold.probabilities) for fold in folds]
    accuracies = [
        float(((each.malignancy >= fold.threshold) == (each.malignant == 1)).mean())
        for each, fold in zip(one_by_one, folds, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
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
