"""Every setting of an experiment in one object; TOML in and out; presets."""

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from diagnet.atomic import as_utf8
from diagnet.data.inbreast import InbreastSettings
from diagnet.data.mass import CLASSES
from diagnet.data.regular_file import require_readable
from diagnet.data.roi import RoiSettings
from diagnet.data.splits import SplitSettings
from diagnet.errors import SettingsError
from diagnet.evaluation.figures import EvaluationSettings
from diagnet.graph import GraphSettings
from diagnet.lite0 import DIVISOR
from diagnet.neighbors import NeighborSettings
from diagnet.network import NetworkSettings
from diagnet.renamed import with_new_names
from diagnet.training.state import TrainingSettings
from diagnet.training.tracking import TrackingSettings

# `small` is the simplest that works on a laptop: plain cross-entropy, regions drawn anew (reading 23). `diagnet` is the
# method there, in as many steps: the graph where it costs least (reading 4), the neighbors that help most (reading 13).
# `paper` is as in the paper, where the paper speaks. `lite0` begins with what ImageNet has taught, so it is trained for
# few epochs; `best` is five of them, on patient folds, all blocks of which are trained
# (docs/evidence/shipped-model.md).
_DRAWN: dict[str, Any] = {"padding": (1.0, 2.0), "shift": 0.1, "gamma": 0.25, "zoom": 0.0}  # boxes of any reader
_NO_NEIGHBORS = {"positive_ratio": 0.0, "negative_ratio": 0.0}
_GRAPH = {"space": "embedding", "skip_same_patient": True, "skip_own_neighbors": True}
_BACKBONE = {"preset": "lite0", "average_flips": True, "embedding": "pooled", "dropout": 0.2}
LITE0: dict[str, dict[str, Any]] = {
    "roi": {"size": 128},
    "neighbors": _NO_NEIGHBORS,
    "graph": _GRAPH,
    "network": {**_BACKBONE, "trainable": "last"},
    "training": {
        "epochs": 10,
        "batch_size": 32,
        "graph_weight": 0.0,
        "weight_decay": 0.01,
        **_DRAWN,
        "noise": 0.03,
    },
}
_ON_A_LAPTOP: dict[str, dict[str, Any]] = {
    "graph": _GRAPH,
    "network": {"average_flips": True},
    "training": {**_DRAWN, "noise": 0.05},
}
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        **_ON_A_LAPTOP,
        "neighbors": _NO_NEIGHBORS,
        "training": {**_ON_A_LAPTOP["training"], "epochs": 120, "graph_weight": 0.0},
    },
    "diagnet": {**_ON_A_LAPTOP, "neighbors": {"positive_ratio": 1.0, "negative_ratio": 0.0}},
    "lite0": LITE0,
    "best": {**LITE0, "network": {**_BACKBONE, "trainable": "all"}, "evaluation": {"folds": 5}},
    "paper": {
        "roi": {"size": 224, "grey_range": "image"},
        "neighbors": {"search_space": "pixel", "enforce_rules": False, "no_copies": False, "start_originals": 10},
        "network": {"preset": "paper"},
        "training": {
            "batch_size": 4,  # with all graph neighbors in the pass up to 24 images, about 7 GB
            "graph_weight": 1.0,
            "reduction": "sum",
            "batching": "exact",
            "negative_label": "own",
            "flips": "stored",
            "rotation": 0.0,
            "zoom": 0.0,
        },
    },
}


# What settings that came later stood for before there was a choice: read where a run or study does not have them.
_BEFORE: dict[str, dict[str, Any]] = {
    "neighbors": {"start_originals": 10},
    "roi": {"grey_range": "image"},
    "training": {"padding": (1.6, 1.6), "shift": 0.0, "gamma": 0.0, "contrast": 0.0, "sharpness": 0.0, "noise": 0.0},
}

_MOST_BYTES = 1 << 18  # of a TOML file
_MOST_DEPTH = 20  # of what is read from JSON or TOML; figures of a run are nine deep
_MOST_DOTS = 100  # in a line of TOML
_MOST_SHOWN = 120  # letters of a value in a message

# Settings that are none any more, and the value that all runs have had: it may still stand in their files.
_GONE: dict[str, Any] = {"reach_factor": 3.0, "head_penalty": 1e3, "confidence": 0.95}


