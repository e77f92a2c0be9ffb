"""One fold of an experiment: augment and train on its training part, score its test part."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from diagnet.arrays import Images, Labels
from diagnet.config import Config
from diagnet.data.domain import fit_domain
from diagnet.data.mass import MassSet
from diagnet.data.preprocessing import Preprocessing
from diagnet.data.splits import Split
from diagnet.errors import TrainingError
from diagnet.evaluation.abstention import Abstention, band_half_width
from diagnet.evaluation.calibration import choose_threshold, fit_temperature, probabilities
from diagnet.evaluation.figures import point_auc
from diagnet.evaluation.predictions import Predictions
from diagnet.network import Network
from diagnet.progress import Progress
from diagnet.run.array_files import Embeddings, write_embeddings, write_neighbors, write_signs
from diagnet.run.augmentation import Unlabelled, augment, with_lesions
from diagnet.run.checkpoint import read_checkpoint, read_weights, write_checkpoint, write_weights
from diagnet.run.folder import fold_folder, write_history
from diagnet.run.schema import NetworkFacts, checked
from diagnet.run.tables import PARTS
from diagnet.training.distributed import Processes
from diagnet.training.loop import train
from diagnet.training.points import Surroundings
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingState, start
from diagnet.training.tracking import Tracker, open_trackers

_LEAST_THRESHOLD = 1e-9  # and its distance from 1
_SEARCH, _TRAINING = 1, 2  # each step draws from a stream of its own; 0 and 3 are the experiment's


@dataclass(frozen=True, slots=True)
class Data:
    """The masses of an experiment, aligned.

    Attributes:
        images: their regions, in [0, 1].
        mass_set: the masses.
        labels: class index of each.
        names: image file of each.
        patients: patient of each, the same text for the same patient (`MassSet.patients`).
        facts: what each region looked like (`RegionFacts`), None where that is not known.
        surroundings: what lies around their regions, where training draws regions.
        unlabelled: masses without a label that count through known edges, patients named as in `patients`.
    """

    images: Images
    mass_set: MassSet
    labels: Labels
    names: list[str]
    patients: list[str]
    facts: Float64[np.ndarray, "mass fact"] | None = None
    surroundings: Surroundings | None = None
    unlabelled: Unlabelled | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the index is the label."""
        return self.mass_set.classes


