"""What a computed batch caused, on its way out: changelog → RocksDB → outputs → complete, partition by partition.

Per partition the stages keep their order: a run is sent only after the run before it is acknowledged. An output never leaves
before the state that it shows is in the changelog. What is not yet in RocksDB answers reads out of an overlay.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from streamer import telemetry
from streamer.errors import LostOwnership
from streamer.transport.batch_producer import BatchProducer, Outgoing, Pair
from streamer.transport.burial import buriable
from streamer.transport.changelog import Changelog, Group, State
from streamer.transport.consumer import BatchConsumer, Run
from streamer.transport.state_store import BatchStore


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


@dataclass(eq=False, slots=True)
class Stage:
    """One partition's part of a computed batch, on its way."""

    logged: asyncio.Future[bool]
    published: asyncio.Future[bool]
    changes: dict[bytes, bytes]
    task: asyncio.Task[None] | None = None


class Sending:
    """depth: parts of one partition that may be on their way at a time. on_left: called whenever one has left."""

    def __init__(
        self,
        *,
        producer: BatchProducer,
        die: Callable[[BaseException], None],
        on_left: Callable[[], None],
        dead_letter_topic: str,
        depth: int,
        store: BatchStore | None,
        changelog: Changelog | None,
    ) -> None:
        self._producer, self._die, self._on_left = producer, die, on_left
        self._dead_letter_topic, self._depth = dead_letter_topic, depth
        self._store, self._changelog = store, changelog
        self._stages: dict[TP, list[Stage]] = collections.defaultdict(list)
        self._unfinished: dict[TP, list[Run]] = collections.defaultdict(list)
        """Runs of which everything but some outputs has left."""

    def full(self, tp: TP) -> bool:
        """Whether no more of a partition may be computed for now."""
        return len(self._stages[tp]) >= self._depth

    def send(self, consumer: BatchConsumer, last: Run, runs: Sequence[Run], delivery: Delivery) -> None:
        """Start a partition's part of a batch on its way.

        last: the latest run of the partition, also where this part of the batch has none (`runs` is empty).
        """
        loop, stages = asyncio.get_running_loop(), self._stages[last.tp]
        stage = Stage(loop.create_future(), loop.create_future(), delivery.changes())
        if self._store is not None:
            self._store.stage(last.tp.partition, stage.changes)
        previous = stages[-1] if stages else None
        stages.append(stage)
        stage.task = asyncio.ensure_future(self._finish(consumer, last, runs, delivery, stage, previous))

    async def _finish(
        self,
        consumer: BatchConsumer,
        last: Run,
        runs: Sequence[Run],
        delivery: Delivery,
        stage: Stage,
        previous: Stage | None,
    ) -> None:
        tp = last.tp
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
            self._complete(consumer, tp, runs, delivery.put_off)
            stage.published.set_result(True)
            if delivery.on_published is not None:
                delivery.on_published()
        except (LostOwnership, asyncio.CancelledError):
            telemetry.LOST_RUNS.inc()
        except Exception as exc:
            self._die(exc)
        finally:
            self._leave(tp, stage)

    def _complete(self, consumer: BatchConsumer, tp: TP, runs: Sequence[Run], put_off: bool) -> None:
        unfinished = self._unfinished[tp]
        unfinished += runs
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
        await self._producer.send_all(
            tp.partition, {topic: pairs for topic, pairs in delivery.outputs.items() if pairs}
        )
        if delivery.dead_letters:
            await self._bury(tp.partition, delivery.dead_letters)
        for topic, records in delivery.outputs.items():
            telemetry.OUTPUT_RECORDS.labels(topic).inc(len(records))

    async def _bury(self, partition: int, letters: Sequence[Outgoing]) -> None:
        partitions = await self._producer.partitions_for(self._dead_letter_topic)
        await self._producer.send(
            self._dead_letter_topic, partition % partitions, (), [[buriable(letter)] for letter in letters]
        )

    def _leave(self, tp: TP, stage: Stage) -> None:
        for future in (stage.logged, stage.published):
            if not future.done():
                future.set_result(False)
        if self._store is not None:
            self._store.unstage(tp.partition, stage.changes)
        if stage in self._stages[tp]:
            self._stages[tp].remove(stage)
        self._on_left()

    # ------------------------------------------------------------------ revoke and stop
    def _tasks(self) -> list[asyncio.Task[None]]:
        return [s.task for stages in self._stages.values() for s in stages if s.task is not None]

    async def settle(self, timeout_s: float) -> None:
        """Wait for what is on its way (bounded: a dead broker must not hold up a rebalance)."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=timeout_s)

    async def abandon(self) -> bool:
        """Cancel what is still on its way; nothing of the old generation may touch log, overlay or disk afterwards.

        Returns whether anything was: the producer must then be thrown away too.
        """
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._stages.clear()
        self._unfinished.clear()
        return bool(tasks)
