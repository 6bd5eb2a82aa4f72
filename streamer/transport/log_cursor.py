"""Where a group-less consumer is in the partitions of one topic, and how far it must go.

Positions count, not records: a compacted log has holes, and its last offset may hold nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamer.transport.tolerant_records import tolerate

POLL_MS = 200
GATHERED_BYTES = 1 << 16
HOLE_S = 2.0
"""So long must the broker answer nothing, below its own high watermark, until we believe that nothing is there."""


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One record as it lies in the log. `timestamp_ms` is Kafka's; headers keep their order."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class LogCursor:
    """Positions of one group-less consumer in a topic's partitions, and the offsets up to which it must read.

    gather_ms: how long the broker may hold a fetch of less than 64 KiB; 0 = it answers as soon as a record is there.
    """

    def __init__(
        self, brokers: str, topic: str, security: Mapping[str, Any], retry_ms: int = 250, gather_ms: int = 0
    ) -> None:
        self.brokers = brokers
        self.topic = topic
        self._options = {**security, "retry_backoff_ms": retry_ms}
        if gather_ms:
            self._options |= {"fetch_min_bytes": GATHERED_BYTES, "fetch_max_wait_ms": gather_ms}
        self._consumer: AIOKafkaConsumer | None = None
        self.positions: dict[int, int] = {}
        self.until: dict[int, int] = {}
        self._quiet_s = 0.0
        self._holes: set[int] = set()

    async def connect(self) -> None:
        """Raises KafkaError when no broker answers."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 << 20,
            **self._options,
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    @property
    def consumer(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "connect() comes first"
        return self._consumer

    async def partitions(self) -> list[int]:
        """The topic's partitions, sorted; empty where the topic does not exist."""
        # consumer.topics() fetches the same and keeps the partitions for itself; naming the topic in the
        # request would make a broker with automatic creation create it.
        cluster = await self.consumer._client.fetch_all_metadata()
        return sorted(cluster.partitions_for_topic(self.topic) or ())

    async def extent(self) -> dict[int, tuple[int, int]]:
        """First and end offset of each partition, {} where the topic does not exist."""
        tps = [TopicPartition(self.topic, p) for p in await self.partitions()]
        if not tps:
            return {}
        first, end = await self.consumer.beginning_offsets(tps), await self._ends(tps)
        return {tp.partition: (first[tp], end[tp.partition]) for tp in tps}

    async def open(
        self, start: Mapping[int, int] | None = None, until: Mapping[int, int] | None = None
    ) -> bool:
        """Take all partitions, those already read where they were. False: there is no such topic (yet)."""
        partitions = await self.partitions()
        if not partitions:
            return False
        await self.consumer._client.add_topic(
            self.topic
        )  # so that leaders are known, else the next line backs off once
        tps = [TopicPartition(self.topic, p) for p in partitions]
        first = await self.consumer.beginning_offsets(tps)
        end = dict(until) if until is not None else await self._ends(tps)
        self.consumer.assign(tps)
        for tp in tps:
            begin = max(first[tp], (start or {}).get(tp.partition, 0))
            position = self.positions.setdefault(tp.partition, begin)
            self.consumer.seek(tp, position)
            self.until.setdefault(tp.partition, end.get(tp.partition, 0))
        self._quiet_s = time.time()
        return True

    async def _ends(self, tps: list[TopicPartition]) -> dict[int, int]:
        return {tp.partition: end for tp, end in (await self.consumer.end_offsets(tps)).items()}

    async def poll(self, max_records: int | None = None) -> list[LogRecord]:
        """The next records of any partitions, at most POLL_MS later; in offset order within a partition."""
        answered_s = {partition: self.answered_s(partition) for partition in self.positions}
        try:
            found = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=max_records)
        except UnicodeDecodeError:  # a header's name: what this fetch had taken is read again
            tolerate()
            for partition, position in self.positions.items():
                self.consumer.seek(TopicPartition(self.topic, partition), position)
            return []
        records = [
            LogRecord(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
            for batch in found.values()
            for r in batch
        ]
        before = dict(self.positions)
        for partition in before:
            self.positions[partition] = await self.consumer.position(TopicPartition(self.topic, partition))
        if records or self.positions != before:
            self._quiet_s = time.time()
        else:  # what had been answered before the poll has been handed out by it: nothing is buffered
            self._holes = {p for p, at_s in answered_s.items() if at_s - self._quiet_s > HOLE_S}
        return records

    def pause_finished(self) -> None:
        """Fetch no more of the partitions that are read."""
        for partition in self.positions:
            if self.reached(partition):
                self.consumer.pause(TopicPartition(self.topic, partition))

    def reached(self, partition: int) -> bool:
        """Whether everything below `until` is read.

        Also where the broker has that much and yet keeps answering nothing: a hole.
        """
        until = self.until[partition]
        if self.positions[partition] >= until:
            return True
        high = self.consumer.highwater(TopicPartition(self.topic, partition)) or 0
        return partition in self._holes and high >= until

    @property
    def complete(self) -> bool:
        return all(self.reached(partition) for partition in self.positions)

    def answered_s(self, partition: int) -> float:
        """When the broker last answered a fetch of this partition (epoch seconds; 0: never)."""
        return (self.consumer.last_poll_timestamp(TopicPartition(self.topic, partition)) or 0) / 1000.0
