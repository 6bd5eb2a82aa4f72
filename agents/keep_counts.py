"""The counts ⇄ `signal-counts`: what a starting worker goes on from, and the snapshots that the learner writes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from agents.follow_signals import FollowSignals
from streamer import telemetry
from streamer.core.signals import snapshot
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.snapshot import SLOTS, Counts, Head
from streamer.errors import HeadwaterError
from streamer.transport.batch_producer import BatchProducer, Sent
from streamer.transport.log_reader import LogFollower, LogRecord, log_extent

log = logging.getLogger("headwater.signals")

EDGES_PER_ROW = 100
"""Counting a row costs as much as writing or reading so many edges: before that a snapshot would save nothing."""
AT_LATEST_S = 86_400.0
"""Where little happens: long before `signal-events` forgets what no snapshot has."""

Offsets = dict[int, int]


class KeepCounts:
    """Counts are copied in the executor in which batches are computed, and packed in the loader, part by part.

    learns: whether this worker is the one that writes now. every_s: how often, 0 = never.
    """

    def __init__(
        self,
        shared: SharedSignals,
        follow: FollowSignals,
        executor: Executor,
        loader: Executor,
        learns: Callable[[], bool],
        *,
        brokers: str,
        topic: str,
        security: Mapping[str, Any],
        every_s: float,
    ) -> None:
        self._shared, self._follow, self._executor, self._loader = shared, follow, executor, loader
        self._learns, self._every_s = learns, every_s
        self._brokers, self._topic, self._security = brokers, topic, security
        self._begun: asyncio.Task[Offsets] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._unfit: set[str] = set()
        """Snapshots that are whole and yet cannot be gone on from"""
        self._places = _Places(0, [0] * SLOTS, end=None)
        self._rows, self._as_of_s = 0, 0.0
        """Of the last snapshot: what this worker had read by then, and when its counts were copied"""

    # ------------------------------------------------------------------ reading
    async def begin(self) -> Offsets:
        """Go on from the newest snapshot; the offsets of `signal-events` from which on is to be counted, {} = all.

        Waits for a broker and for the topic. Before anything is counted. Raises CancelledError after stop().
        """
        self._begun = asyncio.create_task(self._go_on(), name="read the newest snapshot")
        return await self._begun

    async def _go_on(self) -> Offsets:
        records = await self._records()
        loop = asyncio.get_running_loop()
        heads, faults = await loop.run_in_executor(self._loader, snapshot.whole, records)
        gone_on_from = None
        for head in heads:
            try:
                counts = await loop.run_in_executor(self._loader, snapshot.decode, head, records)
                await loop.run_in_executor(self._executor, self._shared.restore, counts)
            except ValueError as exc:
                faults.append(f"the snapshot {head.id} does not fit: {exc}")
                self._unfit.add(head.id)
            else:
                gone_on_from = head
                break
        for fault in faults:
            log.warning("%s: %s", self._topic, fault)
        telemetry.SIGNAL_SNAPSHOTS.labels("refused").inc(len(faults))
        if gone_on_from is None:
            log.info("no snapshot to go on from: signals are counted from the beginning of the log")
            return {}
        self._went_on(gone_on_from, len(counts.arrays["edges/target"]))
        _show(gone_on_from, snapshot.size(gone_on_from, records))
        return dict(gone_on_from.reached)

    def _went_on(self, head: Head, edges: int) -> None:
        self._follow.reached.update(head.reached)
        self._as_of_s = head.as_of_ms / 1000
        telemetry.SIGNAL_SNAPSHOTS.labels("read").inc()
        log.info(
            "signals go on from snapshot %s: %s events, %s edges, %.0f s old",
            head.id, f"{head.numbers['counts/events']:,}", f"{edges:,}", time.time() - self._as_of_s,
        )  # fmt: skip

    async def _records(self) -> dict[bytes, bytes]:
        """The topic's newest record of each key."""
        found: dict[bytes, bytes] = {}

        async def take(records: list[LogRecord]) -> None:
            for record in records:
                if record.key is not None:
                    found.pop(record.key, None)
                    if record.value is not None:
                        found[record.key] = record.value

        follower = LogFollower(self._brokers, self._topic, take, self._security)
        await follower.start()
        try:
            await follower.caught_up()
        finally:
            await follower.stop()
        return found

    # ------------------------------------------------------------------ writing
    def start(self, positions: Offsets) -> None:
        """Write snapshots in the background, once everything up to now is counted.

        positions: where the reading of `signal-events` is; lower than a snapshot says where it is another log by now.
        """
        reached = self._follow.reached
        reached.update({p: min(at, reached[p]) for p, at in positions.items() if p in reached})
        telemetry.SIGNAL_START_ROWS.set(self._follow.rows)
        log.info("%s events were counted at the start", f"{self._follow.rows:,}")
        if self._every_s:
            self._writing = asyncio.create_task(self._write_for_ever(), name="write snapshots")

    async def stop(self) -> None:
        """Does not wait for a broker."""
        tasks = [task for task in (self._begun, self._writing) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if self._learns() and self._due():
                    await self.write()
            except Exception as exc:  # a start costs more without it, but nothing is lost
                telemetry.SIGNAL_SNAPSHOTS.labels("failed").inc()
                expected = isinstance(exc, (KafkaError, HeadwaterError, OSError))
                log.warning(
                    "no snapshot was written: %r; the next try is in %g s",
                    exc,
                    self._every_s,
                    exc_info=not expected,
                )

    def _due(self) -> bool:
        rows, signals = self._follow.rows - self._rows, self._shared.signals
        if signals is None or not rows:
            return False
        return rows * EDGES_PER_ROW >= len(signals.edges) or time.time() - self._as_of_s > AT_LATEST_S

    async def write(self) -> None:
        """Raises KafkaError, HeadwaterError."""
        places, loop = await self._current_places(), asyncio.get_running_loop()
        copied = await loop.run_in_executor(self._executor, self._copied)
        if copied is None:
            return
        started_s, id_, slot = time.monotonic(), secrets.token_hex(snapshot.ID_BYTES), places.next
        counts = copied.counts = await loop.run_in_executor(
            self._loader, snapshot.without_forgotten, copied.counts, copied.edge_half_life_ms
        )
        checksums: list[int] = []
        size = 0
        producer = BatchProducer(bootstrap_servers=self._brokers, **self._security)
        try:
            await producer.start()
            values: Iterator[bytes] = snapshot.parts(id_, counts.arrays)
            while value := await loop.run_in_executor(self._loader, next, values, b""):
                await producer.send(self._topic, 0, [(snapshot.part_key(slot, len(checksums)), value)])
                checksums.append(snapshot.checksum(value))
                size += len(value)
            head = snapshot.headed(id_, slot, int(copied.as_of_s * 1000), copied.reached, counts, checksums)
            sent = await producer.send(self._topic, 0, [(snapshot.head_key(slot), head.encode())])
            old = range(len(checksums), places.parts[slot])
            sent += await producer.send(self._topic, 0, [(snapshot.part_key(slot, n), None) for n in old])
        except BaseException:
            await producer.drop()  # to send the rest would take a broker, and what is there is no snapshot
            raise
        await producer.stop()
        self._places = places.written(slot, len(checksums), sent[-1])
        self._rows, self._as_of_s = copied.rows, copied.as_of_s
        _show(head, size)
        telemetry.SIGNAL_SNAPSHOTS.labels("written").inc()
        log.info(
            "snapshot %s: %d parts, %.1f MB; batches waited %.0f ms for the copy, it was written in %.1f s",
            id_, len(checksums), size / 1e6, 1e3 * copied.took_s, time.monotonic() - started_s,
        )  # fmt: skip

    async def _current_places(self) -> _Places:
        """Read again where the log does not end with this worker's snapshot: another one has written, or a write failed."""
        _, end = (await log_extent(self._brokers, self._topic, self._security)).get(0, (0, None))
        if end is None or end != self._places.end:
            self._places = _Places.of(await self._records(), self._unfit)
        return self._places

    def _copied(self) -> _Copied | None:
        """None before there is anything to keep."""
        started_s = time.perf_counter()
        counts, signals = self._shared.state(), self._shared.signals
        if counts is None or signals is None:
            return None
        half_life_ms, follow = signals.options.edge_half_life_ms, self._follow
        took_s = time.perf_counter() - started_s
        return _Copied(counts, dict(follow.reached), follow.rows, half_life_ms, time.time(), took_s)


@dataclass(slots=True)
class _Copied:
    counts: Counts
    reached: Offsets
    rows: int
    """Read for these counts"""
    edge_half_life_ms: float
    as_of_s: float
    took_s: float


class _Places:
    """Which slot is next, how many parts each has, old ones included, and where the log ends if it ends with our own snapshot."""

    def __init__(self, slot: int, parts: list[int], end: int | None) -> None:
        self.next, self.parts, self.end = slot, parts, end

    @classmethod
    def of(cls, records: Mapping[bytes, bytes], unfit: Collection[str]) -> _Places:
        """Not the slot of the newest whole snapshot, but for those that nobody can go on from."""
        head = next((head for head in snapshot.whole(records)[0] if head.id not in unfit), None)
        parts = [0] * SLOTS
        for slot, number in filter(None, map(snapshot.place, records)):
            parts[slot] = max(parts[slot], number + 1)
        return cls(0 if head is None else (head.slot + 1) % SLOTS, parts, None)

    def written(self, slot: int, parts: int, last: Sent) -> _Places:
        """As they are after a snapshot; last: its last batch."""
        of_slots = [parts if each == slot else number for each, number in enumerate(self.parts)]
        end = None if last.base_offset < 0 else last.base_offset + last.records
        return _Places((slot + 1) % SLOTS, of_slots, end)


def _show(head: Head, size: int) -> None:
    telemetry.SIGNAL_SNAPSHOT_BYTES.set(size)
    telemetry.SIGNAL_SNAPSHOT_TIME.set(head.as_of_ms / 1000)
