"""The Faust transport that delivers one message per fetch, the runs of its partitions, and commits the end of the done prefix.

What hangs where (faust-streaming 0.15.3): `BatchApp._new_transport` → `BatchTransport.Consumer` → `BatchConsumer` →
`BatchConsumerThread`. The price of Faust is per message (some 200 µs with its threads), so a whole fetch costs it once. Rules of
delivery: docs/design.md, 'Delivery'.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streamer import telemetry
from streamer.core.lane import Lane, Span, Verdict
from streamer.errors import LostOwnership
from streamer.transport.log_batches import FetchedByBatch, LoggedRecord, runs
from streamer.transport.paced_fetches import PacedFetches
from streamer.transport.tolerant_records import tolerate

if TYPE_CHECKING:
    from streamer.transport.app import BatchApp

FETCH_BYTES = 16 << 20
"""Of all partitions together in one fetch; one is worked on while the next is read."""
FETCH_WAIT_MS = 200
"""How long the broker may hold an empty fetch (Faust: 1.5 s). A seek waits for the fetch before it, at every rebalance."""
HELD_BACK_S = 0.02
"""The longest poll while partitions are held back: they may be wanted again any moment, and nothing ends a poll early."""
SESSION_SHARE = 0.7
"""A send must reach the broker before the session ends: the last good heartbeat may be this share of it old."""


def boottime() -> float:
    """Seconds since boot, suspended time included (CLOCK_MONOTONIC stands still while a machine sleeps)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(eq=False, slots=True)
class Run:
    """Records of one partition, delivered together; `lane` is the identity of (partition, generation, seek)."""

    tp: TP
    records: list[LoggedRecord]
    lane: Lane
    span: Span


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Counts the seeks of each partition, and keeps the time of the last heartbeat that the broker accepted."""

    app: BatchApp

    def __post_init__(self) -> None:
        super().__post_init__()
        self.epochs: collections.Counter[TP] = collections.Counter()

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        # No await between the count and the seeks themselves: one step, as this thread sees it.
        self.epochs.update(TP(*tp) for tp in partitions)
        await super()._seek_wait(consumer, partitions)

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        """Tag every fetch with the number of seeks that its partition had seen when it was drained."""
        consumer = cast(BatchConsumer, self.consumer)
        changelogs = [tp for tp in self._ensure_consumer().assignment() if consumer._is_changelog_tp(tp)]
        before = {tp: self._position(tp) for tp in changelogs}
        try:
            records = await super()._fetch_records(*args, **kwargs)
        except UnicodeDecodeError:  # a header key; of events the hole shows, and is fetched again
            tolerate()
            for tp, position in before.items():
                if position is not None and position != self._position(tp):
                    self._ensure_consumer().seek(tp, position)
            return {}
        return {tp: (self.epochs[TP(*tp)], recs) for tp, recs in records.items()}

    def _position(self, tp: Any) -> int | None:
        """Without waiting for one, as aiokafka's `position` does."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        state = None if assignment is None else assignment.state_value(tp)
        return state.position if state is not None and state.has_valid_position else None

    async def on_start(self) -> None:
        await super().on_start()
        consumer = cast(BatchConsumer, self.consumer)
        # Seams that aiokafka lacks, on this one instance. No fetch has been answered yet: nothing is subscribed.
        fetcher = self._ensure_consumer()._fetcher
        fetcher._records = FetchedByBatch(consumer._is_changelog_tp)
        fetcher._fetch_max_wait_ms = FETCH_WAIT_MS
        fetcher._fetch_max_bytes = FETCH_BYTES
        fetcher._get_actions_per_node = PacedFetches(fetcher._get_actions_per_node, self.app.pace)
        # aiokafka keeps the time of the last good heartbeat in a local variable, hence this one wrap of an instance.
        coordinator = self._ensure_consumer()._coordinator
        beat = cast(Callable[[], Awaitable[bool]], coordinator._do_heartbeat)

        async def timed_heartbeat() -> bool:
            sent = boottime()  # before it is sent: the broker's session clock starts no earlier
            ok = await beat()
            if ok:
                consumer.last_heartbeat = sent
            return ok

        coordinator._do_heartbeat = timed_heartbeat


