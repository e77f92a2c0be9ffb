"""The listener's queue: a plain folder in which every file's place is its state, so that no crash loses one.

    incoming/   being received            images/    images whose marks have not come, or not all
    marks/      reports of marks          scored/    images whose marks were scored; kept for later marks
    outbox/     results to be sent        done/      a record for each result that was sent
    failed/     what cannot be scored, with the reason

A file is flushed to the disk before a rename takes it to its next place, and the folder after it. File names are keyed
hashes of SOP Instance UIDs: no name of a file tells of a patient, and none without the key of an image.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from diagnet.clinic.privacy import Pseudonyms
from diagnet.errors import RunFolderError
from diagnet.run.folder import read_json, write_json

Kind = Literal["images", "marks"]

_STATES = ("incoming", "images", "marks", "scored", "outbox", "done", "failed")
_HELD = ("incoming", "images", "marks", "scored", "outbox")  # what counts against the limit
_ABANDONED_S = 3600.0  # a file in `incoming` that nobody has written to for so long


class Queue:
    """The folder of one listener; only one process may use it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = FileLock(folder / "lock")
        self.pseudonyms = Pseudonyms(b"")

    @contextmanager
    def opened(self) -> Iterator["Queue"]:
        """Take the folder, make what is missing, clear what a crash left half-written.

        Raises:
            RunFolderError: another listener has it, or it cannot be written.
            DataError: its key cannot be read.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            for state in _STATES:
                (self.folder / state).mkdir(exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(f"`--queue` must belong to one listener, got a used one: {self.folder}") from None
        except OSError as error:
            raise RunFolderError(f"`--queue` must be writable, got: {error.strerror}: {self.folder}") from error
        try:
            self.pseudonyms = Pseudonyms.from_file(self.folder / "key")
            self.sweep(0.0)
            for state in ("outbox", "done", "failed"):
                for left in (self.folder / state).glob(".*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield self
        finally:
            self._lock.release()

    def place(self, state: str) -> Path:
        """Folder of a state."""
        return self.folder / state

    def name(self, uid: str) -> str:
        """Name under which an object lies here."""
        return self.pseudonyms.of(uid)

    def take(self, received: Path, kind: Kind, uid: str) -> None:
        """Take a received file for good; when this returns, not even a power cut loses it.

        An object that lies here already is the same object, and stays.
        """
        with received.open("rb") as file:
            os.fsync(file.fileno())
        target = self.place(kind) / f"{self.name(uid)}.dcm"
        if kind == "images" and (self.place("scored") / target.name).exists():
            target = self.place("scored") / target.name
        received.replace(target)
        _flush(target.parent)
        _flush(received.parent)

    def image(self, uid: str) -> Path | None:
        """The file of an image, where it is there."""
        for state in ("images", "scored"):
            path = self.place(state) / f"{self.name(uid)}.dcm"
            if path.exists():
                return path
        return None

    def waiting_marks(self) -> list[Path]:
        """Marks to be scored, the longest waiting first."""
        return [path for path, _ in _oldest_first(self.place("marks"), "*.dcm")]

    def outbox(self) -> list[Path]:
        """Folders of results to be sent, the longest waiting first."""
        return [path for path, _ in _oldest_first(self.place("outbox"), "[!.]*")]

    def job(self, image_uid: str, *facts: object) -> str:
        """Name of the work on one image: what fixes its results, and nothing else, so that it is done once."""
        return hashlib.sha256("\x1f".join([self.name(image_uid), *map(str, facts)]).encode()).hexdigest()[:32]

    def is_finished(self, job: str) -> bool:
        """Tell whether results were made: they are sent or will be."""
        return (self.place("outbox") / job).exists() or (self.place("done") / f"{job}.json").exists()

    def has_failed(self, job: str) -> bool:
        """Tell whether it was tried, and why not is written down."""
        return (self.place("failed") / f"{job}.json").exists()

    def forget_failure(self, job: str) -> None:
        """Let something be tried again."""
        (self.place("failed") / f"{job}.json").unlink(missing_ok=True)

    def set_scored(self, image: Path) -> None:
        """Note that an image may go when room is needed."""
        if image.parent.name == "images":
            image.replace(self.place("scored") / image.name)
            _flush(self.place("scored"))

    def move(self, path: Path, state: str) -> Path:
        """Take a file to another state."""
        target = self.place(state) / path.name
        path.replace(target)
        _flush(target.parent)
        return target

    def mark_file(self, path: Path, suffix: str) -> Path:
        """Change how far a result has come, which is its suffix: .dcm, then .sending, then .sent."""
        target = path.with_suffix(suffix)
        path.replace(target)
        _flush(target.parent)
        return target

    def flush(self, state: str) -> None:
        """Flush a state's names to the disk."""
        _flush(self.place(state))

    def set_done(self, folder: Path) -> None:
        """Keep the record of results that were sent, and let go of the results."""
        record = self.place("done") / f"{folder.name}.json"
        if not record.exists():  # a crash may have come between the record and the removal
            write_json(record, read_json(folder / "record.json"))
            _flush(record.parent)
        shutil.rmtree(folder)

    def set_failed(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep why something was not scored."""
        write_json(self.place("failed") / f"{name}.json", record)
        _flush(self.place("failed"))

    def has_room(self, n_bytes: int) -> bool:
        """Tell whether an object of this size fits, after scored images have made room where there is none."""
        free = shutil.disk_usage(self.folder).free
        over = max(self.held_bytes() + n_bytes - self.max_bytes, 2 * n_bytes - free)
        for path, status in _oldest_first(self.place("scored"), "*.dcm") if over > 0 else []:
            over -= status.st_size
            path.unlink(missing_ok=True)
            if over <= 0:
                break
        return over <= 0

    def held_bytes(self) -> int:
        """Size of everything that counts against the limit."""
        total = 0
        for state in _HELD:
            for folder, _, names in os.walk(self.place(state)):  # unlike `rglob`, passes over folders that go meanwhile
                total += sum(status.st_size for _, status in _there(Path(folder, name) for name in names))
        return total

    def sweep(self, abandoned_s: float = _ABANDONED_S) -> None:
        """Remove what was never wholly received."""
        for path, status in _there(self.place("incoming").iterdir()):
            if time.time() - status.st_mtime >= abandoned_s:
                path.unlink(missing_ok=True)

    def expired(self, state: str, seconds: float) -> list[Path]:
        """Files that have been in a state for so long."""
        found = _oldest_first(self.place(state), "*.dcm")
        return [path for path, status in found if time.time() - status.st_mtime > seconds]


def _there(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield paths with their status; other threads take files to their next place at any time."""
    for path in paths:
        try:
            yield path, path.stat()
        except FileNotFoundError:
            continue


def _oldest_first(folder: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    return sorted(_there(folder.glob(pattern)), key=lambda found: (found[1].st_mtime, found[0].name))


def _flush(folder: Path) -> None:
    """Flush a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
