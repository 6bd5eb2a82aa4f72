"""One core for who is measured, another for the broker and the load, where the machine lets us choose."""

from __future__ import annotations

import os
from collections.abc import Callable


def choose() -> tuple[set[int], set[int]]:
    """(cores of who is measured, cores of broker and load): one and the next; the same where there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return set(), set()
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[0]}, set(allowed[1:2] or allowed)


def pin(cores: set[int]) -> None:
    """Pin this process, and with it what it starts from now on."""
    if cores:
        os.sched_setaffinity(0, cores)


def pinned(cores: set[int]) -> Callable[[], None] | None:
    """What a child process must call before it runs."""
    return (lambda: pin(cores)) if cores else None
