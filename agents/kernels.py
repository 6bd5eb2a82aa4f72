"""The worker's kernels, ready before its first batch.

To compile them LLVM needs some 240 MB, which stay with the process. So where no machine code is kept yet, another process
compiles and keeps it, and this one reads it.
"""

from __future__ import annotations

import logging
import subprocess
import sys

from streamer.core import warm_up, window_kernels
from streamer.core.compiled import was_compiled
from streamer.serving import selection

log = logging.getLogger("headwater.worker")

FIRST = window_kernels
"""Compiled here: it tells whether the others are kept."""


def ready() -> None:
    """Takes most of a minute where nothing is kept; blocking."""
    FIRST.warm_up()
    if was_compiled(FIRST.items):
        log.info("compiling kernels, once")
        subprocess.run([sys.executable, "-m", __name__], check=False)  # if it fails, they are compiled here
    warm_all_up()


def warm_all_up() -> None:
    warm_up.warm_up()
    selection.warm_up()


if __name__ == "__main__":
    warm_all_up()
