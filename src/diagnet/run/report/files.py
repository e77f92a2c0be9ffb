"""What the files of a run folder say, read back for its report."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int8

from diagnet.data.mass import malignant_class
from diagnet.errors import RunFolderError
from diagnet.run.array_files import (
    EMBEDDINGS,
    GRAPH,
    NEIGHBORS,
    Embeddings,
    SyntheticImages,
    read_embeddings,
    read_neighbors,
    read_signs,
)
from diagnet.run.folder import first_fold_with, read_history, read_metrics, read_record
from diagnet.run.tables import ScoredMass, read_predictions

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run as its files tell it. With several folds, arrays are those of the first.

    Attributes:
        record: run.json.
        metrics: metrics.json.
        config: config.toml, verbatim.
        history: a row for each fold and epoch.
        predictions: a row for each test mass.
        neighbors: neighbors.npz, None where the run made none.
        signs: the edges of the graph, +1 or -1; None where there is no graph.
        n_points: points of the graph.
        embeddings: embeddings.npz, None where the run wrote none.
        bands: of each fold, the scores between which its model makes no call; those from before have none.
    """

    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: str
    history: Sequence[Mapping[str, Any]]
    predictions: Sequence[ScoredMass]
    neighbors: SyntheticImages | None
    signs: Int8[np.ndarray, "edge"] | None
    n_points: int
    embeddings: Embeddings | None
    bands: Mapping[int, tuple[float, float]]

    @property
    def classes(self) -> list[str]:
        """Class names; the index is the label."""
        return list(self.record["data"]["classes"])

    @property
    def is_synthetic(self) -> bool:
        """Whether the run was trained on phantoms."""
        return bool(self.record["data"].get("synthetic", False))

    @property
    def target(self) -> str:
        """The class a high score speaks for."""
        return self.classes[malignant_class(self.classes)]


def read_run_files(run: Path) -> RunFiles:
    """Read a run folder; nothing in it is unpickled.

    Raises:
        RunFolderError: a file is missing or unreadable.
    """
    neighbors = _of_first_fold(run, NEIGHBORS, read_neighbors)
    try:
        config = (run / "config.toml").read_text(encoding="utf-8")
        history = read_history(run)
        predictions = read_predictions(run)
        bands = _bands(run)
        signs = _of_first_fold(run, GRAPH, read_signs)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"`{run}` must hold the readable files of a run, got: {error}") from error
    except RunFolderError as error:
        raise RunFolderError(f"`{run}` must hold the readable files of a run, got: {error.__cause__}") from error
    return RunFiles(
        record=read_record(run),
        metrics=read_metrics(run),
        config=config,
        history=history,
        predictions=predictions,
        neighbors=neighbors if neighbors is not None and len(neighbors.kinds) else None,
        signs=None if signs is None else np.asarray(signs.data, dtype=np.int8),
        n_points=0 if signs is None else int(signs.shape[0]),
        embeddings=_of_first_fold(run, EMBEDDINGS, read_embeddings),
        bands=bands,
    )


def _bands(run: Path) -> dict[int, tuple[float, float]]:
    found = {}
    for path in sorted((run / "model").glob("fold-*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        half_width = facts.get("abstention", {}).get("half_width")
        if half_width is not None:
            middle = float(facts["threshold"])
            found[int(path.stem.removeprefix("fold-"))] = (middle - half_width, middle + half_width)
    return found


def _of_first_fold(run: Path, name: str, read: Callable[[Path], _Found]) -> _Found | None:
    """Read a file that a run with several folds keeps in the folder of each, None where there is none."""
    folder = first_fold_with(run, name)
    return None if folder is None else read(folder)
