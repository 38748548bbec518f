"""Memory that is freed stays with the process, so that the next tensor of that size costs no page faults."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
MAPPED = 32 * 2**20
"""Bytes from which on an allocation is mapped by itself: the largest value that glibc takes."""
KEPT = 256 * 2**20
"""Bytes at the end of the heap that are not given back to the system."""


def keep_freed_memory() -> bool:
    """Set glibc's limits for this process; whether they could be.

    The pose networks allocate some hundred tensors of up to 4 MB a frame. By default each is mapped anew, and touching
    its pages takes a third of a pass' time (docs/lab.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, MAPPED)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