class Config(BaseModel, frozen=True, extra="forbid"):
    """The settings of one experiment: `Config()` is the preset `small`, `Config(preset="lite0")` that one."""

    preset: Literal["small", "diagnet", "paper", "lite0", "best"] = "small"
    seed: int = Field(0, ge=0)
    classes: tuple[str, ...] = Field(CLASSES, min_length=2, description="class names; the index is the label")
    inbreast: InbreastSettings = InbreastSettings()
    roi: RoiSettings = RoiSettings()
    split: SplitSettings = SplitSettings()
    neighbors: NeighborSettings = NeighborSettings()
    graph: GraphSettings = GraphSettings()
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    tracking: TrackingSettings = TrackingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def has_known_edges(self) -> bool:
        """Whether the images of a lesion, with a label or without, are drawn to one score: lite0's alone."""
        return self.network.preset == "lite0" and self.training.known_weight > 0

    @model_validator(mode="before")
    @classmethod
    def _as_the_preset(cls, values: Any) -> Any:
        """What is not given is as in the preset."""
        preset = values.get("preset", "small") if isinstance(values, Mapping) else None
        if preset not in _PRESETS:
            return values  # refused by its type
        given = merged(_PRESETS[preset], with_new_names(values))
        classes, network = given.get("classes", CLASSES), given.setdefault("network", {})
        if isinstance(network, dict) and isinstance(classes, list | tuple):  # else refused below
            network.setdefault("n_classes", len(classes))
        return given

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("class names must differ")
        return classes

    @model_validator(mode="after")
    def _whole_blocks(self) -> "Config":
        if self.network.preset == "lite0" and self.roi.size % DIVISOR:
            raise ValueError(f"`roi.size` must be a multiple of {DIVISOR} for lite0, got {self.roi.size}")
        return self

    @model_validator(mode="after")
    def _searched_features(self) -> "Config":
        if self.neighbors.search_space == "embedding":
            if self.network.preset != "lite0":
                raise ValueError("`neighbors.search_space` must be subspace or pixel without lite0's features")
            if self.training.needs_graph and self.graph.space != "embedding":
                raise ValueError("`graph.space` must be embedding where neighbors are feature vectors")
        return self

    @classmethod
    def from_preset(cls, preset: str = "small", changes: Mapping[str, Any] | None = None) -> "Config":
        """Start from a preset and apply nested changes, `{"training": {"epochs": 3}}`.

        Raises:
            SettingsError: no such preset or setting, or a value out of range.
        """
        preset = preset.lower()
        if preset not in _PRESETS:
            raise SettingsError(f"`preset` must be one of {', '.join(_PRESETS)}, got {preset!r}")
        try:
            return cls.model_validate({**(changes or {}), "preset": preset})
        except ValidationError as error:
            raise SettingsError(one_line(error)) from error

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> "Config":
        """Read settings that an earlier version may have written; what they do not have is as it was then.

        Raises:
            SettingsError: they are no settings.
        """
        given = {key: value for key, value in values.items() if key != "preset"}
        return cls.from_preset(str(values.get("preset", "small")), merged(_BEFORE, given))

    def to_toml(self) -> str:
        """Write every resolved setting as TOML, in ASCII.

        Raises:
            DataError: a class name or other text holds half of a surrogate pair.
        """
        values = self.model_dump(mode="json")
        lines = [_toml_line(key, value) for key, value in values.items() if not isinstance(value, dict)]
        for section, entries in values.items():
            if isinstance(entries, dict):
                lines += [
                    "",
                    f"[{section}]",
                    *(_toml_line(*item) for item in entries.items() if item[1] is not None),
                ]
        return "\n".join(lines) + "\n"


_FREE_TEXT = frozenset(
    name
    for section in Config.model_fields.values()
    if isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)
    for name, field in section.annotation.model_fields.items()
    if field.annotation is str
)


def read_config(
    path: Path | None = None,
    preset: str | None = None,
    assignments: Sequence[str] = (),
    seed: int | None = None,
    *,
    default: str = "small",
) -> Config:
    """Compose the settings of a run: preset, then the file, then `section.key=value` assignments, then the seed.

    Args:
        path: a TOML file with any subset of the settings.
        preset: wins over the file's own `preset`.
        assignments: as given to `--set`; values in TOML, bare words are strings in any case.
        seed: wins over all others.
        default: the preset, where neither `preset` nor the file names one.

    Raises:
        SettingsError: the file is unreadable or a setting does not exist or is out of range.
    """
    changes: dict[str, Any] = {}
    if path is not None:
        changes = with_new_names(read_toml(path, "--config"))
    changes = merged(changes, with_new_names(_parsed_together(assignments)))
    if seed is not None:
        changes["seed"] = seed
    from_file = changes.pop("preset", default)
    return Config.from_preset(preset or str(from_file), changes)


def without_effect(config: Config, assignments: Sequence[str]) -> list[str]:
    """Say which assignments are about neighbors or a graph that the settings do not make, and why they make none."""
    given = with_new_names(_parsed_together(assignments), warn=False)
    ratios = ("positive_ratio", "negative_ratio")
    off = {
        "neighbors": config.neighbors.makes_none and "`neighbors.positive_ratio` and `neighbors.negative_ratio` are 0",
        "graph": not config.training.needs_graph and "`training.graph_weight` is 0",
    }
    return [
        f"`{section}.{key}` changes nothing where {why}"
        for section, why in off.items()
        if why
        for key in given.get(section, {})
        if key not in ratios
    ]


