"""What the command line shows: a bar with time left on a terminal, plain lines elsewhere, and no control characters."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diagnet.progress import Progress, silent

_SECONDS_BETWEEN_LINES = 5.0


# What makes a terminal do something, or shows letters in another order than they stand in: C0 but tab and line feed,
# DEL, C1, directional marks, and what else ends a line.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, *, one_line: bool = False) -> str:
    """Spell out control characters in hexadecimal: names of files, columns and keys come from anybody.

    Args:
        text: what is printed.
        one_line: spell out line feeds too.
    """
    spelled = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return spelled.replace("\n", "\\n") if one_line else spelled


class EscapedStream:
    """A text stream that spells out control characters in all that is written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text without control characters."""
        self.stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Let standard output and error take no control characters while the block lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(EscapedStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """Yield a progress callable that draws on standard error, so that standard output stays for results."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        yield _Lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    terminal = sys.stderr.stream if isinstance(sys.stderr, EscapedStream) else sys.stderr  # the bars' own codes pass
    with Bars(*columns, console=Console(file=terminal)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            note = escaped(note, one_line=True)
            if stage not in tasks:
                tasks[stage] = bars.add_task(escaped(stage, one_line=True), total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show


class _Lines:
    """One line at the start and end of a stage, and every few seconds between."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._last = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first = stage, now, done
        elif done < total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        line = f"{stage}: {done}/{total}"
        if self._first < done < total:
            left = (now - self._began) / (done - self._first) * (total - done)
            line += f", {left:.0f} s left"
        if note:
            line += f", {note}"
        print(line, file=sys.stderr, flush=True)
