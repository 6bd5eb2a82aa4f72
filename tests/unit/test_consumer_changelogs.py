"""Changelog fetches on their way from the consumer's thread to recovery: what is stale, or lost on the way, must not count."""

from __future__ import annotations

import asyncio
import collections
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streamer.transport.consumer import BatchConsumer, BatchConsumerThread

LOG = TopicPartition("log", 0)


class Batch:
    def __init__(self, base_offset: int, next_offset: int) -> None:
        self.base_offset, self.next_offset = base_offset, next_offset


class Setting:
    """A consumer that has fetched `fetched`, and a recovery that notes what it is given."""

    def __init__(self, fetched: dict[Any, Any]) -> None:
        self.replayed: list[tuple[TP, list[int]]] = []
        self.asked = 0
        consumer: Any = BatchConsumer.__new__(BatchConsumer)
        consumer._buffered_partitions = set()
        recovery = SimpleNamespace(replay=self.replay, nothing_fetched=self.nothing)
        consumer.app = SimpleNamespace(batch_topics=frozenset({"events"}), recovery=recovery)
        consumer._thread = SimpleNamespace(epochs=collections.Counter({TP("log", 0): 2}))
        consumer.flow_active = True
        consumer._stopped = asyncio.Event()
        consumer._crashed = asyncio.Event()

        async def next_records(timeout: float) -> Any:
            return fetched, set()

        consumer._wait_next_records = next_records
        self.consumer = consumer

    def replay(self, tp: TP, run: list[Batch]) -> None:
        self.replayed.append((tp, [batch.base_offset for batch in run]))

    async def nothing(self) -> None:
        self.asked += 1

    def poll(self) -> list[Any]:
        async def collect() -> list[Any]:
            return [message async for message in self.consumer.getmany(1.0)]

        return asyncio.run(collect())


def test_recovery_gets_the_batches_and_no_agent_a_message() -> None:
    setting = Setting({LOG: (2, [Batch(0, 3000), Batch(3000, 6000), Batch(6000, 6001)])})
    assert setting.poll() == []
    assert setting.replayed == [(TP("log", 0), [0]), (TP("log", 0), [3000, 6000])]
    assert setting.asked == 0


def test_a_fetch_from_before_a_seek_is_dropped() -> None:
    setting = Setting({LOG: (1, [Batch(0, 1)])})
    setting.poll()
    assert not setting.replayed


def test_a_seek_in_the_middle_drops_the_rest() -> None:
    setting = Setting({LOG: (2, [Batch(0, 4000), Batch(4000, 8000)])})
    replay = setting.replay

    def replay_then_seek(tp: TP, run: list[Batch]) -> None:
        replay(tp, run)
        setting.consumer._thread.epochs[tp] += 1

    setting.consumer.app.recovery.replay = replay_then_seek
    setting.poll()
    assert setting.replayed == [(TP("log", 0), [0])]


def test_nothing_is_replayed_once_the_flow_has_stopped() -> None:
    setting = Setting({LOG: (2, [Batch(0, 1)])})
    setting.consumer.flow_active = False
    setting.poll()
    assert not setting.replayed


def test_recovery_hears_of_an_empty_fetch() -> None:
    setting = Setting({})
    setting.poll()
    assert setting.asked == 1


def test_batches_that_a_failed_fetch_had_drained_are_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another partition's unreadable header fails the whole fetch, after the changelog's position has moved on."""
    sought: list[tuple[Any, int]] = []
    state = SimpleNamespace(position=40, has_valid_position=True)
    assignment = SimpleNamespace(state_value=lambda tp: state)
    aiokafka = SimpleNamespace(
        assignment=lambda: {LOG, TopicPartition("events", 0)},
        seek=lambda tp, offset: sought.append((tp, offset)),
        _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)),
    )

    async def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        state.position = 90
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "header key")

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", failing)
    monkeypatch.setattr("streamer.transport.consumer.tolerate", lambda: None)
    thread: Any = BatchConsumerThread.__new__(BatchConsumerThread)
    thread.epochs = collections.Counter()
    thread._consumer = aiokafka
    thread.consumer = SimpleNamespace(_is_changelog_tp=lambda tp: tp.topic == "log")
    assert asyncio.run(thread._fetch_records(aiokafka, set())) == {}
    assert sought == [(LOG, 40)]
