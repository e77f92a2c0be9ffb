"""The listener's queue: a plain folder in which every file's place is its state, so that no crash loses one.

    incoming/   being received            images/    images whose marks have not come, or not all
    marks/      reports of marks          scored/    images whose marks were scored; kept for later marks
    outbox/     results to be sent        done/      a record for each result that was sent
    failed/     what cannot be scored, with the reason
    attempts/   how often marks were begun that no end of the work has followed
    workitems/  of a worklist, claimed and not ended      notes/     what came of which marks, for them
    clock       its time says when a listener last ran; see `Queue.now`

A file is flushed to the disk before a rename takes it to its next place, and the folder after it. File names are keyed
hashes of SOP Instance UIDs: no name of a file tells of a patient, and none without the key of an image.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from diagnet.clinic.privacy import Pseudonyms
from diagnet.errors import RefusedInputError, RunFolderError
from diagnet.run.folder import read_json, write_json

Kind = Literal["images", "marks"]

_STATES = ("incoming", "images", "marks", "scored", "outbox", "done", "failed", "attempts", "workitems", "notes")
_HELD = ("incoming", "images", "marks", "scored", "outbox")  # what counts against the limit
_ABANDONED_S = 3600.0  # a file in `incoming` that nobody has written to for so long
_JUMP_S = 60.0  # by less than this a clock is only set right
_MAX_ATTEMPTS = 3  # two may be power cuts: the tests of kill -9 hit the same good marks twice


class Queue:
    """The folder of one listener; only one process may use it."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        keep_free_bytes: int = 0,
        max_failed: int = 1000,
        max_failed_bytes: int = 1_000_000_000,
    ) -> None:
        self.folder = folder
        self.max_bytes, self.keep_free_bytes = max_bytes, keep_free_bytes
        self.max_failed, self.max_failed_bytes = max_failed, max_failed_bytes
        self.notices: list[str] = []  # what opening it mended
        self._taking, self._telling_time = threading.Lock(), threading.Lock()
        self._seen: tuple[float, float] | None = None  # the time of day and of the monotonic clock, together
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
            self.sweep(0.0)
            self.pseudonyms = Pseudonyms.from_file(self.folder / "key", self.notices.append)
            yield self
        finally:
            self._lock.release()

    def place(self, state: str) -> Path:
        """Folder of a state."""
        return self.folder / state

    def name(self, uid: str) -> str:
        """Name under which an object lies here."""
        return self.pseudonyms.of(uid)

    def take(self, received: Path, kind: Kind, uid: str) -> bool:
        """Take a received file for good; when this returns, not even a power cut loses it.

        An object that lies here already is the same object, and stays.

        Returns:
            Whether it lies here now; False where the same UID has other content here. The first one stays.
        """
        with received.open("rb") as file:
            os.fsync(file.fileno())
        target = self.place(kind) / f"{self.name(uid)}.dcm"
        with self._taking:
            if kind == "images" and (self.place("scored") / target.name).exists():
                target = self.place("scored") / target.name
            if target.exists():
                return content_hash(target) == content_hash(received)
            received.replace(target)
        _flush(target.parent)
        _flush(received.parent)
        return True

    def image(self, uid: str) -> Path | None:
        """The file of an image, where it is there."""
        for state in ("images", "scored"):
            path = self.place(state) / f"{self.name(uid)}.dcm"
            if path.exists():
                return path
        return None

    def has_marks(self, name: str) -> bool:
        """Tell whether marks wait, by the name under which they lie here."""
        return (self.place("marks") / f"{name}.dcm").exists()

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
        """Take a file to another state, in which its time begins anew."""
        target, now = self.place(state) / path.name, self.now()
        os.utime(path, (now, now))
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

    def note(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note what came of marks or of a job."""
        write_json(self.place("notes") / f"{name}.json", facts)
        _flush(self.place("notes"))

    def noted(self, name: str) -> dict[str, Any] | None:
        """What was noted; None where nothing was, or it was let go."""
        path = self.place("notes") / f"{name}.json"
        return read_json(path) if path.exists() else None

    def failure(self, name: str) -> str | None:
        """Why marks or a job were not scored; None where nothing says so."""
        path = self.place("failed") / f"{name}.json"
        return str(read_json(path)["reason"]) if path.exists() else None

    def masses(self, job: str) -> list[dict[str, Any]] | None:
        """What was said of the masses of a job whose results were sent; None where they were not."""
        path = self.place("done") / f"{job}.json"
        return list(read_json(path)["masses"]) if path.exists() else None

    def forget(self, marks: str) -> None:
        """Forget what came of marks that are sent again."""
        self.forget_failure(marks)
        (self.place("notes") / f"{marks}.json").unlink(missing_ok=True)

    def failed_is_full(self) -> bool:
        """Tell whether `failed` has reached its limit, in number or in bytes."""
        sizes = [status.st_size for _, status in _there(self.place("failed").iterdir())]
        return len(sizes) >= self.max_failed or sum(sizes) >= self.max_failed_bytes

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Count work that may end the program: the count stays if it does, and goes with any other end of the block.

        Raises:
            RefusedInputError: it was begun too often, and never came to an end.
        """
        path = self.place("attempts") / name
        begun = path.stat().st_size if path.exists() else 0  # a byte an attempt: a full disk takes no rewriting
        if begun >= _MAX_ATTEMPTS:
            path.unlink()
            raise RefusedInputError(f"`marks` must not end the program, got {begun} ends while they were worked on.")
        with path.open("ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        _flush(path.parent)
        try:
            yield
        except Exception:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def has_room(self, n_bytes: int) -> bool:
        """Tell whether an object of this size fits, after scored images have made room where there is none."""
        free = shutil.disk_usage(self.folder).free
        over = max(self.held_bytes() + n_bytes - self.max_bytes, self.keep_free_bytes + 2 * n_bytes - free)
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
        """Remove what was never wholly received or written; with 0, all of it, of whatever time."""
        now = self.now()
        left = [*self.place("incoming").iterdir(), *self.folder.glob(".*"), *self.folder.glob("*/.*")]
        for path, status in _there(left):
            if abandoned_s and now - status.st_mtime < abandoned_s:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def expired(self, state: str, seconds: float, pattern: str = "*.dcm") -> list[Path]:
        """Files that have been in a state for so long."""
        now = self.now()
        found = _oldest_first(self.place(state), pattern)
        return [path for path, status in found if now - status.st_mtime > seconds]

    def now(self) -> float:
        """The time that ages are measured by: only the time in which a listener runs makes a file older.

        Where the clock jumps, or no listener ran for a while, the files' times go with it, so that nothing is removed
        before its time. A crash in the midst of that leaves some files younger, never older.
        """
        with self._telling_time:
            mark, wall, running = self.folder / "clock", time.time(), time.monotonic()
            if self._seen is not None:
                jump = (wall - self._seen[0]) - (running - self._seen[1])
            else:
                jump = wall - mark.stat().st_mtime if mark.exists() else 0.0
            if abs(jump) > _JUMP_S:
                for state in _STATES:
                    for path, status in _there(self.place(state).iterdir()):
                        with suppress(FileNotFoundError):
                            os.utime(path, (status.st_atime, status.st_mtime + jump))
            self._seen = wall, running
            mark.touch()
            os.utime(mark, (wall, wall))
            return wall


def content_hash(path: Path) -> str:
    """SHA-256 of a DICOM file after its meta information, which is the receiver's and not the sender's."""
    with path.open("rb") as file:
        head = file.read(144)  # preamble, prefix, and the length of what follows of group 2: PS3.10, 7.1
        is_whole = len(head) == 144 and head[128:136] == b"DICM\x02\x00\x00\x00"
        file.seek(144 + int.from_bytes(head[140:144], "little") if is_whole else 0)
        return hashlib.file_digest(file, "sha256").hexdigest()


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
