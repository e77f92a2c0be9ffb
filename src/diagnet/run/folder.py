"""A run's folder: claiming it, where a fold lies in it, and what is noted about the run: its JSON files."""

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diagnet.atomic import as_utf8, write_text
from diagnet.config import parsed_flat, parsed_toml
from diagnet.data.mass import MassSet
from diagnet.data.regular_file import require_readable
from diagnet.data.table import table_text, without_apostrophe
from diagnet.errors import RunFolderError, RunInUseError, SettingsError
from diagnet.renamed import with_new_names
from diagnet.run.schema import MOST_BYTES, History, Metrics, Record, checked, read_object
from diagnet.version import __version__

SCHEMA_VERSION = 1
RECORD, METRICS, HISTORY = "run.json", "metrics.json", "metrics.jsonl"
_LOCK = ".lock"
_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "pydicom", "Pillow", "pydantic", "safetensors")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a run's folder while the block lasts; a dead process keeps no other out.

    Raises:
        RunInUseError: another process is writing it.
        RunFolderError: it is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"`--out` must be a folder, got the file {folder}")
    is_new = not folder.exists()
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise RunInUseError(
            f"`--out` must be written by one process, got {folder}, which another one is writing. Fix: wait for it."
        ) from None
    except OSError as error:
        raise RunFolderError(
            f"`--out` must be a folder that can be written, got: {error.strerror}: {folder}"
        ) from error
    try:
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)  # still ours: who waits for it looks whether it is there
        lock.release()
        if is_new and not any(folder.iterdir()):
            folder.rmdir()  # nothing came of it


def claim(folder: Path, binding: Mapping[str, Any], *, resume: bool) -> None:
    """Take `folder` for a run, or take an unfinished run up again.

    Args:
        folder: empty, absent, or with `resume` an unfinished run.
        binding: what a resumed run must share with its beginning (settings, data hash).
        resume: go on with what is there.

    Raises:
        RunFolderError: the folder holds a run or other files, or another run than the one to resume.
    """
    if not (folder / RECORD).exists():
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"`--out` must be a folder, got the file {folder}")
        if folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir()):
            raise RunFolderError(f"`--out` must be an empty or new folder, got {folder} with other files in it")
        return
    status = read_record(folder)
    if status.get("status") == "finished":
        raise RunFolderError(f"`--out` must not hold a finished run, got {folder}. Fix: choose another folder.")
    if not resume:
        raise RunFolderError(
            f"`--out` must be a new folder, got an unfinished run in {folder}. Fix: add --resume to go on."
        )
    for name, value in binding.items():
        before = status.get("binding", {}).get(name)
        if before == value:
            continue
        changed = _changed_settings(before, value) if name == "settings" else ""
        if changed is not None:
            raise RunFolderError(
                f"`--resume` must keep the {name} the run in {folder} began with, got other {name}{changed}"
            )


def _changed_settings(before: Any, after: str) -> str | None:
    """Name what differs between two settings in TOML: `: training.epochs 60, now 30`; None where only names do."""
    try:
        old, new = (with_new_names(parsed_toml(each), warn=False) for each in (before, after))
    except (AttributeError, TypeError, ValueError, SettingsError):
        return ""
    flat_old, flat_new = (
        {
            f"{section}.{name}".rstrip("."): value
            for section, values in settings.items()
            for name, value in (values.items() if isinstance(values, dict) else [("", values)])
        }
        for settings in (old, new)
    )
    names = [name for name in {**flat_old, **flat_new} if flat_old.get(name) != flat_new.get(name)]
    if not names:
        return None
    return ": " + "; ".join(f"{name} {flat_old.get(name)}, now {flat_new.get(name)}" for name in names)


def fold_folder(run: Path, number: int, n_folds: int) -> Path:
    """Where what belongs to one fold lies: in the run's own folder where there is one fold only."""
    return run if n_folds == 1 else run / f"fold-{number}"


def first_fold_with(run: Path, name: str) -> Path | None:
    """The folder with a file of the first fold, None where the run has none."""
    return next((folder for folder in (run, run / "fold-0") if (folder / name).exists()), None)


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Write run.json: what is noted about a run, and whether it is finished."""
    write_json(run / RECORD, record)


def read_record(run: Path) -> dict[str, Any]:
    """Read run.json.

    Raises:
        RunFolderError: it is missing or broken.
    """
    found = read_json(run / RECORD)
    checked(Record, found, run / RECORD)
    return found


def write_metrics(run: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json: the figures of the test masses."""
    write_json(run / METRICS, metrics)


def read_metrics(run: Path) -> dict[str, Any]:
    """Read metrics.json.

    Raises:
        RunFolderError: it is missing or broken.
    """
    found = read_json(run / METRICS)
    checked(Metrics, found, run / METRICS)
    return found


def write_history(run: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write metrics.jsonl: a line for each fold and epoch."""
    write_text(run / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))


def read_history(run: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl.

    Raises:
        RunFolderError: it is missing or broken.
    """
    try:
        require_readable(run / HISTORY, MOST_BYTES)
        rows = [parsed_flat(json.loads, line) for line in (run / HISTORY).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"`{run / HISTORY}` must be a readable file of a run, got: {error}") from error
    return checked(History, {"rows": rows}, run / HISTORY).rows


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder.

    Raises:
        RunFolderError: it is missing or no JSON object.
    """
    return read_object(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON for machines and people; NaN is refused.

    A letter beyond ASCII is escaped, so that a file's name that is no text is kept as it is.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, whole or not at all; `read_records` reads it back.

    Raises:
        DataError: a cell holds what is no text; nothing is written.
        RunFolderError: the disk is full or the folder cannot be written.
    """
    write_text(path, table_text(columns, rows))


def read_records(path: Path, columns: Collection[str] = ()) -> list[dict[str, str]]:
    """Read what `write_table` wrote, column -> text, with every space and line end in it.

    Args:
        path: the table.
        columns: that it must have; others are read too.

    Raises:
        RunFolderError: it is missing or no such table.
    """
    try:
        require_readable(path, MOST_BYTES)
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = (list(map(without_apostrophe, row)) for row in csv.reader(file, strict=True))
        if missing := set(columns) - set(header):
            raise ValueError(f"no column {', '.join(sorted(missing))}")  # noqa: TRY301 -- reworded below
        return [dict(zip(header, row, strict=True)) for row in rows if row]
    except (OSError, ValueError, csv.Error) as error:
        raise RunFolderError(f"`{path}` must be a readable table of a run, got: {error}") from error


def require_text(masses: MassSet) -> None:
    """Check that a run's tables can hold what its masses are called, before anything is written.

    Raises:
        DataError: a name is no text.
    """
    texts = (text for mass in masses.masses for text in (mass.patient_id, mass.view, mass.source))
    for each in (masses.classes, masses.image_names, texts):
        as_utf8("".join(each))


def data_name(record: Mapping[str, Any]) -> str:
    """What a run's data are called, for people: their sources where there are several, else a file; "" in memory."""
    data = record["data"]
    name = ", ".join(data["sources"]) if "sources" in data else Path(data["source"]).name
    return f"SYNTHETIC phantoms ({name})" if data.get("synthetic") else name


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"diagnet": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def git_revision() -> str | None:
    """Commit of the source tree diagnet runs from, None where it is installed without one."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    done = subprocess.run(  # noqa: S603 -- a fixed command, no input of the user's
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607 -- git from PATH
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.strip() or None
