"""Every kernel, compiled (or fetched from its cache on disk) for the types that it is used with."""

from __future__ import annotations

from streamer.core import absorb_kernels, counts_kernels, interests_kernels, window_kernels


def warm_up() -> None:
    """Takes seconds where there is no cache yet; blocking."""
    for kernels in (absorb_kernels, counts_kernels, interests_kernels, window_kernels):
        kernels.warm_up()
