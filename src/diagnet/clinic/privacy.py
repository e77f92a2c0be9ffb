"""What keeps a patient's data where it belongs: keyed hashes for research files, and libraries that do not log."""

import hashlib
import hmac
import logging
import os
import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diagnet.data.quiet import quiet
from diagnet.errors import DataError, printable

_KEY_BYTES = 32
_TALKERS = ("highdicom", "pynetdicom", "dicomweb_client", "urllib3")  # they log values, UIDs and whole requests


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the DICOM libraries' warnings and logs, which quote a patient's data.

    Their logs stay off for good: turning them on again while another thread is at work would let a line through.
    """
    for name in _TALKERS:
        logger = logging.getLogger(name)
        logger.propagate = False  # for its children too, those that are not there yet among them
        logger.setLevel(logging.CRITICAL + 1)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    with quiet():
        warnings.filterwarnings("ignore", module=rf"({'|'.join(_TALKERS)})(\.|$)")  # `quiet` takes it back with its own
        yield


def without_path(text: str, path: Path, name: str = "the file") -> str:
    """Leave a file's own path, whose name may be a patient's, out of a text, in full or as it can be printed."""
    return text.replace(str(path), name).replace(printable(path), name)


@dataclass(frozen=True)
class Pseudonyms:
    """Names for patients that only the key's holder can check: HMAC-SHA256 of the patient's identifier.

    A plain hash could be undone by trying all identifiers; a keyed one cannot without the key.
    """

    key: bytes

    @classmethod
    def from_file(cls, path: Path, tell: Callable[[str], None] = lambda _: None) -> "Pseudonyms":
        """Read the key, or make one that its owner alone can read (mode 0600), whole or not at all.

        Args:
            path: the key's file; an empty one, as a full disk leaves it, is written anew.
            tell: hears that it was.

        Raises:
            DataError: the file cannot be read or written, or is too short for a key.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
                tell(f"`key` was empty and is made anew: {path}. Names of earlier records belong to no key")
            if not path.exists():
                _write_once(path, secrets.token_bytes(_KEY_BYTES))
            key = path.read_bytes()
        except OSError as error:
            raise DataError(f"`key` must be a readable, writable file, got {error.strerror}: {path}.") from None
        if len(key) < _KEY_BYTES:
            raise DataError(f"`key` must hold at least {_KEY_BYTES} bytes, got {len(key)} in {path}.")
        return cls(key)

    def of(self, patient_id: str, issuer: str = "") -> str:
        """Name a patient: 32 hexadecimal digits, the same for the same patient and key; "" for an empty identifier."""
        if not patient_id:
            return ""
        return hmac.new(self.key, f"{issuer}\0{patient_id}".encode(), hashlib.sha256).hexdigest()[:32]


def _write_once(path: Path, key: bytes) -> None:
    """Write a key whole or not at all; another process's, which was faster, stays."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
