"""What the files of a run folder say, read back for its report."""

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8
from scipy.sparse import load_npz

from diagnet.errors import RunFolderError
from diagnet.run.folder import read_json

Arrays = Mapping[str, np.ndarray]


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
    """

    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: str
    history: Sequence[Mapping[str, Any]]
    predictions: Sequence[Mapping[str, str]]
    neighbors: Arrays | None
    signs: Int8[np.ndarray, "edge"] | None
    n_points: int
    embeddings: Arrays | None

    @property
    def classes(self) -> list[str]:
        """Class names; the index is the label."""
        return list(self.record["data"]["classes"])

    @property
    def target(self) -> str:
        """The class a high score speaks for."""
        return "malignant" if "malignant" in self.classes else self.classes[-1]


def read_run_files(run: Path) -> RunFiles:
    """Read a run folder; nothing in it is unpickled.

    Raises:
        RunFolderError: a file is missing or unreadable.
    """
    neighbors = _arrays(_first(run, "neighbors.npz"))
    graph = _first(run, "graph.npz")
    try:
        config = (run / "config.toml").read_text(encoding="utf-8")
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
        with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
            predictions = list(csv.DictReader(file))
        signs = None if graph is None else load_npz(graph)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"`{run}` must hold the readable files of a run, got: {error}") from error
    return RunFiles(
        record=read_json(run / "run.json"),
        metrics=read_json(run / "metrics.json"),
        config=config,
        history=history,
        predictions=predictions,
        neighbors=neighbors if neighbors is not None and len(neighbors["kinds"]) else None,
        signs=None if signs is None else np.asarray(signs.data, dtype=np.int8),
        n_points=0 if signs is None else int(signs.shape[0]),
        embeddings=_arrays(_first(run, "embeddings.npz")),
    )


def _first(run: Path, name: str) -> Path | None:
    """Find a file that a run with several folds keeps in the folder of each."""
    return next((path for path in (run / name, run / "fold-0" / name) if path.exists()), None)


def _arrays(path: Path | None) -> Arrays | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"`{path}` must be a readable array file of a run, got: {error}") from error