class BatchConsumer(driver.Consumer):
    """Faust's consumer, with runs for `app.batch_topics`; the others are changelogs, and recovery gets their batches."""

    app: BatchApp
    _thread: BatchConsumerThread
    last_heartbeat = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lanes: dict[TP, Lane] = {}
        self._longest_silence_s = self.app.conf.broker_session_timeout * SESSION_SHARE

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def is_batch(self, tp: TP) -> bool:
        return tp.topic in self.app.batch_topics

    # ------------------------------------------------------------------ fetching
    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # A copy: Faust hands its live set to another thread, and aiokafka reads an emptied set as 'every partition'.
        frozen = None if active_partitions is None else frozenset(active_partitions)
        return await super()._getmany(cast("set[TP] | None", frozen), timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """One message per fetch and batch topic, its value all the runs; changelogs go to recovery from here.

        The message is of one of the partitions; pipelines judge each run by its own lane.
        """
        fetched = await self._next_records(timeout)
        if self.should_stop:
            return
        if not fetched:
            await self.app.recovery.nothing_fetched()
            return
        together: dict[str, list[Run]] = {}
        for fetched_tp, (_, records) in cast(dict[TP, tuple[int, list[LoggedRecord]]], fetched).items():
            tp = TP(*fetched_tp)
            if records and self.is_batch(tp):
                together.setdefault(tp.topic, []).extend(await self._accept(tp, records))
        for accepted in together.values():
            if accepted:
                yield self._message(accepted)
        # Compacted topics have holes, so offsets cannot tell: a fetch is stale if its partition was sought since.
        for tp, (epoch, batches) in fetched.items():
            if self.is_batch(tp):
                continue
            for part in runs(batches):
                if not self.flow_active:
                    return
                if epoch != self._thread.epochs[TP(*tp)]:
                    telemetry.DROPPED_FETCHES.inc()
                    break
                self.app.recovery.replay(TP(*tp), part)
                await asyncio.sleep(0)

    async def _next_records(self, timeout: float) -> Any:
        """While partitions are held back a poll must not outlast that: it asks for those alone that were wanted when it began."""
        if not self._buffered_partitions:
            return (await self._wait_next_records(timeout))[0]
        if not self._get_active_partitions():  # Faust would sleep for a second
            await self.sleep(HELD_BACK_S)
            return None
        return (await self._wait_next_records(min(timeout, HELD_BACK_S)))[0]

    def _message(self, accepted: list[Run]) -> tuple[TP, ConsumerMessage]:
        inbound, now = self.app.monitor.stream_inbound_time, time.monotonic()
        for run in accepted:  # Faust's watchdog asks for each partition
            inbound[run.tp] = now
        run = accepted[-1]
        last = run.records[-1]
        return run.tp, ConsumerMessage(
            run.tp.topic, run.tp.partition, last.offset, last.timestamp / 1000, last.timestamp_type,
            [], None, cast(Any, accepted), None, 0, 0, run.tp, generation_id=run.lane.generation,
        )  # fmt: skip

    async def _accept(self, tp: TP, records: list[LoggedRecord]) -> list[Run]:
        """Judge a fetch by its offsets. Refusing is safe: the next fetch shows the hole, and it is fetched again."""
        lane = self._lanes.get(tp)  # none before the seek
        active = (
            self._active_partitions or self._get_active_partitions()
        )  # the latter looks at every partition
        wanted = tp in active or tp in self._buffered_partitions
        if (
            lane is None
            or not wanted
            or not self.flow_active
            or lane.generation != self.app.consumer_generation_id
        ):
            telemetry.DROPPED_FETCHES.inc()
            return []
        verdict = lane.judge(records[0].offset, records[-1].offset)
        if verdict is Verdict.STALE:
            telemetry.DROPPED_FETCHES.inc()
            return []
        if verdict is Verdict.REFETCH:
            telemetry.REFETCHES.inc()
            await self._thread.seek_wait({cast(TP, TopicPartition(*tp)): lane.expected})
            return []
        fresh = [r for r in records if r.offset >= lane.expected]
        self._read_offset[tp] = None  # else _drain_messages may drop a replay silently
        size = self.app.run_records
        slices = [fresh[i : i + size] for i in range(0, len(fresh), size)]
        return [Run(tp, part, lane, lane.deliver(part[0].offset, part[-1].offset)) for part in slices]

    # ------------------------------------------------------------------ acknowledging and committing
    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self.is_batch(tp):  # Faust counts the skipped offsets as done, unfinished ones among them
            await super()._add_gap(tp, offset_from, offset_to)

    def ack(self, message: Any) -> bool:
        # Faust also acknowledges what it skips (wrong generation, flow suspended): never believed for runs.
        if not self.is_batch(message.tp):
            return super().ack(message)
        self._unacked_messages.discard(message)
        return False

    def complete(self, run: Run) -> None:
        """Everything that the run caused is acknowledged: its offsets may be committed."""
        run.lane.complete(run.span)

    def owns(self, run: Run) -> bool:
        return self._lanes.get(run.tp) is run.lane and run.lane.generation == self.app.consumer_generation_id

    async def confirm(self, run: Run) -> None:
        """Return once the partition is surely ours (fresh heartbeat, same generation).

        Raises LostOwnership when it surely is not. A process frozen right behind this check may still send: the
        contiguity of the changelog is the fence for that.
        """
        coordinator = self._thread._ensure_consumer()._coordinator
        while True:
            if not self.owns(run) or coordinator.generation != run.lane.generation:
                raise LostOwnership(f"{run.tp.topic}/{run.tp.partition} now belongs to another generation")
            if boottime() - self.last_heartbeat < self._longest_silence_s:
                return
            await asyncio.sleep(0.05)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from (tp for tp in super()._filter_tps_with_pending_acks(topics) if not self.is_batch(tp))
        yield from (tp for tp in list(self._lanes) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        if not self.is_batch(tp):
            return super()._new_offset(tp)
        lane = self._lanes.get(tp)
        return None if lane is None else lane.committable

    # ------------------------------------------------------------------ rebalancing
    async def wait_empty(self) -> None:
        """Let what is under way finish (bounded), then commit. Called on a revoke and on stop."""
        await self.app.settle()
        if self.app.should_stop:
            await self.app.abandon()  # the stores close right after this
        await super().wait_empty()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._buffered_partitions.difference_update(
            revoked
        )  # else a late pressure drop reopens a paused partition
        await super().on_partitions_revoked(
            revoked
        )  # suspends the flow, clears queues, wait_empty(), commits
        for tp in revoked:
            self._lanes.pop(tp, None)
        await self.app.abandon()
        telemetry.REBALANCES.inc()

    def on_buffer_full(self, tp: TP) -> None:
        for each in self._siblings(tp):
            super().on_buffer_full(each)

    def on_buffer_drop(self, tp: TP) -> None:
        for each in self._siblings(tp):
            if each in self._paused_partitions:
                self._buffered_partitions.discard(each)
            else:
                super().on_buffer_drop(each)

    def _siblings(self, tp: TP) -> list[TP]:
        """The partitions whose runs come in the same messages."""
        return [each for each in self._lanes if each.topic == tp.topic] if self.is_batch(tp) else [tp]

    async def seek(self, partition: TP, offset: int) -> None:
        self._lanes.pop(TP(partition.topic, partition.partition), None)
        await super().seek(partition, offset)

    async def perform_seek(self) -> None:
        """Seek to what is committed (to the earliest offset where nothing is) and open a lane per batch partition."""
        await super().perform_seek()
        # aiokafka leaves the position alone where nothing is committed: what was fetched and dropped would be skipped.
        generation = self.app.consumer_generation_id
        mine = [tp for tp in self.assignment() if self.is_batch(tp)]
        start = await self._earliest(tp for tp in mine if not self._committed_offset[tp])
        self._lanes = {tp: Lane(generation, self._committed_offset[tp] or start[tp]) for tp in mine}
        telemetry.PARTITIONS.set(len(mine))

    async def _earliest(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Seek these partitions to their earliest offsets and return them."""
        wanted = [TopicPartition(*tp) for tp in tps]
        if not wanted:
            return {}
        found = await self._thread.earliest_offsets(*cast(list[TP], wanted))
        await self._thread.seek_wait(found)
        return {TP(*tp): offset for tp, offset in found.items()}


class BatchTransport(driver.Transport):
    Consumer = BatchConsumer
