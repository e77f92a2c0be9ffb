"""Processes that run the parts of a study, and end with the one that began them."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def worker_processes(workers: int | None) -> ProcessPoolExecutor:
    """Return processes that run functions side by side, one a core where no number is given.

    They begin afresh, without what this process has in memory. Where this process is killed, they end at once: a part
    that nobody waits for any more would take a core for minutes or hours.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Watch the process that began this one, and end when it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # nothing is half written: files are written whole
