"""`headwater audit`: does every published list name weights that are kept, whole, and under that very name?

What can be proved of a blended list afterwards. Its scores cannot be: they depend on counts in the order in which each worker
read the partitions of `signal-events`, which no log holds. States are another matter, and exact (tests/integration).
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from rich.console import Console

from streamer.core.protocol import Recommendations
from streamer.core.signals.weights import LEARNER_KEY, Published
from streamer.settings import Settings
from streamer.transport.log_reader import LogRecord, iter_log

SHOWN = 10
"""Faults that are told one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check that the weights which published lists name are kept and whole. Exit code 1 if not."
    )


@dataclass
class Audit:
    """What was found. Lists of all versions that the topic still holds count, not only the newest."""

    lists: Counter[str] = field(default_factory=Counter)
    """By strategy."""
    weights: set[str] = field(default_factory=set)
    """Names of whole weights."""
    named: Counter[str] = field(default_factory=Counter)
    """Lists by the name of their weights."""
    faults: list[str] = field(default_factory=list)

    def take_weights(self, records: Iterable[LogRecord]) -> None:
        """Records of `signal-weights`."""
        for record in records:
            if record.key is None or record.value is None or record.key == LEARNER_KEY:
                continue
            name = record.key.decode(errors="replace")
            try:
                Published.decode(name, record.value)
            except Exception as exc:  # whatever the bytes are, it is a fault of the record
                self.faults.append(f"weights {name!r} at {record.partition}@{record.offset}: {exc}")
            else:
                self.weights.add(name)

    def take_lists(self, records: Iterable[LogRecord]) -> None:
        """Records of `recommendations`; `take_weights` first."""
        for record in records:
            if record.value is None:
                continue
            where = f"list at {record.partition}@{record.offset}"
            try:
                found = _decode(record.value)
            except msgspec.MsgspecError as exc:
                self.faults.append(f"{where} cannot be read: {exc}")
                continue
            self.lists[found.strategy] += 1
            if found.strategy != "blend":
                continue
            if found.weights is None:
                self.faults.append(f"{where} is blended and names no weights")
                continue
            self.named[found.weights] += 1
            if found.weights not in self.weights:
                self.faults.append(f"{where} names weights {found.weights!r}, which are not kept")


_decode = msgspec.json.Decoder(Recommendations).decode


def run(args: argparse.Namespace, settings: Settings) -> int:
    audit = asyncio.run(_audit(settings))
    console = Console(highlight=False)
    shares = ", ".join(f"{n:,} {strategy}" for strategy, n in sorted(audit.lists.items())) or "none"
    console.print(f"lists: {shares}; weights kept: {len(audit.weights)}, named by lists: {len(audit.named)}")
    for fault in audit.faults[:SHOWN]:
        console.print(fault, style="red", soft_wrap=True)
    if len(audit.faults) > SHOWN:
        console.print(f"and {len(audit.faults) - SHOWN:,} more", style="red")
    if not audit.faults:
        console.print("every blended list names weights that are kept and whole", style="green")
    return 1 if audit.faults else 0


async def _audit(settings: Settings) -> Audit:
    """Lists first, then weights, so that no list is younger than what is looked for; judged when both are read."""
    audit, lists = Audit(), list[LogRecord]()
    options = settings.kafka_options()
    async for batch in iter_log(settings.brokers, settings.topic("recommendations"), security=options):
        lists += batch
    async for batch in iter_log(settings.brokers, settings.topic("signal-weights"), security=options):
        audit.take_weights(batch)
    audit.take_lists(lists)
    return audit
