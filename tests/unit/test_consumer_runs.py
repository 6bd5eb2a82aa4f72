"""Runs on their way from a fetch to an agent: all of a topic in one message, and held back together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from faust.types import TP

from streamer.core.lane import Lane
from streamer.transport.consumer import HELD_BACK_S, BatchConsumer

GENERATION = 3


def record(topic: str, partition: int, offset: int) -> Any:
    return SimpleNamespace(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=1000,
        timestamp_type=0,
        key=b"k",
        value=b"v",
    )


def consumer_of(fetched: dict[Any, Any], lanes: dict[TP, Lane]) -> Any:
    consumer: Any = BatchConsumer.__new__(BatchConsumer)
    consumer.app = SimpleNamespace(
        batch_topics=frozenset({"events", "items"}),
        consumer_generation_id=GENERATION,
        run_records=3,
        in_recovery=False,
        monitor=SimpleNamespace(stream_inbound_time={}),
    )
    consumer.flow_active = True
    consumer._stopped, consumer._crashed = asyncio.Event(), asyncio.Event()
    consumer._lanes, consumer._read_offset = lanes, {}
    consumer._active_partitions = set(lanes)
    consumer._buffered_partitions, consumer._paused_partitions = set(), set()

    async def next_records(timeout: float) -> Any:
        return fetched, set()

    consumer._wait_next_records = next_records
    return consumer


def polled(consumer: Any) -> list[Any]:
    async def collect() -> list[Any]:
        return [message async for message in consumer.getmany(1.0)]

    return asyncio.run(collect())


def test_a_fetch_is_one_message_per_topic_with_the_runs_of_all_partitions() -> None:
    lanes = {TP("events", p): Lane(GENERATION, 0) for p in range(2)} | {TP("items", 0): Lane(GENERATION, 5)}
    fetched = {
        TopicPartition("events", 0): (0, [record("events", 0, o) for o in range(4)]),
        TopicPartition("items", 0): (0, [record("items", 0, 5)]),
        TopicPartition("events", 1): (0, [record("events", 1, o) for o in range(2)]),
    }
    consumer = consumer_of(fetched, lanes)
    messages = polled(consumer)
    assert [
        [(run.tp, [r.offset for r in run.records]) for run in message.value] for _, message in messages
    ] == [
        [(TP("events", 0), [0, 1, 2]), (TP("events", 0), [3]), (TP("events", 1), [0, 1])],
        [(TP("items", 0), [5])],
    ]
    # Faust takes it for a message of the last run's partition and generation.
    for tp, message in messages:
        last = message.value[-1]
        assert (tp, message.tp, message.offset) == (last.tp, last.tp, last.records[-1].offset)
        assert message.generation_id == GENERATION
    assert set(consumer.app.monitor.stream_inbound_time) == set(lanes)


def test_a_partition_of_another_generation_is_left_out() -> None:
    lanes = {TP("events", 0): Lane(GENERATION, 0), TP("events", 1): Lane(GENERATION - 1, 0)}
    fetched = {TopicPartition("events", p): (0, [record("events", p, 0)]) for p in range(2)}
    ((_, message),) = polled(consumer_of(fetched, lanes))
    assert [run.tp for run in message.value] == [TP("events", 0)]


def test_partitions_whose_runs_come_together_are_held_back_together() -> None:
    lanes = {TP("events", p): Lane(GENERATION, 0) for p in range(3)} | {TP("items", 0): Lane(GENERATION, 0)}
    consumer = consumer_of({}, lanes)
    consumer._paused_partitions.add(TP("events", 2))
    consumer.on_buffer_full(TP("events", 1))
    assert consumer._active_partitions == {TP("items", 0)}
    consumer.on_buffer_drop(TP("events", 0))
    assert consumer._active_partitions == {TP("items", 0), TP("events", 0), TP("events", 1)}
    assert not consumer._buffered_partitions


def test_a_poll_does_not_outlast_a_hold() -> None:
    """Else a worker whose buffers were full stands still until the poll for the other topics is over."""
    lanes = {TP("events", 0): Lane(GENERATION, 0), TP("items", 0): Lane(GENERATION, 0)}
    consumer, asked = consumer_of({}, lanes), list[float]()

    async def next_records(timeout: float) -> Any:
        asked.append(timeout)
        return {}, set()

    async def nothing_fetched() -> None: ...

    consumer._wait_next_records = next_records
    consumer.app.recovery = SimpleNamespace(nothing_fetched=nothing_fetched)
    polled(consumer)
    consumer.on_buffer_full(TP("events", 0))
    polled(consumer)
    consumer.on_buffer_full(TP("items", 0))  # now none is wanted, and Faust would sleep for a second
    slept = list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    consumer.sleep = sleep
    polled(consumer)
    assert asked == [1.0, HELD_BACK_S]
    assert slept == [HELD_BACK_S]
