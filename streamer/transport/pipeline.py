"""From a delivered run to a committable one: prepare → compute → changelog → RocksDB → outputs → complete.

Runs that wait at the same time are computed together, whatever partition they come from; while a batch awaits its
acknowledgements the next is computed, an overlay answering its reads. Per partition the stages keep their order: run
k+1 is sent only after run k is acknowledged. An output never leaves before the state that it shows is in the changelog.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from faust.types import TP

from streamer import telemetry
from streamer.errors import LostOwnership
from streamer.transport.batch_producer import BatchProducer, Outgoing, Pair
from streamer.transport.burial import buriable
from streamer.transport.changelog import Changelog, Group, State
from streamer.transport.consumer import BatchConsumer, Run
from streamer.transport.state_store import BatchStore

P = TypeVar("P")


@dataclass(slots=True)
class Delivery:
    """What the runs of one partition caused."""

    heads: list[State] = field(default_factory=list)
    """State records of touched users of whom nothing but the head changed."""
    groups: list[Group] = field(default_factory=list)
    """State records of the other touched users, a group each."""
    first: dict[str, list[Pair]] = field(default_factory=dict)
    """Records per topic that must be acknowledged before the state records are sent; a replayed run may send them again, cut
    otherwise. They go to the partition that the run came from."""
    outputs: dict[str, list[Pair]] = field(default_factory=dict)
    """Records per topic; they go to the partition that the run came from."""
    dead_letters: list[Outgoing] = field(default_factory=list)
    put_off: bool = False
    """Some outputs of its runs are to come with a later delivery of the partition: until then the runs are not done."""
    on_published: Callable[[], None] | None = None

    def changes(self) -> dict[bytes, bytes]:
        """All state records."""
        changes = dict(self.heads)
        for group in self.groups:
            changes.update(group)
        return changes


class Processor(Protocol[P]):
    """What an agent does with runs."""

    async def prepare(self, run: Run) -> P:
        """Decode a run (and fetch what else it needs); runs of other partitions go on meanwhile."""
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
    message: Any
    prepared: asyncio.Task[P]


@dataclass(eq=False, slots=True)
class Stage:
    """One partition's part of a computed batch, on its way."""

    logged: asyncio.Future[bool]
    published: asyncio.Future[bool]
    changes: dict[bytes, bytes]
    task: asyncio.Task[None] | None = None


