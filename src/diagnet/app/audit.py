"""Who asked what, as JSON lines: no patient, no file name, no address."""

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnet.run.folder import now

_N_FILES = 10  # audit.jsonl, and audit.jsonl.1 (the latest of the full ones) to .9


class AuditLog:
    """Files of JSON lines that their owner alone can read.

    A line has time, method, route (the template, never the path asked for), status, milliseconds, and where something
    was scored the hashes of the input and of the model. A full file is renamed; the oldest of ten goes.

    Args:
        path: of the file that is written to.
        max_bytes: of all files together.
    """

    def __init__(self, path: Path, max_bytes: int = 100 * 2**20) -> None:
        self._path, self._max, self._lock, self._n_lost = path, max_bytes // _N_FILES, threading.Lock(), 0

    def write(self, facts: Mapping[str, Any]) -> None:
        """Append a line.

        A log that cannot be written, as on a full disk, stops no request. One warning goes to standard error. When
        the log can be written again, it gets the number of missing lines.
        """
        with self._lock:
            try:
                if self._n_lost:
                    self._append({"time": now(), "lost_lines": self._n_lost})
                    self._n_lost = 0
                self._append({"time": now(), **facts})
            except OSError as error:
                if not self._n_lost:
                    print(
                        f"diagnet: warning: the audit log cannot be written; requests are still answered:"
                        f" {error.strerror}",
                        file=sys.stderr,
                    )
                self._n_lost += 1

    def _append(self, facts: Mapping[str, Any]) -> None:
        line = (json.dumps(facts, allow_nan=False) + "\n").encode()
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max:
            self._rotate()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            if (n_written := os.write(handle, line)) < len(line):  # the disk is full: no half of a line stays
                os.ftruncate(handle, size)
                raise OSError(0, f"only {n_written} of {len(line)} bytes were taken")
        finally:
            os.close(handle)

    def _rotate(self) -> None:
        for k in range(_N_FILES - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{k}")
            newer = self._path.with_name(f"{self._path.name}.{k - 1}") if k > 1 else self._path
            if newer.exists():
                newer.replace(older)
