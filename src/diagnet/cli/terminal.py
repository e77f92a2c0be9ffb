"""What the command line shows while it works: a bar with time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from diagnet.progress import Progress, silent

_SECONDS_BETWEEN_LINES = 5.0


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
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
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
