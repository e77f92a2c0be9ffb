"""A file that can be read at once: no pipe or device, which may keep the reader waiting, and not too large."""

import stat
from pathlib import Path

from diagnet.errors import DataError


def regular_size(path: Path, name: str) -> int:
    """Return the bytes of a regular file.

    Raises:
        DataError: it is no file, or cannot be read; `name` is what the message calls it.
    """
    try:
        n_bytes = _size(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or "no path"
        raise DataError(f"`{name}` must be a file that can be read, got {reason}: {path}.") from None
    if n_bytes is None:
        raise DataError(f"`{name}` must be a file, got {'a folder' if path.is_dir() else 'something else'}: {path}.")
    return n_bytes


def regular_bytes(path: Path, name: str, max_bytes: int) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
        DataError: it is no file, cannot be read, or is larger; `name` is what the message calls it.
    """
    n_bytes = regular_size(path, name)
    if n_bytes > max_bytes:
        raise DataError(f"`{name}` must have at most {max_bytes // 10**6} MB, got {n_bytes} bytes in {path}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"`{name}` must be a file that can be read, got {error.strerror}: {path}.") from None


def require_readable(path: Path, max_bytes: int) -> None:
    """Check that a path is a regular file of at most so many bytes, where the caller says what it is.

    Raises:
        OSError: it is not there.
        ValueError: it is no file, or larger.
    """
    n_bytes = _size(path)
    if n_bytes is None:
        raise ValueError("no file")
    if n_bytes > max_bytes:
        raise ValueError(f"{n_bytes} bytes, more than {max_bytes}")


def _size(path: Path) -> int | None:
    """Bytes of a regular file; None where it is something else."""
    status = path.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None
