"""Who asked what, as JSON lines: no patient, no file name, no address."""

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnet.run.folder import now


class AuditLog:
    """A file of JSON lines that its owner alone can read.

    A line has time, method, route (the template, never the path asked for), status, milliseconds, and where something
    was scored the hashes of the input and of the model.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._is_lost = path, threading.Lock(), False

    def write(self, facts: Mapping[str, Any]) -> None:
        """Append a line. A log that cannot be written is told once on standard error, and stops nobody's work."""
        line = json.dumps({"time": now(), **facts}, allow_nan=False) + "\n"
        try:
            with self._lock:
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(handle, line.encode())
                finally:
                    os.close(handle)
        except OSError as error:
            if not self._is_lost:
                print(f"diagnet: warning: the audit log cannot be written: {error.strerror}", file=sys.stderr)
            self._is_lost = True
