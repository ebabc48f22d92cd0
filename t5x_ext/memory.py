"""Memory that a long process no longer needs goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import platform


def give_back() -> None:
    """Frees models and programs that only refer to themselves, and returns freed memory.

    A compiled program and its functions refer to each other, so that a model's programs outlive it
    until Python looks for such cycles, which it seldom does; a program for 30 layers holds 50 MB.
    And what is freed stays with the process (`startup.keep_freed_memory`), in gaps that arrays of
    other sizes do not fit into. Takes about a second: to be called where the work changes, as
    between a model that writes and one that is tuned, not after every step.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
