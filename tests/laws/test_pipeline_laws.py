"""Laws of the pipeline: whatever order acknowledgements come in and wherever it is abandoned, nothing is committed, written
or published before its time, and a replay ends in the same state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

import streamer.transport.pipeline as transport_pipeline
from streamer.core.batch_size import BatchSize
from streamer.core.lane import Lane
from streamer.errors import LostOwnership
from streamer.transport.consumer import Run
from streamer.transport.pipeline import Pipeline
from streamer.transport.sending import Delivery

MAX_RECORDS = 6
PARTITIONS = 2
EXECUTOR = ThreadPoolExecutor(1)


class World:
    """Broker, table and consumer of one worker; acknowledgements take a random number of turns of the event loop."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.table: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.overlay: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.logged: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.published: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.lanes: dict[int, Lane] = {}
        self.waiting: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.flow_active = True

    async def turns(self) -> None:
        for _ in range(self.random.randint(0, 4)):
            await asyncio.sleep(0)

    # consumer
    def owns(self, run: Run) -> bool:
        return self.lanes.get(run.tp.partition) is run.lane

    async def confirm(self, run: Run) -> None:
        await self.turns()
        if not self.owns(run):
            raise LostOwnership("another generation")

    def complete(self, run: Run) -> None:
        p = run.tp.partition
        offsets = range(run.span.first, run.span.last + 1)
        assert set(offsets) <= set(self.logged[p]), "committed before the changelog had it"
        assert set(offsets) <= set(self.published[p]), "committed before the outputs were acknowledged"
        assert set(offsets) <= set(self.table[p]), "committed before the table had it"
        run.lane.complete(run.span)

    # producer and changelog
    async def send_all(self, partition: int, outputs: Any) -> None:
        await self.turns()
        for pairs in outputs.values():
            offsets = [int(value) for _, value in pairs]
            assert set(offsets) <= set(self.logged[partition]), (
                "an output left before its state was in the changelog"
            )
            self.published[partition] += offsets

    async def append(self, partition: int, heads: Any, groups: Any) -> int:
        await self.turns()
        self.logged[partition] += [int(value) for group in [heads, *groups] for _, value in group]
        await self.turns()
        return len(self.logged[partition]) - 1

    # store
    def stage(self, partition: int, changes: Any) -> None:
        self.overlay[partition] += [int(value) for value in changes.values()]

    def unstage(self, partition: int, changes: Any) -> None:
        gone = {int(key) for key in changes}
        self.overlay[partition] = [o for o in self.overlay[partition] if o not in gone]

    def write(self, partition: int, changes: dict[bytes, bytes], offset: int) -> None:
        self.table[partition] += [int(value) for value in changes.values()]

    # processor: absorbs an offset once, as the state record does
    def prepare(self, run: Run) -> list[int] | Awaitable[list[int]]:
        offsets = [r.offset for r in run.records]
        return self.later(offsets) if self.random.random() < 0.5 else offsets

    async def later(self, offsets: list[int]) -> list[int]:
        await self.turns()
        return offsets

    def compute(self, work: dict[int, list[list[int]]], lagging: bool) -> dict[int, Delivery]:
        deliveries = {}
        put_off = bool(work) and self.random.random() < 0.3
        for partition, runs in work.items():
            known = set(self.table[partition]) | set(self.overlay[partition])
            offsets = [offset for run in runs for offset in run]
            fresh = [offset for offset in offsets if offset not in known]
            deliveries[partition] = Delivery(
                heads=[(b"%d" % o, b"%d" % o) for o in fresh[: len(fresh) // 2]],
                groups=[[(b"%d" % o, b"%d" % o)] for o in fresh[len(fresh) // 2 :]],
                put_off=put_off,
            )
            self.waiting[partition] += offsets
        if not put_off:
            for partition, waiting in self.waiting.items():
                if waiting:
                    delivery = deliveries.setdefault(partition, Delivery())
                    delivery.outputs = {"out": [(b"u", b"%d" % o) for o in waiting]}
            self.forget()
        return deliveries

    def due_at_s(self) -> float | None:
        return 0.0 if any(self.waiting.values()) else None

    def forget(self) -> None:
        self.waiting = {p: [] for p in range(PARTITIONS)}


async def live(world: World, sizes: list[int], crash_after: list[int]) -> None:
    """Generations of deliveries; each ends by being abandoned, the last by running dry."""
    failures: list[BaseException] = []
    anything: Any = world
    pipeline: Pipeline[list[int]] = Pipeline(
        anything,
        producer=anything,
        executor=EXECUTOR,
        die=failures.append,
        dead_letter_topic="dead",
        depth=2,
        size=BatchSize(MAX_RECORDS),
        store=anything,
        changelog=anything,
    )
    loop = asyncio.ensure_future(pipeline.run_forever())
    committed = dict.fromkeys(range(PARTITIONS), 0)
    total = sum(sizes)
    for generation, limit in enumerate([*crash_after, 10**6]):
        world.lanes = {p: Lane(generation, committed[p]) for p in range(PARTITIONS)}
        await deliver(world, pipeline, sizes, committed, limit)
        if limit == 10**6:
            async with asyncio.timeout(60):  # hit only by a pipeline that stands still
                # What an earlier generation committed whole has no run in this one.
                while any((world.lanes[p].committable or committed[p]) < total for p in range(PARTITIONS)):
                    await asyncio.sleep(0)
        lanes, world.lanes = world.lanes, {}
        await pipeline.abandon()
        world.overlay = {p: [] for p in range(PARTITIONS)}
        for p, lane in lanes.items():
            committed[p] = lane.committable or committed[p]
    loop.cancel()
    assert not failures, failures
    for p in range(PARTITIONS):
        assert committed[p] == total
        assert world.table[p] == list(range(total)), "every event once, in order"


async def deliver(
    world: World, pipeline: Any, sizes: list[int], committed: dict[int, int], limit: int
) -> None:
    """Fetches of one or both partitions."""
    position = dict.fromkeys(range(PARTITIONS), 0)
    left = {p: list(sizes) for p in range(PARTITIONS)}
    sent = 0
    while any(left.values()):
        runs = []
        for p in world.random.sample(range(PARTITIONS), world.random.randint(1, PARTITIONS)):
            if not left[p]:
                continue
            first, last = max(position[p], committed[p]), position[p] + left[p][0] - 1
            position[p] += left[p].pop(0)
            if first > last:
                continue
            if sent >= limit:
                break
            sent += 1
            records: Any = [record(o) for o in range(first, last + 1)]
            lane = world.lanes[p]
            runs.append(Run(TP("events", p), records, lane, lane.deliver(first, last)))
        await pipeline.handle(runs, world)
        held = 2 * MAX_RECORDS + PARTITIONS * max(sizes)
        assert pipeline._waiting_records() < held, "whoever reads is held up"
        await world.turns()
        if sent >= limit:
            return


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    crash_after=st.lists(st.integers(0, 12), max_size=4),
)
def test_every_event_once_and_nothing_before_its_time(
    seed: int, sizes: list[int], crash_after: list[int]
) -> None:
    asyncio.run(asyncio.wait_for(live(World(seed), sizes, crash_after), 60))


class Taken(World):
    """Notes which runs are computed together."""

    def __init__(self) -> None:
        super().__init__(0)
        self.batches: list[dict[int, list[list[int]]]] = []

    def prepare(self, run: Run) -> list[int]:
        return [r.offset for r in run.records]

    def compute(self, work: dict[int, list[list[int]]], lagging: bool) -> dict[int, Delivery]:
        self.batches.append(work)
        return super().compute(work, lagging)


async def backlog(world: Taken, rounds: int, size: int, batch: int, value: bytes = b"") -> int:
    """`rounds` fetches of a run of both partitions come before the first batch is computed; how many of them were held up."""
    anything: Any = world
    pipeline: Pipeline[list[int]] = Pipeline(
        anything,
        producer=anything,
        executor=EXECUTOR,
        die=lambda exc: None,
        dead_letter_topic="dead",
        size=BatchSize(batch),
        store=anything,
        changelog=anything,
    )
    world.lanes = {p: Lane(0, 0) for p in range(PARTITIONS)}
    deliveries = []
    for first in range(0, rounds * size, size):
        runs = []
        for p in range(PARTITIONS):
            records: Any = [record(o, value) for o in range(first, first + size)]
            runs.append(
                Run(TP("events", p), records, world.lanes[p], world.lanes[p].deliver(first, first + size - 1))
            )
        deliveries.append(asyncio.ensure_future(pipeline.handle(runs, anything)))
        await asyncio.sleep(0)
    held_up = sum(not delivery.done() for delivery in deliveries)
    loop = asyncio.ensure_future(pipeline.run_forever())
    while any(world.lanes[p].committable != rounds * size for p in range(PARTITIONS)):
        await asyncio.sleep(0)
    loop.cancel()
    return held_up


def record(offset: int, value: bytes = b"") -> Any:
    return SimpleNamespace(offset=offset, key=b"", value=value)


def test_a_backlog_is_taken_partition_by_partition() -> None:
    world = Taken()
    asyncio.run(asyncio.wait_for(backlog(world, rounds=4, size=2, batch=8), 60))
    taken = [{p: len(runs) for p, runs in batch.items()} for batch in world.batches if batch]
    assert taken[:2] == [{0: 4}, {1: 4}], "all that waits of one partition, then of the next"


def test_what_waits_is_bounded_by_its_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_pipeline, "WAITING_BYTES", 2 * PARTITIONS * 100)
    held_up = asyncio.run(asyncio.wait_for(backlog(Taken(), 5, size=1, batch=100, value=b"x" * 100), 60))
    assert held_up == 3, "two fetches fill it; the others come when it was computed"
