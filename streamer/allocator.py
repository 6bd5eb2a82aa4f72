"""glibc's allocator, told to keep little of what is free; elsewhere nothing happens.

Every thread that allocates gets a heap of its own, and what is freed inside of a heap stays there: of a worker's memory a
fifth was free.
"""

from __future__ import annotations

import ctypes
from functools import cache

_M_ARENA_MAX = -8
"""Of malloc.h."""


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None


def share_heaps(heaps: int) -> None:
    """All threads together use so many heaps at most. To be called before there are more."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, heaps)


def give_back() -> None:
    """Return free pages to the system: milliseconds, during which other threads may wait for memory."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
