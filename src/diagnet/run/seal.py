"""model/manifest.json: size and hash of all files that a run's scores depend on, checked before a model is loaded."""

import hashlib
import hmac
import json
import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from diagnet.data.regular_file import require_readable
from diagnet.errors import RunFolderError, SettingsError
from diagnet.run.folder import METRICS, RECORD, read_json, read_record, write_json, write_record
from diagnet.run.schema import Classes, NetworkFacts, checked
from diagnet.version import __version__

MANIFEST = "manifest.json"
KEY_VARIABLE = "DIAGNET_SEAL_KEY"
_BESIDE = ("config.toml", METRICS, "predictions.csv", "embeddings.npz")  # and all of model/
_LEAST_KEY, _MOST_KEY = 16, 4096  # bytes


class SealedFile(BaseModel, frozen=True, extra="forbid"):
    """One file, its place in the run, its size and SHA-256."""

    name: str = Field(pattern=r"^(model/)?\w[\w.-]*$", max_length=255)
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What is sealed; `signature` is the HMAC-SHA256 of the rest, "" where nobody signed."""

    schema_version: Literal[1] = 1
    diagnet: str
    classes: Classes
    threshold: float = Field(gt=0, lt=1)
    files: tuple[SealedFile, ...] = Field(max_length=10_000)
    signature: str = ""


def seal(run: Path, key: bytes | None = None) -> Manifest:
    """Write the manifest of a run, and note in run.json that it has one.

    Args:
        run: the run's folder, all its files in place.
        key: signs the manifest; None: nobody does.

    Raises:
        RunFolderError: a file is missing or broken, or there is a manifest that does not fit.
    """
    if (run / "model" / MANIFEST).exists():
        check_seal(run, None)
    facts = [checked(NetworkFacts, read_json(path), path) for path in sorted((run / "model").glob("fold-*.json"))]
    if not facts:
        raise RunFolderError(f"`RUN` must hold a model, got none in {run / 'model'}")
    manifest = Manifest(
        diagnet=__version__,
        classes=facts[0].classes,
        threshold=float(np.mean([each.threshold for each in facts])),
        files=tuple(_hash_file(run, name) for name in _names(run)),
    )
    if key is not None:
        manifest = manifest.model_copy(update={"signature": _signature(manifest, key)})
    write_json(run / "model" / MANIFEST, manifest.model_dump(mode="json"))
    if (run / RECORD).exists():
        write_record(run, {**read_record(run), "sealed": True})
    return manifest


def check_seal(run: Path, key: bytes | None) -> Manifest | None:
    """Compare a run's files with its manifest; None and a warning where the run is older than manifests.

    Args:
        run: the run's folder.
        key: with which the manifest must be signed; None: it need not be signed.

    Raises:
        RunFolderError: a file is missing, additional or another one, or the signature is not of this key.
    """
    path = run / "model" / MANIFEST
    if not path.exists():
        if key is not None or read_record(run).get("sealed"):
            raise RunFolderError(f"`{path}` must be there, got none. Fix: take the run from where it came, or seal it.")
        warnings.warn(
            f"{run} has no {MANIFEST}, so that a changed file would not be noticed. Fix: diagnet seal {run}",
            UserWarning,
            stacklevel=2,
        )
        return None
    manifest = checked(Manifest, read_json(path), path)
    if key is not None and not hmac.compare_digest(manifest.signature.encode(), _signature(manifest, key).encode()):
        raise RunFolderError(f"`{path}` must be signed with the key of {KEY_VARIABLE}, got another signature or none")
    sealed, there = {each.name: each for each in manifest.files}, _names(run)
    for what, names in (("missing", sealed.keys() - set(there)), ("not sealed", set(there) - sealed.keys())):
        if names:
            raise RunFolderError(f"`{path}` must name the files of the run, got one that is {what}: {min(names)}")
    for name, expected in sealed.items():
        if _hash_file(run, name) != expected:
            raise RunFolderError(f"`{run / name}` must be as it was sealed, got another file than {MANIFEST} names")
    return manifest


def seal_key() -> bytes | None:
    """The key that manifests must be signed with: of the file that DIAGNET_SEAL_KEY names; None where it names none.

    Raises:
        SettingsError: it cannot be read, or is too short.
    """
    name = os.environ.get(KEY_VARIABLE)
    return read_key(Path(name), KEY_VARIABLE) if name else None


def read_key(path: Path, option: str) -> bytes:
    """Read a key; space around it does not count.

    Raises:
        SettingsError: it cannot be read, or is too short.
    """
    try:
        require_readable(path, _MOST_KEY)
        key = path.read_bytes().strip()
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"`{option}` must name a file with a key, got {told}: {path}") from None
    if len(key) < _LEAST_KEY:
        raise SettingsError(f"`{option}` must name a key of at least {_LEAST_KEY} bytes, got {len(key)} in {path}")
    return key


def _names(run: Path) -> list[str]:
    """Files that scores, and what is said of them, depend on."""
    models = (f"model/{path.name}" for path in (run / "model").glob("*") if path.name != MANIFEST)
    return sorted(name for name in models if not name.startswith("model/.")) + [
        name for name in _BESIDE if (run / name).exists()
    ]


def _hash_file(run: Path, name: str) -> SealedFile:
    path = run / name
    try:
        require_readable(path, 1 << 40)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return SealedFile(name=name, bytes=file.tell(), sha256=digest)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"`{path}` must be a readable file of a run, got: {error}") from error


def _signature(manifest: Manifest, key: bytes) -> str:
    signed = manifest.model_dump(mode="json", exclude={"signature"})
    return hmac.new(key, json.dumps(signed, sort_keys=True).encode(), hashlib.sha256).hexdigest()
