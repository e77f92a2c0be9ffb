"""A run's tables of masses: split.csv says which of them train, predictions.csv what the test masses scored."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, TypeAdapter

from diagnet.data.mass import MALIGNANT, Mass
from diagnet.errors import RunFolderError
from diagnet.evaluation.predictions import Predictions
from diagnet.run.folder import read_records, write_table
from diagnet.run.schema import Count

SPLIT, PREDICTIONS = "split.csv", "predictions.csv"
PARTS = ("train", "validation", "test")
Score = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class PlacedMass:
    """A row of split.csv; the fields are its columns.

    Attributes:
        index: of the mass in the run's data, from 0.
        image: its image file.
        patient_id: its patient, as the data spell it.
        label: its class.
        fold: from 0.
        part: what it does in that fold, of `PARTS`.
        source: name of its source, "" where there is one only.
    """

    index: Count
    image: str
    patient_id: str
    label: str
    fold: Annotated[int, Field(ge=-1, le=10**6)]
    part: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class ScoredMass:
    """A row of predictions.csv; the fields are its columns.

    Attributes:
        image: its image file.
        patient_id: its patient, as the data spell it.
        label: its class.
        malignancy: calibrated score, in [0, 1]; written with six digits.
        index: of the mass in the run's data, from 0.
        fold: whose network scored it, -1 for the mean of all.
        part: "test".
        raw_score: malignancy before calibration; written with six digits.
        decision: the class it is called.
        laterality: "L", "R" or "".
        view: "CC", "MLO" ... or "".
        source: name of its source, "" where there is one only.
    """

    image: str
    patient_id: str
    label: str
    malignancy: Score
    index: Count
    fold: Annotated[int, Field(ge=-1, le=10**6)]
    part: str
    raw_score: Score
    decision: str
    laterality: str
    view: str
    source: str = ""


def write_split(folder: Path, masses: Iterable[PlacedMass]) -> None:
    """Write split.csv: a row for each mass and fold."""
    _write(folder / SPLIT, PlacedMass, masses)


def read_split(folder: Path) -> list[PlacedMass]:
    """Read what `write_split` wrote.

    Raises:
        RunFolderError: it is missing or broken.
    """
    return _read(folder / SPLIT, PlacedMass, "a run's table of parts")


def scored_masses(
    predictions: Predictions,
    masses: Sequence[Mass],
    index: Int[np.ndarray, "point"],
    *,
    raw_score: Float[np.ndarray, "point"],
    threshold: Float[np.ndarray, "point"],
    fold: Int[np.ndarray, "point"],
) -> list[ScoredMass]:
    """A row for each scored mass.

    Args:
        predictions: scores and who they belong to.
        masses: all masses of the data set.
        index: which of them each score belongs to.
        raw_score: malignancy before calibration.
        threshold: malignancy from which each is called malignant.
        fold: whose network scored it, -1 for the mean of all.
    """
    target = predictions.classes[predictions.malignant_class]
    called = (target, "benign" if target == MALIGNANT else "other")
    return [
        ScoredMass(
            image=predictions.images[k],
            patient_id=masses[index[k]].patient_id,
            label=predictions.classes[predictions.labels[k]],
            malignancy=score,
            index=int(index[k]),
            fold=int(fold[k]),
            part="test",
            raw_score=float(raw_score[k]),
            decision=called[0] if score >= threshold[k] else called[1],
            laterality=masses[index[k]].laterality,
            view=masses[index[k]].view,
            source=masses[index[k]].source,
        )
        for k, score in enumerate(predictions.malignancy.tolist())
    ]


def write_predictions(folder: Path, masses: Iterable[ScoredMass]) -> None:
    """Write predictions.csv: a row for each scored mass."""
    _write(folder / PREDICTIONS, ScoredMass, masses)


def read_predictions(folder: Path) -> list[ScoredMass]:
    """Read what `write_predictions` wrote.

    Raises:
        RunFolderError: it is missing or broken.
    """
    return _read(folder / PREDICTIONS, ScoredMass, "a run's table of scored masses")


_Row = TypeVar("_Row", PlacedMass, ScoredMass)


def _write(path: Path, kind: type[_Row], rows: Iterable[_Row]) -> None:
    columns = [column.name for column in fields(kind)]
    cells = ([getattr(row, name) for name in columns] for row in rows)
    write_table(path, columns, ([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in cells))


def _read(path: Path, kind: type[_Row], what: str) -> list[_Row]:
    """Read the columns of a kind of row, each as its type says; others are passed over.

    A column with a default may be missing: tables from before it lack it.
    """
    columns = {column.name: column.default for column in fields(kind)}
    defaults = {name: default for name, default in columns.items() if default is not MISSING}
    try:
        rows = [defaults | row for row in read_records(path, columns.keys() - defaults.keys())]
        return TypeAdapter(list[kind]).validate_python([{name: row[name] for name in columns} for row in rows])  # type: ignore[valid-type]  # a type at run time
    except (RunFolderError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RunFolderError) else error
        raise RunFolderError(f"`{path}` must be {what}, got one that cannot be read") from cause
