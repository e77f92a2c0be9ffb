"""Warnings and logs of the image libraries, kept from the user's terminal while any thread reads."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_readers = 0
_filters = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's and Pillow's warnings and pydicom's log, which may quote a patient's data; safe in threads.

    Python's filters belong to the whole process, so the first reader in sets them and the last one out restores
    them; each doing so alone could leave them changed for good.
    """
    global _readers
    with _lock:
        if _readers == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(pydicom|PIL)(\.|$)")
            logger = logging.getLogger("pydicom")  # it logs each warning too
            _filters.callback(setattr, logger, "disabled", logger.disabled)
            logger.disabled = True
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()
