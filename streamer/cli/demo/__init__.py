"""`headwater demo`: the main job on a real broker and real input, from raw events to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamer.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="MovieLens-100K files (default: download)"
    )
    parser.add_argument(
        "--light", action="store_true", help="use the light broker noida-db, not Apache Kafka"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON, too")
    parser.add_argument(
        "--keep", action="store_true", help="leave broker and worker running, and say how to use them"
    )
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running, and nothing else")
    parser.add_argument(
        "--seed", type=int, default=7, help="of training and of the order of ties (default: 7)"
    )
    parser.add_argument("--events", type=int, metavar="N", help="replay only the first N events")
    parser.add_argument("--epochs", type=int, metavar="N", help="train for at most N epochs")
    parser.add_argument(
        "--short", action="store_true", help="--events 1500 --epochs 2, trained once: a quick look"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Exit code 0 when every step worked, 1 when one did not, 130 after an interrupt."""
    from streamer.cli.demo import conduct

    return conduct.run(args, settings)
