"""Files and folders that are written whole or not at all."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from diagnet.errors import DataError, RunFolderError

_NO_ROOM = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EISDIR,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
# Name of what is being written: .NAME.MACHINE-PROCESS-RANDOM.tmp and NAME's suffix.
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp(\.[^.]*)?", re.DOTALL)
_ABANDONED_S = 86400.0  # after which a file of an unknown process is nobody's


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends without an error.

    The content is flushed to the disk before the rename, so that a crash leaves the old file or the new one.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        require_file(path)
        temporary = _temporary(path, path.suffix)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less what the umask forbids
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise _unwritable(path, reason) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block ends without an error.

    Raises:
        RunFolderError: `path` is not empty, or cannot be written, or the disk is full; nothing is left behind.
    """
    require_empty(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary = _temporary(path, "")
        temporary.mkdir()
        yield temporary
        for written in temporary.rglob("*"):
            if written.is_file():
                _flush(written)
        if path.exists():
            path.rmdir()  # empty; not every system lets a rename replace it
        temporary.replace(path)
    except OSError as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise _unwritable(path, reason) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, letter for letter on every system, whole or not at all.

    Raises:
        DataError: UTF-8 cannot hold it; nothing is written.
        RunFolderError: the disk is full or the folder cannot be written.
    """
    content = as_utf8(text)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def as_utf8(text: str) -> bytes:
    """Encode text as UTF-8.

    Raises:
        DataError: it holds half of a surrogate pair, as the name of a file does that is no text to this system; the
            message shows nothing else of it.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"`text` must be text that UTF-8 can hold, got the lone surrogate U+{ord(text[error.start]):04X} in a name."
            " Fix: rename the file, or write the name anew."
        ) from None  # what it came from shows the text


def legible(text: str) -> str:
    """Replace by `?` what UTF-8 cannot hold, in text that people read and no program reads back."""
    return text.encode("utf-8", "replace").decode()


def require_empty(folder: Path) -> None:
    """Check that `folder` is absent or empty, before long work begins.

    Raises:
        RunFolderError: it holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"`--out` must be a new or an empty folder, got {folder}. Fix: choose another folder.")


def require_file(path: Path, option: str = "") -> None:
    """Check that a file can stand at `path`, before long work begins.

    Raises:
        RunFolderError: there is a folder, or no folder to hold it.
    """
    if path.is_dir():
        raise RunFolderError(f"`{option or path}` must be a file, got the folder {path}. Fix: choose another name.")
    if path.parent.exists() and not path.parent.is_dir():
        raise RunFolderError(f"`{option or path}` must be a file in a folder, got the file {path.parent} for a folder.")


def _temporary(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}")


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left half-written."""
    with os.scandir(folder) as entries:
        left = [entry for entry in entries if (named := _TEMPORARY.fullmatch(entry.name)) and _is_left(entry, named)]
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def _is_left(entry: os.DirEntry[str], named: re.Match[str]) -> bool:
    if named[1] == _machine() and os.name == "posix":  # elsewhere there is no asking without ending it
        try:
            os.kill(int(named[2]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            pass
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S
    except OSError:
        return False  # it has gone


@cache
def _machine() -> str:
    """Whose process numbers are ours: this machine's, or this container's."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _no_room(error: BaseException | None) -> OSError | None:
    """Return what the system said of the disk; pydicom raises an OSError of its own from it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error
        error = error.__cause__
    return None


def _flush(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"`{path}` must be writable, got: {error.strerror}. Fix: free some space or choose another folder."
    )