@dataclass(frozen=True, slots=True)
class FoldScores:
    """What a fold's network says of its test masses.

    Attributes:
        split: the fold's parts.
        probabilities: calibrated, of its test masses.
        raw: the same before calibration.
        temperature: fitted on its validation masses.
        threshold: chosen on its validation masses.
    """

    split: Split
    probabilities: Float[np.ndarray, "mass classes"]
    raw: Float[np.ndarray, "mass classes"]
    temperature: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold to be run, and what running it takes.

    Attributes:
        config: all settings.
        data: all masses.
        split: which of them train, validate and test.
        number: of the fold, from 0.
        out: the run's folder.
        workers: processes of the search.
        progress: called during search and training.
        processes: those that train together; the first writes.
    """

    config: Config
    data: Data
    split: Split
    number: int
    out: Path
    workers: int | None
    progress: Progress
    processes: Processes

    @property
    def folder(self) -> Path:
        """Where what belongs to this fold alone lies."""
        return fold_folder(self.out, self.number, self.config.evaluation.folds)

    @property
    def stage(self) -> str:
        """What its training is called while it goes on."""
        n_folds = self.config.evaluation.folds
        return "train" if n_folds == 1 else f"train fold {self.number + 1}/{n_folds}"


def run_fold(fold: Fold, history: list[dict[str, Any]]) -> FoldScores:
    """Train on one split and score its test masses; a network that an interrupted run had finished is read back.

    Args:
        fold: what is run.
        history: a line for each epoch of the folds before; this fold's are added.
    """
    config, data, split, processes = fold.config, fold.data, fold.split, fold.processes
    weights = fold.out / "model" / f"fold-{fold.number}.safetensors"
    is_trained = weights.with_suffix(".json").exists()
    processes.wait()  # all have looked before the first writes
    if not is_trained:
        state = train_fold(fold, history)
        labels = data.labels[split.validation]
        logits = embeddings_and_logits(state.network, data.images, rows=split.validation)[1].astype(np.float64)
        temperature = fit_temperature(labels, logits)
        validation = predictions_of(data, split.validation, probabilities(logits, temperature))
        threshold = choose_threshold(validation.malignant, validation.malignancy, config.evaluation.operating_point)
        threshold = min(max(threshold, _LEAST_THRESHOLD), 1 - _LEAST_THRESHOLD)  # a saturated score may be 0 or 1
        preprocessing = Preprocessing(roi=config.roi)
        described: dict[str, Any] = {
            "classes": list(data.classes),
            "roi": config.roi.model_dump(mode="json"),
            "preprocessing": preprocessing.model_dump(mode="json"),
            "preprocessing_sha256": preprocessing.sha256,
            "temperature": temperature,
            "threshold": threshold,
            "abstention": Abstention(half_width=band_half_width(validation.malignancy, threshold)).model_dump(),
            "domain": _fit_domain(data, split),
            "history": state.history,
            "synthetic": data.mass_set.is_synthetic,
        }
        if processes.is_first:
            write_weights(weights, state.network, described)
        processes.wait()
    network, read = read_weights(weights)
    facts = checked(NetworkFacts, read, weights.with_suffix(".json"))
    history += facts.history
    if fold.number == 0 and processes.is_first:
        write_embeddings(fold.out, _compute_embeddings(network, data, split))
    logits = embeddings_and_logits(network, data.images, rows=split.test)[1].astype(np.float64)
    return FoldScores(
        split,
        probabilities(logits, facts.temperature),
        probabilities(logits, 1.0),
        facts.temperature,
        facts.threshold,
    )


def train_fold(fold: Fold, history: list[dict[str, Any]]) -> TrainingState:
    """Augment, build the graph and train on one split's training part; write what the report shows of fold 0.

    Args:
        fold: what is trained.
        history: a line for each epoch of the folds before; it stays as it is.
    """
    config, data, split, processes = fold.config, fold.data, fold.split, fold.processes
    patients = data.mass_set.patient_numbers
    augmented = augment(
        config,
        data.images,
        split.train,
        data.labels[split.train],
        patients[split.train],
        rng=np.random.default_rng([config.seed, _SEARCH, fold.number]),
        workers=fold.workers,
        progress=fold.progress,
        surroundings=data.surroundings,
    )
    points = augmented.points
    if processes.is_first:
        parents = split.train[augmented.parents]
        moves = None if points.moves is None else points.moves.features
        write_neighbors(fold.folder, augmented.neighbors, parents, data.mass_set, config.neighbors, moves)
    unlabelled = None
    if data.unlabelled is not None:
        whose = [data.patients[k] for k in split.train]
        masses = [data.mass_set.masses[k] for k in split.train]
        unseen = {data.patients[k] for k in (*split.validation, *split.test)}
        points, unlabelled = with_lesions(points, masses, whose, data.unlabelled.without(unseen))
    seed = int(np.random.SeedSequence([config.seed, _TRAINING, fold.number]).generate_state(1)[0])
    state = start(
        points,
        config.network,
        config.graph,
        config.training,
        seed=seed,
        unlabelled=unlabelled,
        progress=fold.progress,
    )
    points_hash = points.sha256()
    binding = {"seed": seed, "settings": config.to_toml(), "points": points_hash}
    if not processes.all_equal(points_hash):
        raise TrainingError("all processes must train on the same points, got different ones. Fix: one kind of machine")
    checkpoints = fold.folder / "checkpoints"
    state = read_checkpoint(checkpoints, state, binding) or state
    processes.wait()  # all have read before the first writes
    written = time.monotonic()
    labels = data.labels[split.validation]

    def validate(state: TrainingState) -> dict[str, Any]:
        logits = embeddings_and_logits(state.scored(), data.images, rows=split.validation)[1].astype(np.float64)
        chances = probabilities(logits, 1.0)
        own = np.clip(chances[np.arange(len(chances)), labels], 1e-12, 1)
        return {
            "fold": fold.number,
            "validation_loss": float(-np.log(own).mean()),
            "validation_auc": point_auc(predictions_of(data, split.validation, chances)),
        }

    def on_step(state: TrainingState) -> None:
        nonlocal written
        if time.monotonic() - written > 60 * config.training.checkpoint_minutes:
            write_checkpoint(checkpoints, state, binding)
            written = time.monotonic()

    def on_epoch(state: TrainingState) -> None:
        nonlocal written
        write_checkpoint(checkpoints, state, binding)
        written = time.monotonic()
        write_history(fold.out, history + state.history)
        for tracker in trackers:
            tracker.log(state.history[-1], fold.number)

    trackers: list[Tracker] = []
    if processes.is_first:
        trackers = open_trackers(config.tracking, fold.out, config.model_dump(mode="json"), first_epoch=state.epoch)
    try:
        state = train(
            state,
            points,
            config.graph,
            config.training,
            seed=seed,
            validate=validate,
            on_epoch=on_epoch if processes.is_first else None,
            on_step=on_step if processes.is_first else None,
            progress=fold.progress,
            stage=fold.stage,
            processes=processes,
            unlabelled=unlabelled,
        )
    except TrainingError as error:
        masses = sorted(set(split.train[augmented.origin[list(error.points)]].tolist()))
        raise TrainingError(
            f"{error}, in a batch of the masses {', '.join(map(str, masses))} (index in split.csv). "
            f"The last whole checkpoint is in {checkpoints}. Fix: a lower training.learning_rate in a new run"
        ) from error
    finally:
        for tracker in trackers:
            tracker.close()
    if state.graph is not None and processes.is_first:
        write_signs(fold.folder, state.graph.signs)
    return state


def predictions_of(
    data: Data, part: Int[np.ndarray, "mass"], chances: Float[np.ndarray, "mass classes"]
) -> Predictions:
    """Say whose masses the class probabilities `chances` belong to."""
    return Predictions(
        images=tuple(data.names[i] for i in part),
        patients=tuple(data.patients[i] for i in part),
        labels=data.labels[part],
        probabilities=chances,
        classes=data.classes,
    )


def _fit_domain(data: Data, split: Split) -> dict[str, Any] | None:
    """What the training masses looked like, None where that is not known."""
    if data.facts is None:
        return None
    sources = [data.mass_set.masses[i].source for i in split.train]
    found = fit_domain(data.facts[split.train], [data.patients[i] for i in split.train], sources)
    return None if found is None else found.model_dump(mode="json")


def _compute_embeddings(network: Network, data: Data, split: Split) -> Embeddings:
    """Embeddings of all masses by one fold's network, for the report's map."""
    parts = [getattr(split, part) for part in PARTS]
    index = np.concatenate(parts)
    return Embeddings(
        embeddings=embeddings_and_logits(network, data.images, rows=index)[0],
        index=index,
        part=np.repeat(np.arange(len(PARTS), dtype=np.int8), [len(part) for part in parts]),
        labels=data.labels[index],
    )
