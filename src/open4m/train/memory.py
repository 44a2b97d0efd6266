"""How the C library manages the memory of a training process on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of ``mallopt``, from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for this process instead of returning it to the system.

    By default it returns every large block and asks for it anew, and the system hands out zeroed pages one by one: half
    of a training step on a CPU was spent on that. The price is that the process holds its peak memory until it ends.
    Returns whether the setting took effect: it does with glibc on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
