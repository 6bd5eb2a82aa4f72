"""`headwater topics create|describe`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from streamer.errors import SettingsError
from streamer.settings import Settings
from streamer.transport import topics
from streamer.transport.topics import TopicState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("create", "describe"),
        help="create: what is missing, and check the rest; describe: only look",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    if args.action == "create":
        Console().print(as_table(asyncio.run(topics.ensure_topics(settings))))
        return 0
    states = asyncio.run(topics.describe_topics(settings))
    Console().print(as_table(states))
    wrong = topics.mistakes(settings, states)
    missing = [state.spec.name for state in states if not state.partitions]
    if missing:
        wrong.append(f"Missing: {', '.join(missing)}. `headwater topics create` makes them.")
    if wrong:
        raise SettingsError("\n".join(wrong))
    return 0


def as_table(states: Iterable[TopicState]) -> Table:
    table = Table("topic", "partitions", "replicas", "kept", "", box=None)
    for state in states:
        kept = ", ".join(f"{key}={value}" for key, value in sorted(state.config.items()))
        note = "created" if state.created else "" if state.partitions else "missing"
        table.add_row(state.spec.name, str(state.partitions), str(state.replication_factor), kept, note)
    return table
