"""Is the streamed state what an offline recomputation over the same log gives? Nothing lost, nothing applied twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.batch import DecodedRun
from agents.ingest import Ingest
from streamer.core.state_records import applied, decode_heads, head_dtype
from streamer.core.stored import LookedUp
from streamer.transport.log_reader import LogRecord, read_log

Table = dict[tuple[int, bytes], bytes]
"""(partition, key) → record"""


@dataclass
class ChangelogView:
    """The changelog as a recovery sees it (highest applied offset wins) and as a plain reader does (last wins)."""

    newest: Table = field(default_factory=dict)
    last: Table = field(default_factory=dict)
    regressions: int = 0

    @classmethod
    def read(cls, brokers: str, topic: str) -> ChangelogView:
        view = cls()
        for record in read_log(brokers, topic):
            assert record.key is not None
            assert record.value is not None, "the changelog holds no deletions"
            key = (record.partition, record.key)
            have = view.newest.get(key)
            if have is not None and applied(record.value) < applied(have):
                view.regressions += 1
            else:
                view.newest[key] = record.value
            view.last[key] = record.value
        return view

    def events_seen(self, hidden: int) -> int:
        """Applied, late and duplicate events of all heads, and requests for fresh lists."""
        heads, _ = decode_heads([v for (_, key), v in self.newest.items() if key[:1] == b"h"], hidden, 1)
        return sum(int(heads[name].sum()) for name in ("version", "revision", "late", "duplicates"))


def recompute(ingest: Ingest, log: list[LogRecord], topic: str, batch: int = 500) -> Table:
    """Run the worker's own ingest over a log, on a dictionary. Batches are cut elsewhere than the worker cut them."""
    from faust.types import TP

    table: Table = {}
    ingest._reader = lambda partition: LookedUp(lambda key: table.get((partition, key)))
    by_partition: dict[int, list[LogRecord]] = {}
    for record in log:
        by_partition.setdefault(record.partition, []).append(record)
    for partition, records in sorted(by_partition.items()):
        for start in range(0, len(records), batch):
            part = [_Record(topic, r) for r in records[start : start + batch]]
            decoded = asyncio.run(_prepared(ingest, _Run(TP(topic, partition), part)))
            changes = ingest.compute({partition: [decoded]})[partition].changes()
            table.update(((partition, key), value) for key, value in changes.items())
    return table


async def _prepared(ingest: Ingest, run: Any) -> DecodedRun:
    prepared = ingest.prepare(run)
    return prepared if isinstance(prepared, DecodedRun) else await prepared


class _Record:
    def __init__(self, topic: str, record: LogRecord) -> None:
        self.topic, self.partition, self.offset = topic, record.partition, record.offset
        self.timestamp, self.key, self.value, self.headers = (
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )


@dataclass
class _Run:
    tp: Any
    records: list[_Record]


def differences(streamed: Table, expected: Table, hidden: int, tolerance: float = 4e-3) -> list[str]:
    """What differs: windows, counters and interests must be equal bytes, the GRU state within the tolerance.

    It is kept in half precision (steps of 5e-4 below 1), where sums taken in another order may round to the next number.
    """
    found = []
    for key in sorted(streamed.keys() | expected.keys()):
        ours, theirs = streamed.get(key), expected.get(key)
        if ours is None or theirs is None:
            found.append(f"{key}: only {'recomputed' if ours is None else 'streamed'}")
        elif key[1][:1] != b"h":
            if ours != theirs:
                found.append(f"{key}: records differ")
        else:
            found += [f"{key}: {what}" for what in _head_differences(ours, theirs, hidden, tolerance)]
    return found


def _head_differences(ours: bytes, theirs: bytes, hidden: int, tolerance: float) -> list[str]:
    (mine,), (my_tail,) = decode_heads([ours], hidden, 1)
    (other,), (other_tail,) = decode_heads([theirs], hidden, 1)
    fields = [name for name in head_dtype(hidden).names or () if name != "gru"]
    unequal = [name for name in fields if mine[name].tobytes() != other[name].tobytes()]
    found = [f"{name} is {mine[name]}, recomputed {other[name]}" for name in unequal]
    if my_tail != other_tail:
        found.append("rolling counts differ")
    if not np.allclose(mine["gru"], other["gru"], atol=tolerance, rtol=0):
        found.append(f"GRU state differs by {np.abs(mine['gru'] - other['gru']).max():.1e}")
    return found
