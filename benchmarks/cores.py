"""One core for who is measured, another for the broker and the load, where the machine lets us choose."""

from __future__ import annotations

import os
from collections.abc import Callable


def choose(measured: int = 1) -> tuple[set[int], set[int]]:
    """(cores of who is measured, cores of broker and load): `measured` and the next, where the machine has one more.

    Elsewhere one and the next; the same where there is only one.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    allowed = sorted(os.sched_getaffinity(0))
    n = measured if len(allowed) > measured else 1
    return set(allowed[:n]), set(allowed[n : n + 1] or allowed)


def pin(cores: set[int]) -> None:
    """Pin this process, and with it what it starts from now on."""
    if cores:
        os.sched_setaffinity(0, cores)


def pinned(cores: set[int]) -> Callable[[], None] | None:
    """What a child process must call before it runs."""
    return (lambda: pin(cores)) if cores else None
