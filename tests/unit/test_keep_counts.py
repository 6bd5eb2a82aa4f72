"""What is written to `signal-counts` and what a start makes of it, without Kafka."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from agents import keep_counts
from agents.follow_signals import FollowSignals
from agents.keep_counts import KeepCounts
from streamer.core.signals import snapshot
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import WARM_ROWS, SharedSignals
from streamer.core.signals.snapshot import Head
from streamer.errors import LostOwnership
from streamer.transport.batch_producer import Pair, Sent
from streamer.transport.log_cursor import LogRecord


class Log:
    """The topic; `refuses` after so many records."""

    def __init__(self) -> None:
        self.sent: list[Pair] = []
        self.refuses: int | None = None
        self.hangs = self.sends_hang = self.sending = False
        self.followed = 0

    @property
    def newest(self) -> dict[bytes, bytes]:
        kept = {key: value for key, value in self.sent if key is not None}
        return {key: value for key, value in kept.items() if value is not None}

    @property
    def snapshot(self) -> Head | None:
        """The newest whole one."""
        heads, _ = snapshot.whole(self.newest)
        return heads[0] if heads else None

    def producer(self, **_: Any) -> Log:
        return self

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def drop(self) -> None:
        self.sending = False

    async def extent(self, *_: Any) -> dict[int, tuple[int, int]]:
        return {0: (0, len(self.sent))}

    async def send(self, topic: str, partition: int, pairs: Iterable[Pair]) -> list[Sent]:
        base, pairs = len(self.sent), list(pairs)
        for pair in pairs:
            if self.refuses is not None and len(self.sent) >= self.refuses:
                raise LostOwnership("the broker is away")
            if self.sends_hang:
                self.sending = True
                await asyncio.Event().wait()
            self.sent.append(pair)
        return [Sent(base, len(pairs))] if pairs else []

    def follower(
        self, brokers: str, topic: str, take: Callable[[list[LogRecord]], Awaitable[None]], _: Any
    ) -> Follower:
        return Follower(self, take)


class Follower:
    def __init__(self, log: Log, take: Callable[[list[LogRecord]], Awaitable[None]]) -> None:
        self._log, self._take = log, take

    async def start(self) -> None:
        self._log.followed += 1

    async def stop(self) -> None:
        self._log.followed -= 1

    async def caught_up(self) -> None:
        if self._log.hangs:
            await asyncio.Event().wait()
        await self._take([LogRecord(0, at, 0, *pair) for at, pair in enumerate(self._log.sent)])


class OneWorker:
    def __init__(self, *, learns: bool = True) -> None:
        executor, loader = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.shared, self.learns = SharedSignals(), learns
        self.follow = FollowSignals(self.shared, executor, lambda: self.learns)
        self.counts = KeepCounts(
            self.shared,
            self.follow,
            executor,
            loader,
            lambda: self.learns,
            brokers="b:1",
            topic="signal-counts",
            security={},
            every_s=0.01,
        )

    async def count(self, begin: int, end: int, items: int = 50) -> None:
        await self.follow.on_events([record(at, items) for at in range(begin, end)])

    @property
    def events(self) -> int:
        return 0 if self.shared.signals is None else self.shared.signals.counts.events


def record(at: int, items: int = 50, rows: int = 100) -> LogRecord:
    """The record at an offset of `signal-events`/1."""
    rng = np.random.default_rng(at)
    past = rng.integers(1, items, (rows, PAST)).astype(np.uint64)
    offset = at * rows + np.arange(rows)
    item = rng.integers(1, items, rows).astype(np.uint64)
    one = np.ones(rows, np.float32)
    value = SignalRows(offset, offset * 1_000, item, one, np.full(rows, 3), past).encode()
    return LogRecord(1, at, 0, None, value)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(keep_counts, "BatchProducer", log.producer)
    monkeypatch.setattr(keep_counts, "LogFollower", log.follower)
    monkeypatch.setattr(keep_counts, "log_extent", log.extent)
    return log


async def test_a_second_worker_goes_on_where_the_first_one_s_snapshot_ends(log: Log) -> None:
    first, second = OneWorker(), OneWorker()
    assert await first.counts.begin() == {}
    await first.count(0, 15)
    await first.counts.write()
    await first.count(15, 18)
    assert await second.counts.begin() == {1: 15}
    assert second.events == 1_500
    await second.count(14, 18)  # a record comes again
    assert second.shared.repeated == 100
    assert second.shared.applied == first.shared.applied == {1: 1_799}
    mine, theirs = first.shared.signals, second.shared.signals
    assert mine is not None
    assert theirs is not None
    np.testing.assert_array_equal(mine.counts.count, theirs.counts.count)


async def test_nothing_is_written_before_the_clocks_are_set(log: Log) -> None:
    worker = OneWorker()
    await worker.count(0, WARM_ROWS // 100 - 1)
    await worker.counts.write()
    assert not log.sent


async def test_slots_alternate_and_parts_beyond_the_new_number_are_withdrawn(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = OneWorker()
    await worker.count(0, 15)
    monkeypatch.setattr(snapshot, "PART_BYTES", 2_000)
    await worker.counts.write()
    many = sum(key.startswith(b"0/") for key in log.newest) - 1
    monkeypatch.undo()
    monkeypatch.setattr(keep_counts, "BatchProducer", log.producer)
    monkeypatch.setattr(keep_counts, "LogFollower", log.follower)
    monkeypatch.setattr(keep_counts, "log_extent", log.extent)
    await worker.counts.write()
    assert {key.partition(b"/")[0] for key in log.newest} == {b"0", b"1"}
    successor = OneWorker()  # knows of it only what the topic says
    await successor.counts.begin()
    await successor.count(15, 16)
    await successor.counts.write()
    parts = {key for key in log.newest if key.startswith(b"0/") and key != b"0/head"}
    few = len(list(snapshot.parts("00" * 8, worker.shared.state().arrays)))  # type: ignore[union-attr]
    assert parts == {b"0/%d" % number for number in range(few)}
    assert few < many
    assert snapshot.whole(log.newest)[1] == []


async def test_a_write_that_is_cut_short_leaves_the_snapshot_before_it(log: Log) -> None:
    worker = OneWorker()
    await worker.count(0, 12)
    await worker.counts.write()
    first, whole = log.snapshot, len(log.sent)
    assert first is not None
    for after in range(whole, 2 * whole):
        log.refuses = after
        await worker.count(12 + after - whole, 13 + after - whole)
        with pytest.raises(LostOwnership):
            await worker.counts.write()
        assert log.snapshot == first
        del log.sent[whole:]
        log.refuses = None
    await worker.counts.write()
    second = log.snapshot
    assert second is not None
    assert second.id != first.id


async def test_a_snapshot_that_is_not_whole_is_said_and_all_is_counted(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    first = OneWorker()
    await first.count(0, 15)
    await first.counts.write()
    log.sent.append((b"0/3", b"junk"))
    second = OneWorker()
    assert await second.counts.begin() == {}
    assert "part 3 of" in caplog.text
    assert second.shared.signals is None


async def test_a_snapshot_of_another_release_is_said_and_all_is_counted(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = OneWorker()
    await first.count(0, 15)
    await write_what_does_not_fit(first, monkeypatch)
    second = OneWorker()
    assert await second.counts.begin() == {}
    assert "does not fit: newest of the counts has shape (3,)" in caplog.text
    assert second.follow.reached == {}


async def test_a_snapshot_that_does_not_fit_gives_way_to_the_one_before_and_then_its_slot_to_the_next(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = OneWorker()
    await first.count(0, 15)
    await first.counts.write()
    good = log.snapshot
    assert good is not None
    await first.count(15, 17)
    await write_what_does_not_fit(first, monkeypatch)
    second = OneWorker()
    assert await second.counts.begin() == {1: 15}
    assert "does not fit: newest of the counts has shape (3,)" in caplog.text
    await second.count(15, 18)
    log.refuses = len(log.sent) + 1
    with pytest.raises(LostOwnership):
        await second.counts.write()
    assert log.snapshot == good, "the one that cannot be gone on from is overwritten first"


async def test_learners_by_turns_spare_each_other_s_newest_snapshot(log: Log) -> None:
    one, other = OneWorker(), OneWorker()
    for at, worker in enumerate([one, other, one, other, other, one]):
        for each in (one, other):
            await each.count(15 * at, 15 * at + 15)
        before = log.snapshot
        log.refuses = len(log.sent) + 1
        with pytest.raises(LostOwnership):
            await worker.counts.write()
        assert log.snapshot == before
        log.refuses = None
        await worker.counts.write()
        assert log.snapshot != before


async def test_a_stop_waits_neither_for_the_snapshot_to_be_read_nor_for_it_to_be_sent(log: Log) -> None:
    log.hangs = True
    reading, writing = OneWorker(), OneWorker()
    begun = asyncio.ensure_future(reading.counts.begin())
    await asyncio.sleep(0.05)
    assert log.followed == 1
    await reading.counts.stop()
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert log.followed == 0
    await writing.count(0, 15)
    log.hangs, log.sends_hang = False, True
    writing.counts.start({1: 15})
    await until(lambda: log.sending)
    await writing.counts.stop()
    assert not log.sending, "the producer was given up"


async def test_the_learner_writes_when_enough_has_come_and_goes_on_after_a_failure(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker = OneWorker(learns=False)
    await worker.count(0, 15)
    worker.counts.start({1: 15})
    await asyncio.sleep(0.1)
    assert not log.sent, "another worker writes"
    log.refuses = 2
    worker.learns = True
    await until(lambda: "no snapshot was written" in caplog.text)
    log.refuses = None
    await until(lambda: log.snapshot is not None)
    await asyncio.sleep(0.1)
    count = len(log.sent)
    await asyncio.sleep(0.1)
    assert len(log.sent) == count, "nothing has come since"
    await worker.count(15, 16)
    await until(lambda: len(log.sent) > count)
    await worker.counts.stop()


async def test_a_log_that_was_made_anew_is_counted_from_where_it_is_read(log: Log) -> None:
    first, second = OneWorker(), OneWorker()
    await first.count(0, 15)
    await first.counts.write()
    await second.counts.begin()
    second.counts.start({1: 0})  # it ended before 15, so that it is read from its beginning
    await second.counts.write()
    await second.counts.stop()
    head = log.snapshot
    assert head is not None
    assert head.reached == {1: 0}


async def write_what_does_not_fit(worker: OneWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    state = worker.shared.state()
    assert state is not None
    state.arrays["counts/newest"] = np.full(3, -1)
    monkeypatch.setattr(worker.shared, "state", lambda: state)
    await worker.counts.write()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