def read_run_config(run: Path) -> Config:
    """Read the settings a run was made with; old names of settings are read without a warning.

    Raises:
        SettingsError: its config.toml is unreadable, or holds no settings.
    """
    values = with_new_names(read_toml(run / "config.toml", "--config"), warn=False)
    return Config.from_preset(str(values.pop("preset", "small")), values)


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """Read the TOML file given to an option.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        require_readable(path, _MOST_BYTES)
        return parsed_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"`{option}` must be a readable TOML file, got {path}: {error}") from error


def parsed_toml(text: str) -> dict[str, Any]:
    """Parse TOML that is not deeper than any settings are.

    Raises:
        ValueError: it is no TOML, or too deep.
    """
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):  # the parser's time grows with their square
        raise ValueError(f"a line of more than {_MOST_DOTS} dots")
    found: dict[str, Any] = parsed_flat(tomllib.loads, text)
    return found


def parsed_flat(parse: Callable[[str], Any], text: str) -> Any:
    """Parse JSON or TOML, and check, without calling itself, that it is not deeper than what diagnet writes.

    Raises:
        ValueError: it cannot be parsed, or it is deeper.
    """
    try:
        value = parse(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise ValueError(f"nested deeper than {_MOST_DEPTH} levels")


def _parsed_together(assignments: Sequence[str]) -> dict[str, Any]:
    """All assignments as one mapping; the last one of a name wins."""
    together: dict[str, Any] = {}
    for assignment in assignments:
        for key, value in _parsed(assignment).items():
            before = together.get(key)
            together[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return together


def _parsed(assignment: str) -> dict[str, Any]:
    """`training.epochs=3` -> {"training": {"epochs": 3}}."""
    name, equals, text = assignment.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys) or len(keys) > 2:
        raise SettingsError(f"`--set` must be section.key=value, got {assignment!r}")
    try:
        value = parsed_toml(f"value = {text.strip()}")["value"]
    except ValueError:
        value = text.strip()
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `changes` over `base`, section by section; neither is changed.

    Words come in any case, as `SUBSPACE`; text of the user's own, such as a tracking URI, is kept as it is. Old names
    of settings become their new ones, without a warning.

    Raises:
        SettingsError: a section is laid over a value.
    """
    result = with_new_names(base, warn=False)
    for key, value in with_new_names(changes, warn=False).items():
        if key in _GONE and value == _GONE[key]:
            continue
        if isinstance(value, Mapping):
            section = result.get(key, {})
            if not isinstance(section, Mapping):
                raise SettingsError(f"`{key}` must be a value, got a section")
            result[key] = merged(section, value)
        else:
            result[key] = value.lower() if isinstance(value, str) and key not in _FREE_TEXT else value
    return result


def described_settings(config: Config) -> list[dict[str, Any]]:
    """Name of every setting, as `--set` spells it, with its value and what it means ("" where the name says it)."""
    values = config.model_dump(mode="json")
    return [
        {
            "name": name,
            "value": reduce(getitem, name.split("."), values),
            "meaning": field.description or "",
        }
        for name, field in _fields().items()
        if name != "preset"
    ]


def _toml_line(key: str, value: Any) -> str:
    return f"{key} = {toml_value(value)}"


def toml_value(value: Any) -> str:
    """A scalar or an array in TOML: as in JSON, but for letters and numbers that JSON writes otherwise."""
    if isinstance(value, str):
        as_utf8(value)
        return f'"{"".join(map(_toml_letter, value))}"'
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML's too
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)


def _toml_letter(letter: str) -> str:
    """JSON writes a letter beyond U+FFFF as a surrogate pair, and DEL as it is; TOML has neither."""
    return f"\\U{ord(letter):08x}" if letter > "\uffff" or letter == "\x7f" else json.dumps(letter)[1:-1]


def _fields() -> dict[str, FieldInfo]:
    """Every setting, as `--set` spells it."""
    found: dict[str, FieldInfo] = {}
    for section, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {f"{section}.{name}": each for name, each in kind.model_fields.items()}
        else:
            found[section] = field
    return found


def one_line(error: ValidationError) -> str:
    """What pydantic found first, in our words."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, list(_fields()) if "." in name else [*Config.model_fields], 1)
        fix = f"did you mean `{near[0]}`?" if near else "`diagnet settings` lists them"
        return f"`{name}` must be an existing setting, got an unknown name. Fix: {fix}"
    message = first["msg"].removeprefix("Value error, ")
    if not name:  # of the whole, whose values would fill the line
        return message
    return f"`{name}` must be valid: {message[:1].lower()}{message[1:]}, got {shortened(repr(first['input']))}"


def shortened(text: str) -> str:
    """Cut what somebody gave to what one line can show."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
