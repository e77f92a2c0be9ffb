"""Memory that a process has freed: kept for its next use, where the system can be asked to."""

import ctypes
import platform

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h
_LARGE = 2**30  # bytes; no activation is larger


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next use; tell whether it can.

    A pass of a network frees and takes large buffers again and again. glibc hands each back to the system, which then
    clears every page anew: a fifth to two thirds of the time. Only Linux with glibc is asked; elsewhere nothing
    changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1))
