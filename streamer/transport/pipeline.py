"""From delivered runs to computed batches: which of the waiting runs are computed together, and when.

Runs that wait at the same time are computed together, whatever partition they come from; while a batch awaits its
acknowledgements (`sending`) the next is computed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from faust.types import TP

from streamer.core.batch_size import BatchSize
from streamer.core.pace import Pace
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.changelog import Changelog
from streamer.transport.consumer import BatchConsumer, Run
from streamer.transport.sending import Delivery, Sending
from streamer.transport.state_store import BatchStore

P = TypeVar("P")

WAITING_BYTES = 64 << 20
"""What may wait, as it was fetched, before no more is taken: refused records are kept whole until they are dead letters."""


class Processor(Protocol[P]):
    """What an agent does with runs."""

    def prepare(self, run: Run) -> P | Awaitable[P]:
        """Decode a run; awaitable where it needs more than that: runs of other partitions go on meanwhile."""
        ...

    def compute(self, work: dict[int, list[P]], lagging: bool) -> dict[int, Delivery]:
        """partition → its prepared runs in order; called in the executor, one call at a time.

        While `lagging`, outputs may be put off; a call without work, at `due_at_s`, makes up for them.
        """
        ...

    def due_at_s(self) -> float | None:
        """When outputs that were put off will be due (monotonic seconds); None while there are none."""
        ...

    def forget(self) -> None:
        """Drop what was put off: its runs will be replayed."""
        ...


@dataclass(eq=False, slots=True)
class Waiting(Generic[P]):
    run: Run
    """Without its records, which would fill the memory."""
    records: int
    size: int
    """Bytes of their keys and values."""
    prepared: P | asyncio.Future[P]

    @property
    def ready(self) -> bool:
        return not isinstance(self.prepared, asyncio.Future) or self.prepared.done()

    def result(self) -> P:
        """Of a ready one; raises what went wrong."""
        return self.prepared.result() if isinstance(self.prepared, asyncio.Future) else self.prepared


class Pipeline(Generic[P]):
    """size: how many events are computed together. pace: how far apart batches start."""

    def __init__(
        self,
        processor: Processor[P],
        *,
        producer: BatchProducer,
        executor: Executor,
        die: Callable[[BaseException], None],
        dead_letter_topic: str,
        depth: int = 2,
        size: BatchSize | None = None,
        pace: Pace | None = None,
        store: BatchStore | None = None,
        changelog: Changelog | None = None,
    ) -> None:
        self._processor, self._executor, self._die = processor, executor, die
        self._size, self._pace = (
            BatchSize(2000) if size is None else size,
            Pace(0.0) if pace is None else pace,
        )
        self._sending = Sending(
            producer=producer,
            die=die,
            on_left=self._wake,
            dead_letter_topic=dead_letter_topic,
            depth=depth,
            store=store,
            changelog=changelog,
        )
        self._consumer: BatchConsumer | None = None
        self._waiting: collections.deque[Waiting[P]] = collections.deque()
        self._latest: dict[TP, Run] = {}
        self._changed = asyncio.Event()
        self._computing = asyncio.Lock()

    # ------------------------------------------------------------------ in
    async def handle(self, runs: Sequence[Run], consumer: BatchConsumer) -> None:
        """Take the runs of one fetch; blocks while enough is waiting, which in turn stops the fetching."""
        self._consumer = consumer
        await self._until(self._has_room)
        if not consumer.flow_active:
            return
        for run in runs:
            if consumer.owns(run):
                self._waiting.append(self._prepare(run))
        self._wake()

    def _prepare(self, run: Run) -> Waiting[P]:
        prepared, n = self._processor.prepare(run), len(run.records)
        size = sum(len(record.key or b"") + len(record.value or b"") for record in run.records)
        run = Run(run.tp, [], run.lane, run.span)
        if not isinstance(prepared, Awaitable):
            return Waiting(run, n, size, prepared)
        coming: asyncio.Future[P] = asyncio.ensure_future(prepared)
        coming.add_done_callback(lambda _: self._wake())
        return Waiting(run, n, size, coming)

    def _has_room(self) -> bool:
        few = self._waiting_records() < 2 * self._size.most_events
        return few and sum(w.size for w in self._waiting) < WAITING_BYTES

    def _waiting_records(self) -> int:
        return sum(w.records for w in self._waiting)

    def _wake(self) -> None:
        """Have whoever waits look again; waiters re-check their condition, so waking too often is harmless."""
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # ------------------------------------------------------------------ computing
    async def run_forever(self) -> None:
        """Compute batches as long as the worker lives; a failure ends the worker, nothing acknowledged."""
        try:
            while True:
                await self._until(lambda: bool(self._eligible()) or self._due())
                await self._gather()
                async with self._computing:
                    batch = self._take()
                    if batch or self._due():
                        self._pace.start(time.monotonic(), time.process_time())
                        await self._compute(batch)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._die(exc)

    async def _gather(self) -> None:
        """Let more runs come, as long as the pace says, or until a batch is full."""
        wait_s = self._pace.wait_s(time.monotonic())
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._until(lambda: self._waiting_records() >= self._size.limit)

    def _due(self) -> bool:
        """Whether outputs that were put off must leave now (if nothing else wakes us, a timer does)."""
        due_at_s = self._processor.due_at_s()
        if due_at_s is None or any(self._sending.full(tp) for tp in self._latest):
            return False
        return due_at_s <= time.monotonic()

    @property
    def _lagging(self) -> bool:
        """Half a batch is waiting behind the one that is taken: events come faster than their users can be refreshed."""
        return 2 * self._waiting_records() >= self._size.limit

    def _eligible(self) -> list[Waiting[P]]:
        """Waiting runs that may be computed now: prepared, in order, partition not too far ahead, within the size.

        All of the partition that waits longest first, and so on: the longer the runs, the fewer users have the events.
        """
        by_partition: dict[TP, list[Waiting[P]]] = {}
        for waiting in self._waiting:
            by_partition.setdefault(waiting.run.tp, []).append(waiting)
        chosen: list[Waiting[P]] = []
        records, limit = 0, self._size.limit
        for tp, those in by_partition.items():
            if self._sending.full(tp):
                continue
            for waiting in those:
                size = waiting.records
                if not waiting.ready or (chosen and records + size > limit):
                    break
                chosen.append(waiting)
                records += size
        return chosen

    def _take(self) -> dict[TP, list[Waiting[P]]]:
        batch: dict[TP, list[Waiting[P]]] = {}
        for waiting in self._eligible():
            self._waiting.remove(waiting)
            assert self._consumer is not None
            if self._consumer.owns(waiting.run):
                batch.setdefault(waiting.run.tp, []).append(waiting)
        return batch

    async def _compute(self, batch: dict[TP, list[Waiting[P]]]) -> None:
        topics = {tp.partition: tp for tp in [*self._latest, *batch]}
        work = {tp.partition: [w.result() for w in waiting] for tp, waiting in batch.items()}
        for tp, waiting in batch.items():
            self._latest[tp] = waiting[-1].run
        loop = asyncio.get_running_loop()
        compute = self._processor.compute
        deliveries = await loop.run_in_executor(self._executor, compute, work, self._lagging)
        assert self._consumer is not None
        self._size.computed(
            sum(w.records for waiting in batch.values() for w in waiting),
            sum(len(delivery.heads) + len(delivery.groups) for delivery in deliveries.values()),
        )
        for partition, delivery in deliveries.items():
            tp = topics[partition]
            runs = [w.run for w in batch.get(tp, [])]
            self._sending.send(self._consumer, self._latest[tp], runs, delivery)
        due_at_s = self._processor.due_at_s()
        if due_at_s is not None:
            loop.call_later(max(0.0, due_at_s - time.monotonic()), self._wake)
        self._wake()

    # ------------------------------------------------------------------ revoke and stop
    async def settle(self, timeout_s: float) -> None:
        """Drop what waits; wait for what is on its way (bounded: a dead broker must not hold up a rebalance)."""
        self._drop_waiting()
        async with self._computing:
            pass
        await self._sending.settle(timeout_s)

    def _drop_waiting(self) -> None:
        while self._waiting:
            prepared = self._waiting.popleft().prepared
            if isinstance(prepared, asyncio.Future):
                prepared.cancel()
        self._wake()

    async def abandon(self) -> bool:
        """Drop and cancel everything; nothing of the old generation may touch log, overlay or disk afterwards.

        Returns whether anything was on its way: the producer must then be thrown away too.
        """
        self._drop_waiting()
        async with self._computing:
            self._processor.forget()
            self._latest.clear()
        left = await self._sending.abandon()
        self._wake()
        return left
