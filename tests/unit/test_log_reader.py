from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import ConsumerRecord

from streamer.errors import BrokerUnavailable, DataError
from streamer.transport import log_cursor, log_reader


def record(offset: int, partition: int = 0) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("t", partition, offset, 1000 + offset, 0, b"k", b"v", None, 1, 1, ())


class FakeConsumer:
    """A log of one topic: partition → offsets that still hold a record, and the end offset."""

    log: ClassVar[dict[int, list[int]]] = {}
    end: ClassVar[dict[int, int]] = {}
    answers = True

    def __init__(self, **_: Any) -> None:
        self._client = self
        self.at: dict[int, int] = {}
        self.paused: set[int] = set()

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def add_topic(self, topic: str) -> None: ...
    def assign(self, tps: list[TopicPartition]) -> None: ...

    async def fetch_all_metadata(self) -> FakeConsumer:
        return self

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(self.log) if topic == "t" else None

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: min(self.log[tp.partition], default=self.end[tp.partition]) for tp in tps}

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.end[tp.partition] for tp in tps}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp.partition] = offset

    def pause(self, tp: TopicPartition) -> None:
        self.paused.add(tp.partition)

    async def getmany(
        self, timeout_ms: int, max_records: int | None = None
    ) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        found = {}
        for p, offsets in self.log.items():
            rest = [o for o in offsets if o >= self.at[p]][:2]
            if rest and p not in self.paused:
                found[TopicPartition("t", p)] = [record(o, p) for o in rest]
                self.at[p] = rest[-1] + 1
        return found

    async def position(self, tp: TopicPartition) -> int:
        return self.at[tp.partition]

    def highwater(self, tp: TopicPartition) -> int:
        return self.end[tp.partition]

    def last_poll_timestamp(self, tp: TopicPartition) -> int:
        return int(time.time() * 1000) if self.answers else 0


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> type[FakeConsumer]:
    monkeypatch.setattr(log_cursor, "AIOKafkaConsumer", FakeConsumer)
    monkeypatch.setattr(log_cursor, "HOLE_S", 0.05)
    monkeypatch.setattr(FakeConsumer, "log", {0: [0, 1, 2, 5], 1: [3]})
    monkeypatch.setattr(FakeConsumer, "end", {0: 6, 1: 4})
    monkeypatch.setattr(FakeConsumer, "answers", True)
    return FakeConsumer


def offsets(**kwargs: Any) -> list[tuple[int, int]]:
    return sorted((r.partition, r.offset) for r in log_reader.read_log("b:1", "t", **kwargs))


def test_everything_up_to_the_end_is_read_holes_skipped(log: type[FakeConsumer]) -> None:
    assert offsets() == [(0, 0), (0, 1), (0, 2), (0, 5), (1, 3)]


def test_start_and_until_bound_each_partition_and_an_unnamed_partition_is_left_out(
    log: type[FakeConsumer],
) -> None:
    assert offsets(start={0: 1}, until={0: 2}) == [(0, 1)]


def test_a_compacted_tail_ends_the_reading(log: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "end", {0: 9, 1: 4})
    assert len(offsets(patience_s=5.0)) == 5


def test_a_silent_broker_is_no_end(log: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "end", {0: 9, 1: 4})
    monkeypatch.setattr(log, "answers", False)
    with pytest.raises(BrokerUnavailable, match="sent nothing"):
        offsets(patience_s=0.2)


def test_a_missing_topic_is_named(log: type[FakeConsumer]) -> None:
    with pytest.raises(DataError, match="'absent' does not exist"):
        list(log_reader.read_log("b:1", "absent"))


async def test_a_follower_waits_for_the_broker_reads_to_the_end_and_stays(
    log: type[FakeConsumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([KafkaConnectionError("away")])
    got: list[int] = []

    async def start(self: FakeConsumer) -> None:
        for refusal in refusals:
            raise refusal

    async def take(records: list[log_reader.LogRecord]) -> None:
        got.extend(r.offset for r in records)

    monkeypatch.setattr(log, "start", start)
    monkeypatch.setattr(log_reader, "RETRY_S", 0.01)
    follower = log_reader.LogFollower("b:1", "t", take)
    await follower.start()
    await asyncio.wait_for(follower.caught_up(), 5)
    assert sorted(got) == [0, 1, 2, 3, 5]
    monkeypatch.setitem(log.log, 1, [3, 4])
    while 4 not in got:
        await asyncio.sleep(0.01)
    await follower.stop()
    await follower.join()


async def test_what_the_callback_raises_ends_the_follower(log: type[FakeConsumer]) -> None:
    async def fail(records: list[log_reader.LogRecord]) -> None:
        raise ValueError("bad release")

    told: list[BaseException] = []
    follower = log_reader.LogFollower("b:1", "t", fail, on_failure=told.append)
    await follower.start()
    with pytest.raises(ValueError, match="bad release"):
        await follower.caught_up()
    with pytest.raises(ValueError, match="bad release"):
        await follower.join()
    await follower.stop()
    assert [str(failure) for failure in told] == ["bad release"]


async def test_a_stop_is_no_failure(log: type[FakeConsumer]) -> None:
    async def take(records: list[log_reader.LogRecord]) -> None: ...

    told: list[BaseException] = []
    follower = log_reader.LogFollower("b:1", "t", take, on_failure=told.append)
    await follower.start()
    await asyncio.wait_for(follower.caught_up(), 5)
    await follower.stop()
    assert not told


@pytest.mark.parametrize(
    ("start", "read", "said"),
    [
        ({0: 2}, [(0, 2), (0, 5), (1, 3)], ""),
        ({0: 6, 1: 4}, [], ""),
        ({0: 3, 1: 1}, [(0, 5), (1, 3)], "t/1 begins at 3: the 2 records before it, from 1 on, are gone"),
        ({0: 5, 1: 5}, [(0, 5), (1, 3)], "t/1 ends at 4, before 5: it is another log by now"),
        ({9: 7}, [(0, 0), (0, 1), (0, 2), (0, 5), (1, 3)], ""),
    ],
)
async def test_a_follower_begins_where_it_is_told_if_the_log_has_that(
    log: type[FakeConsumer],
    caplog: pytest.LogCaptureFixture,
    start: dict[int, int],
    read: list[tuple[int, int]],
    said: str,
) -> None:
    got: list[tuple[int, int]] = []

    async def take(records: list[log_reader.LogRecord]) -> None:
        got.extend((r.partition, r.offset) for r in records)

    follower = log_reader.LogFollower("b:1", "t", take)
    await follower.start(start)
    await asyncio.wait_for(follower.caught_up(), 5)
    await follower.stop()
    assert sorted(got) == read
    assert said in caplog.text
    assert bool(said) == bool([r for r in caplog.records if r.levelname == "WARNING"])