class Pipeline(Generic[P]):
    def __init__(
        self,
        processor: Processor[P],
        *,
        producer: BatchProducer,
        executor: Executor,
        die: Callable[[BaseException], None],
        dead_letter_topic: str,
        depth: int = 2,
        max_batch_records: int = 2000,
        batch_wait_s: float = 0.0,
        store: BatchStore | None = None,
        changelog: Changelog | None = None,
    ) -> None:
        self._batch_wait_s = batch_wait_s
        self._processor, self._producer, self._executor, self._die = processor, producer, executor, die
        self._dead_letter_topic, self._depth, self._max_records = dead_letter_topic, depth, max_batch_records
        self._store, self._changelog = store, changelog
        self._consumer: BatchConsumer | None = None
        self._waiting: collections.deque[Waiting[P]] = collections.deque()
        self._stages: dict[TP, list[Stage]] = collections.defaultdict(list)
        self._latest: dict[TP, Run] = {}
        self._unfinished: dict[TP, list[Run]] = collections.defaultdict(list)
        """Runs of which everything but some outputs has left."""
        self._changed = asyncio.Event()
        self._computing = asyncio.Lock()

    # ------------------------------------------------------------------ in
    async def handle(self, message: Any, consumer: BatchConsumer) -> None:
        """Take one run from a stream; blocks while enough is waiting, which in turn stops the fetching."""
        self._consumer, run = consumer, message.value
        await self._until(lambda: self._waiting_records() < 2 * self._max_records)
        if not consumer.owns(run) or not consumer.flow_active:
            consumer._unacked_messages.discard(message.message)
            return
        prepared = asyncio.ensure_future(self._processor.prepare(run))
        self._waiting.append(Waiting(run, message.message, prepared))
        prepared.add_done_callback(lambda _: self._wake())
        self._wake()

    def _waiting_records(self) -> int:
        return sum(len(w.run.records) for w in self._waiting)

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
                if self._batch_wait_s:
                    await self._gather()
                async with self._computing:
                    batch = self._take()
                    if batch or self._due():
                        await self._compute(batch)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self._die(exc)

    async def _gather(self) -> None:
        """Let more runs come, until a batch is full."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._batch_wait_s):
                await self._until(lambda: self._waiting_records() >= self._max_records)

    def _due(self) -> bool:
        """Whether outputs that were put off must leave now (if nothing else wakes us, a timer does)."""
        due_at_s = self._processor.due_at_s()
        if due_at_s is None or any(len(self._stages[tp]) >= self._depth for tp in self._latest):
            return False
        return due_at_s <= time.monotonic()

    @property
    def _lagging(self) -> bool:
        """Half a batch is waiting behind the one that is taken: events come faster than their users can be refreshed."""
        return 2 * self._waiting_records() >= self._max_records

    def _eligible(self) -> list[Waiting[P]]:
        """Waiting runs that may be computed now: prepared, in order, partition not too far ahead, within the size."""
        chosen: list[Waiting[P]] = []
        blocked: set[TP] = set()
        records = 0
        for waiting in self._waiting:
            tp = waiting.run.tp
            if tp in blocked:
                continue
            size = len(waiting.run.records)
            full = len(self._stages[tp]) >= self._depth or (chosen and records + size > self._max_records)
            if full or not waiting.prepared.done():
                blocked.add(tp)
                continue
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
            else:
                self._consumer._unacked_messages.discard(waiting.message)
        return batch

    async def _compute(self, batch: dict[TP, list[Waiting[P]]]) -> None:
        topics = {tp.partition: tp for tp in [*self._latest, *batch]}
        work = {tp.partition: [w.prepared.result() for w in waiting] for tp, waiting in batch.items()}
        for tp, waiting in batch.items():
            self._latest[tp] = waiting[-1].run
        loop = asyncio.get_running_loop()
        compute = self._processor.compute
        deliveries = await loop.run_in_executor(self._executor, compute, work, self._lagging)
        for partition, delivery in deliveries.items():
            tp = topics[partition]
            waiting, stages = batch.get(tp, []), self._stages[tp]
            stage = Stage(loop.create_future(), loop.create_future(), delivery.changes())
            if self._store is not None:
                self._store.stage(partition, stage.changes)
            previous = stages[-1] if stages else None
            stages.append(stage)
            last = self._latest[tp]
            stage.task = asyncio.ensure_future(self._finish(last, waiting, delivery, stage, previous))
        due_at_s = self._processor.due_at_s()
        if due_at_s is not None:
            loop.call_later(max(0.0, due_at_s - time.monotonic()), self._wake)
        self._wake()

    # ------------------------------------------------------------------ out
    async def _finish(
        self,
        last: Run,
        waiting: list[Waiting[P]],
        delivery: Delivery,
        stage: Stage,
        previous: Stage | None,
    ) -> None:
        """`last`: the latest run of the partition, also where this part of the batch has none (`waiting` is empty)."""
        consumer, tp = self._consumer, last.tp
        assert consumer is not None
        try:
            if previous is not None and not await asyncio.shield(previous.logged):
                raise LostOwnership(f"{tp.topic}/{tp.partition}: the run before was given up")
            await consumer.confirm(last)
            for topic, records in delivery.first.items():
                await self._producer.send(topic, tp.partition, records)
            await self._log(consumer, last, delivery, stage.changes)
            stage.logged.set_result(True)
            if previous is not None and not await asyncio.shield(previous.published):
                raise LostOwnership(f"{tp.topic}/{tp.partition}: the run before was given up")
            await self._publish(tp, delivery)
            self._complete(consumer, tp, waiting, delivery.put_off)
            stage.published.set_result(True)
            if delivery.on_published is not None:
                delivery.on_published()
        except (LostOwnership, asyncio.CancelledError):
            telemetry.LOST_RUNS.inc()
        except Exception as exc:
            self._die(exc)
        finally:
            self._leave(tp, waiting, stage)

    def _complete(self, consumer: BatchConsumer, tp: TP, waiting: list[Waiting[P]], put_off: bool) -> None:
        # Without their records: what is only to be marked as done must not fill the memory.
        unfinished = self._unfinished[tp]
        unfinished += [Run(w.run.tp, [], w.run.lane, w.run.span) for w in waiting]
        if not put_off:
            for run in unfinished:
                consumer.complete(run)
            unfinished.clear()

    async def _log(
        self, consumer: BatchConsumer, last: Run, delivery: Delivery, changes: dict[bytes, bytes]
    ) -> None:
        if self._changelog is None or self._store is None or not changes:
            return
        offset = await self._changelog.append(last.tp.partition, delivery.heads, delivery.groups)
        if not consumer.owns(last):
            raise LostOwnership(
                f"{last.tp.topic}/{last.tp.partition} was revoked while its records were on their way"
            )
        self._store.write(last.tp.partition, changes, offset)

    async def _publish(self, tp: TP, delivery: Delivery) -> None:
        sends: list[Awaitable[Any]] = [
            self._producer.send(topic, tp.partition, records)
            for topic, records in delivery.outputs.items()
            if records
        ]
        if delivery.dead_letters:
            sends.append(self._bury(tp.partition, delivery.dead_letters))
        await asyncio.gather(*sends)
        for topic, records in delivery.outputs.items():
            telemetry.OUTPUT_RECORDS.labels(topic).inc(len(records))

    async def _bury(self, partition: int, letters: Sequence[Outgoing]) -> None:
        partitions = await self._producer.partitions_for(self._dead_letter_topic)
        await self._producer.send(
            self._dead_letter_topic, partition % partitions, (), [[buriable(letter)] for letter in letters]
        )

    def _leave(self, tp: TP, waiting: list[Waiting[P]], stage: Stage) -> None:
        for future in (stage.logged, stage.published):
            if not future.done():
                future.set_result(False)
        if self._store is not None:
            self._store.unstage(tp.partition, stage.changes)
        if self._consumer is not None:
            for w in waiting:
                self._consumer._unacked_messages.discard(w.message)
        if stage in self._stages[tp]:
            self._stages[tp].remove(stage)
        self._wake()

    # ------------------------------------------------------------------ revoke and stop
    def _tasks(self) -> list[asyncio.Task[None]]:
        return [s.task for stages in self._stages.values() for s in stages if s.task is not None]

    async def settle(self, timeout_s: float) -> None:
        """Wait for what is on its way (bounded: a dead broker must not hold up a rebalance)."""
        self._drop_waiting()
        async with self._computing:
            pass
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=timeout_s)

    def _drop_waiting(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            waiting.prepared.cancel()
            if self._consumer is not None:
                self._consumer._unacked_messages.discard(waiting.message)

    async def abandon(self) -> bool:
        """Cancel what is still on its way; nothing of the old generation may touch log, overlay or disk afterwards.

        Returns whether anything was: the producer must then be thrown away too.
        """
        self._drop_waiting()
        async with self._computing:
            self._processor.forget()
            self._latest.clear()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._stages.clear()
        self._unfinished.clear()
        self._wake()
        return bool(tasks)
