"""The report of a run: one HTML file for researchers and radiologists that works offline and names no patient."""

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import load_npz

from diagnet.arrays import Images
from diagnet.atomic import write_text
from diagnet.errors import MissingExtraError, RunFolderError
from diagnet.notice import NOTICE
from diagnet.page import Html, joined, page, table, tag
from diagnet.run_folder import read_json

_COLUMNS = 6  # of the panel of neighbors
_WORST = 6  # mistakes shown of each class
_KINDS = {0: "Original", 1: "Positive neighbor", -1: "Negative neighbor"}
_RULES = {
    "youden": "the one with the highest sum of sensitivity and specificity",
    "sensitivity90": "the highest one that still finds 90 % of the malignant masses",
}


@dataclass(frozen=True, slots=True)
class _Run:
    """The files of a run folder."""

    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: str
    history: Sequence[Mapping[str, Any]]
    predictions: Sequence[Mapping[str, str]]
    neighbors: Mapping[str, np.ndarray] | None
    graph: np.ndarray | None  # the signs of its edges
    embeddings: Mapping[str, np.ndarray] | None

    @property
    def classes(self) -> list[str]:
        return list(self.record["data"]["classes"])

    @property
    def target(self) -> str:
        """The class a high score speaks for."""
        return "malignant" if "malignant" in self.classes else self.classes[-1]

    @property
    def n_folds(self) -> int:
        return 1 + max((row["fold"] for row in self.history), default=0)


def require_report() -> None:
    """Ask for what a report needs, before anything long is begun.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")


def write_report(run: Path, images: Images) -> Path:
    """Write `report.html` from the files of a run.

    Args:
        run: the run's folder.
        images: the masses of the run, in the order of the indices in split.csv.

    Returns:
        The report's path.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunFolderError: a file of the run is missing or unreadable.
    """
    require_report()
    found = _read(run)
    record = found.record
    body = tag(
        "main",
        tag("h1", "DiagNet: benign or malignant?"),
        tag(
            "p",
            f"{Path(record['data']['source']).name or 'Images in memory'} · preset {record['preset']} · seed"
            f" {record['seed']} · {record['started']} · diagnet {record['versions'].get('diagnet', '')}",
            class_="soft",
        ),
        *(tag("p", text, class_="warning") for text in record["warnings"]),
        *_results(found),
        *_data(found),
        *_neighbors(found, images),
        *_learning(found),
        *_mistakes(found, images),
        *_limits(found),
        *_settings(found),
    )
    path = run / "report.html"
    write_text(path, page("DiagNet report", tag("div", NOTICE, class_="notice", role="note"), body))
    return path
