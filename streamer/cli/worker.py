"""`headwater worker`: one worker process."""

from __future__ import annotations

import argparse
import logging

from streamer import telemetry
from streamer.allocator import share_heaps
from streamer.settings import Settings

log = logging.getLogger("headwater.worker")

HEAPS = 1
"""Of the allocator: the interpreter's lock lets hardly two threads allocate at a time anyway."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A worker has settings, no arguments."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    share_heaps(HEAPS)  # before the worker's imports start threads
    from agents import worker

    telemetry.log_to_stderr(settings)
    log.info("settings: %s", " ".join(f"{name}={value}" for name, value in settings.redacted().items()))
    return worker.run(settings)
