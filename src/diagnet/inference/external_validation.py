"""A finished run on masses it never saw: scores, figures, and nothing of its own training patients."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from diagnet.atomic import require_empty
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared, mass_set_of
from diagnet.data.regions import ONE_GREY, read_rois
from diagnet.errors import DataError
from diagnet.evaluation.figures import EvaluationSettings, evaluate
from diagnet.evaluation.lesions import figures_by_lesion, lesion_groups, sightings_of
from diagnet.evaluation.predictions import Predictions
from diagnet.inference.engines import EngineChoice
from diagnet.inference.model import load_model
from diagnet.progress import Progress, silent
from diagnet.run.checkpoint import array_hash
from diagnet.run.folder import now, require_text, versions, write_metrics
from diagnet.run.tables import read_split, scored_masses, write_predictions

SCHEMA_VERSION = 1


def evaluate_run(
    run: Path,
    masses: MassSet | Prepared,
    out: Path,
    *,
    settings: EvaluationSettings,
    engine: EngineChoice = "auto",
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score masses with a run's model and write predictions.csv and metrics.json.

    Masses of patients the run was trained or validated on are left out and counted; patients are known by their names,
    whichever of the run's sources they are in and whether or not the run took its patients as distinct.

    Args:
        run: a finished run.
        masses: what to score; labels are needed for the figures.
        out: folder to write: absent or empty.
        settings: how many resamples.
        engine: what runs the networks, see `load_model`.
        seed: of the bootstrap.
        workers: threads for reading images.
        progress: called at each step.

    Returns:
        What metrics.json holds.

    Raises:
        MissingExtraError: `engine` is not installed.
        DataError: no mass is left, the classes differ, or prepared regions were cut otherwise than the run's.
        RunFolderError: `run` is no finished run, or `out` is not empty.
    """
    model = load_model(run, engine=engine)
    mass_set = mass_set_of(masses)
    if tuple(mass_set.classes) != model.classes:
        raise DataError(f"`classes` must be those of the run, {model.classes}, got {tuple(mass_set.classes)}")
    if isinstance(masses, Prepared) and masses.settings != model.roi:
        raise DataError(
            f"`DATA` must be cut as the run's regions were, {model.roi}, got {masses.settings}."
            " Fix: give the manifest, or prepare the data with these settings."
        )
    require_empty(out)
    require_text(mass_set)
    seen = _seen_patients(run)
    kept = np.array([mass.patient_id not in seen for mass in mass_set.masses], dtype=bool)
    if not kept.any():
        raise DataError("`DATA` must hold masses of patients the run was not trained on, got none")
    if isinstance(masses, Prepared):
        images = np.array(masses.images[kept])
    else:
        wanted = [mass for mass, keep in zip(mass_set.masses, kept, strict=True) if keep]
        images = read_rois(wanted, model.roi, workers=workers, progress=progress)
    is_flat = np.ptp(images, axis=(1, 2)) == 0
    if is_flat.all():
        raise DataError(f"`DATA` must hold a mass that can be seen, got {len(images)} regions of one grey value each")
    images, is_kept = images[~is_flat], kept.copy()
    is_kept[kept] = ~is_flat
    index = np.flatnonzero(is_kept)
    names = mass_set.image_names
    progress("evaluate", 0, 1)
    predictions = Predictions(
        images=tuple(names[i] for i in index),
        patients=tuple(mass_set.patients[i] for i in index),
        labels=mass_set.labels[index],
        probabilities=model.probabilities(images),
        classes=model.classes,
    )
    test: dict[str, Any] = {**evaluate(predictions, model.threshold, settings, rng=np.random.default_rng([seed, 4]))}
    tested = [mass_set.masses[int(place)] for place in index]
    lesions = lesion_groups(sightings_of(tested, predictions.patients))
    if by_lesion := figures_by_lesion(predictions, lesions, settings, seed=[seed, 4]):
        test["by_lesion"] = by_lesion
    left_out = dict(mass_set.left_out)
    if not kept.all():
        left_out["patient was in the run's training or validation part"] = int((~kept).sum())
    if is_flat.any():
        left_out[ONE_GREY] = left_out.get(ONE_GREY, 0) + int(is_flat.sum())
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "run": str(run),
        "synthetic": model.is_synthetic,
        "source": mass_set.source,
        "sha256": array_hash(images),
        "evaluated": now(),
        "versions": versions(),
        "left_out": left_out,
        "engine": model.engine,
        "threshold": {"value": model.threshold, "chosen_on": "the run's validation masses"},
        "test": test,
    }
    scored = scored_masses(
        predictions,
        mass_set.masses,
        index,
        raw_score=dataclasses.replace(
            predictions, probabilities=model.probabilities(images, calibrated=False)
        ).malignancy,
        threshold=np.full(len(index), model.threshold),
        fold=np.full(len(index), -1),
    )
    write_predictions(out, scored)
    write_metrics(out, metrics)
    progress("evaluate", 1, 1)
    return metrics


def _seen_patients(run: Path) -> set[str]:
    """Names of the patients whose masses trained or validated any network of the run."""
    return {mass.patient_id for mass in read_split(run) if mass.part != "test"}
