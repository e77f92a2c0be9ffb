"""Weights and training states on disk: safetensors beside JSON, bound by a hash, never a pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.sparse import csr_array
from torch import Tensor

from diagnet.atomic import atomic_path, write_text
from diagnet.data.regular_file import require_readable
from diagnet.errors import RunFolderError
from diagnet.graph import SignedGraph
from diagnet.network import Network, create_network
from diagnet.run.schema import CheckpointFacts, Described, checked, read_object
from diagnet.training.state import TrainingState

SCHEMA_VERSION = 1
_KEPT = 2
_MOST_BYTES = 16 << 30  # of weights


def write_weights(path: Path, network: Network, facts: Mapping[str, Any]) -> None:
    """Write a network as `path` (.safetensors) and what describes it as `path` with .json.

    Args:
        path: the .safetensors file.
        network: whose weights and settings are written.
        facts: anything JSON can hold.
    """
    _write(path, dict(network.state_dict()), {**facts, "network": network.settings.model_dump(mode="json")})


def read_weights(path: Path) -> tuple[Network, dict[str, Any]]:
    """Read what `write_weights` wrote.

    Raises:
        RunFolderError: a file is missing, truncated or edited.
    """
    tensors, facts = _read(path)
    settings = checked(Described, facts, path.with_suffix(".json")).network
    with torch.device("meta"):  # no memory is asked for before the settings are known to be those of the weights
        expected = _shapes(create_network(settings, pretrained=False).state_dict())
    if _shapes(tensors) != expected:
        raise RunFolderError(f"`{path}` must hold the weights of the network its .json describes, got others")
    if not all(value.isfinite().all() for value in tensors.values()):
        raise RunFolderError(f"`{path}` must hold finite weights, got others")
    network = create_network(settings, pretrained=False)
    network.load_state_dict(tensors)
    return network.eval(), facts


def write_checkpoint(folder: Path, state: TrainingState, facts: Mapping[str, Any]) -> Path:
    """Write a training state, between two steps; the last two are kept.

    Args:
        folder: where checkpoints live.
        state: what to write.
        facts: what must be the same when training goes on (seed, hash of settings and data).
    """
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors["bank"] = state.bank
    for kept, weights in (("average", state.average), ("best", state.best)):
        tensors |= {f"{kept}.{name}": value for name, value in (weights or {}).items()}
    if state.graph is not None:
        signs = state.graph.signs
        for name in ("data", "indices", "indptr"):
            tensors[f"graph.{name}"] = torch.from_numpy(getattr(signs, name).copy())
    path = folder / f"epoch-{state.epoch:05d}-step-{state.step:06d}.safetensors"
    place = {"epoch": state.epoch, "step": state.step, "sums": state.sums, "history": state.history}
    _write(path, tensors, {**facts, **place})
    for old in sorted(folder.glob("epoch-*.safetensors"))[:-_KEPT]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    return path


def read_checkpoint(folder: Path, state: TrainingState, facts: Mapping[str, Any]) -> TrainingState | None:
    """Fill a fresh state with the newest checkpoint that is whole; None where there is none.

    Args:
        folder: where checkpoints live.
        state: from `training.start` with the same settings; filled in place.
        facts: as given to `write_checkpoint`.

    Raises:
        RunFolderError: a checkpoint belongs to other settings, data or another seed.
    """
    for path in sorted(folder.glob("epoch-*.safetensors"), reverse=True):
        try:
            tensors, found = _read(path)
        except RunFolderError:
            continue  # truncated or edited: the one before it is used
        try:
            place = checked(CheckpointFacts, found, path.with_suffix(".json"))
        except RunFolderError:
            continue
        for key, value in facts.items():
            if found.get(key) != value:
                raise RunFolderError(f"`--resume` must go on with the same {key}, got another one than {path.parent}")
        state.network.load_state_dict(_part(tensors, "network."))
        moments: dict[int, dict[str, Tensor]] = {}
        weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
        for name, value in _part(tensors, "optimizer.").items():
            index, _, moment = name.partition(".")
            weight = weights[int(index)]
            if value.shape == weight.shape:  # laid out in memory as its weight: the fused optimizer walks both at once
                value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
            moments.setdefault(int(index), {})[moment] = value
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        state.bank = tensors["bank"].to(state.bank.device)
        state.average, state.best = (_part(tensors, f"{kept}.") or None for kept in ("average", "best"))
        if "graph.data" in tensors:
            parts = [tensors[f"graph.{name}"].numpy() for name in ("data", "indices", "indptr")]
            state.graph = SignedGraph(csr_array(tuple(parts), shape=(len(state.bank), len(state.bank))))
        state.epoch, state.step, state.history, state.sums = place.epoch, place.step, place.history, place.sums
        return state
    return None


def array_hash(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the tensors, then the JSON that vouches for them."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(save({name: value.cpu().contiguous() for name, value in tensors.items()}))
    record = {"schema_version": SCHEMA_VERSION, **facts, "sha256": _file_hash(path)}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read both files and compare the hash."""
    try:
        facts = read_object(path.with_suffix(".json"))
        require_readable(path, _MOST_BYTES)
        if facts.get("sha256") != _file_hash(path):
            raise RunFolderError(f"`{path}` must be as it was written, got a truncated or edited file")
        return load_file(path), facts
    except (OSError, ValueError, SafetensorError) as error:
        raise RunFolderError(f"`{path}` must be a readable checkpoint, got: {error}") from error


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
