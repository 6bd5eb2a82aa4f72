"""Ending the process for certain.

Faust's shutdown can hang for ever when it meets a rebalance (the consumer thread waits for a method queue that has
already stopped), so every fatal error also arms a timer thread.
"""

from __future__ import annotations

import logging
import os
import threading

FATAL_EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h: the worker crashed without acknowledging; start it again."""

log = logging.getLogger("headwater.fatal")


def hard_exit_after(seconds: float, code: int = FATAL_EXIT_CODE) -> threading.Timer:
    """End the process from a timer thread, unless it has ended (or the timer is cancelled) before."""

    def leave() -> None:
        log.critical("shutdown did not finish within %.0f s: leaving at once", seconds)
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer
