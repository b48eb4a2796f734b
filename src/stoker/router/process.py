"""The router's process: settings of Python and of the C library that suit one busy thread."""

from __future__ import annotations

import ctypes
import gc
import sys

# How long a thread of the router (one that writes records, or checks an uploaded file) may keep
# the event loop waiting. With Python's own 5 ms every piece of a stream could be that late.
_SWITCH_S = 0.0005
# Requests have no cycles: they are freed as they end.
_YOUNG_OBJECTS = 20_000
# glibc's `mallopt`: from which size on memory comes from the system and returns to it, and how
# much that is free the heap keeps.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_IN_HEAP = 4 * 1024 * 1024
_KEPT_FREE = 32 * 1024 * 1024


def prepare() -> None:
    """Before the router starts."""
    sys.setswitchinterval(_SWITCH_S)
    _keep_freed_memory()


def started() -> None:
    """Once it has started: what is there by now stays, and need not be looked through for what
    could be freed, for tens of milliseconds in the middle of every stream. What requests under way
    have is not looked through each time there are a few more of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _keep_freed_memory() -> None:
    """A body of 200 KB is allocated and freed some four times on its way. By default each of them
    is a new mapping, whose every page has to be faulted in: that costs more than to copy, hash and
    parse the body."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return  # another C library, which has its own ways
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)
