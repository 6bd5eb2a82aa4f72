"""Every kernel, compiled (or fetched from its cache on disk) for the types that it is used with."""

from __future__ import annotations

from streamer.core import (
    absorb_kernels,
    counts_kernels,
    hash_kernels,
    interests_kernels,
    json_kernels,
    parse_kernels,
    ranking_kernels,
    window_kernels,
)
from streamer.core.signals import warm_up as signals

KERNELS = (
    absorb_kernels,
    counts_kernels,
    hash_kernels,
    interests_kernels,
    json_kernels,
    parse_kernels,
    ranking_kernels,
    window_kernels,
    signals,
)


def warm_up() -> None:
    """Takes seconds where there is no cache yet; blocking."""
    for each in KERNELS:
        each.warm_up()
