"""What is compiled before a worker takes its first partition."""

from __future__ import annotations

from streamer.core import json_kernels, ranking_kernels


def warm_up() -> None:
    """Seconds the first time; afterwards machine code is read from the disk."""
    json_kernels.warm_up()
    ranking_kernels.warm_up()
