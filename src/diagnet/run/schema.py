"""What a run's files must hold: one schema, against which all that is read back is checked before it is used."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from diagnet.config import one_line, parsed_flat
from diagnet.data.regular_file import require_readable
from diagnet.errors import RunFolderError
from diagnet.evaluation.abstention import Abstention
from diagnet.network import NetworkSettings

MOST_BYTES = 256 << 20  # of a JSON file or a table: those of the longest run are a hundredth of it
_Kind = TypeVar("_Kind", bound=BaseModel)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("class names must differ")
    return names


Classes = Annotated[tuple[str, ...], Field(min_length=2, max_length=1000), AfterValidator(_distinct)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Rows = list[dict[str, Any]]


class _Stored(BaseModel, frozen=True, extra="allow", allow_inf_nan=False):
    """What other versions write besides is passed over."""


class Figure(_Stored):
    """A figure, such as an AUC, with the ends of its confidence interval; None where it is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Unit(_Stored):
    """Figures of one unit of counting: masses, images or patients."""

    auc: Figure = Figure()


class TestFigures(_Stored):
    """What metrics.json says of the test masses, under `test`."""

    classes: Classes | None = None
    units: dict[str, Unit] = {}
    by_source: dict[str, Unit] = {}


class Metrics(_Stored):
    """What a finished run measured, as metrics.json holds it."""

    synthetic: bool = False
    test: TestFigures = TestFigures()


class DataFacts(_Stored):
    """What run.json says of the data, under `data`: where they are from, and how many were left out and why."""

    source: str = ""
    classes: Classes | None = None
    synthetic: bool = False
    left_out: dict[str, Count] = {}
    sources: dict[str, dict[str, Any]] = {}


class Record(_Stored):
    """What run.json says of a run: whether it is finished, on what data and with what settings it was made."""

    status: str = ""
    sealed: bool = False
    data: DataFacts = DataFacts()
    counts: dict[str, dict[str, Count]] = {}
    binding: dict[str, Any] = {}
    versions: dict[str, str] = {}
    warnings: list[str] = []


class Described(_Stored):
    """What stands beside any weights on disk: the settings of their network."""

    network: NetworkSettings


class NetworkFacts(Described):
    """model/fold-*.json: what stands beside the weights of one network."""

    classes: Classes
    temperature: float = Field(gt=0, le=1e6, strict=True)
    threshold: float = Field(gt=0, lt=1, strict=True)
    abstention: Abstention = Abstention()
    domain: dict[str, Any] | None = None
    history: Rows = []
    synthetic: bool = False

    @model_validator(mode="after")
    def _of_one_size(self) -> "NetworkFacts":
        if self.network.n_classes != len(self.classes):
            raise ValueError(f"`network.n_classes` must be {len(self.classes)}, the number of classes")
        return self


class CheckpointFacts(_Stored):
    """checkpoints/*.json: where a training stands."""

    epoch: int = Field(ge=0, le=10**6)
    step: int = Field(ge=0, le=10**9)
    sums: tuple[float, float]
    history: Rows


class History(_Stored):
    """The training history in metrics.jsonl: a row for each epoch."""

    rows: Rows


def checked(kind: type[_Kind], value: Any, path: Path) -> _Kind:
    """Hold what a file said against its schema.

    Raises:
        RunFolderError: it is not as the schema has it; the message names the first thing that is not.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise RunFolderError(f"{one_line(error)} in {path}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder.

    Raises:
        RunFolderError: it is missing, no JSON object, too large or too deep.
    """
    try:
        require_readable(path, MOST_BYTES)
        value = parsed_flat(json.loads, path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"`{path}` must be a readable file of a run, got: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"`{path}` must hold a JSON object, got a {type(value).__name__}")
    return value
