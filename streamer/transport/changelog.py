"""Our side of the table's changelog: send, check that nobody wrote in between, repair after somebody did.

A worker stopped for longer than its session and then resumed still believes that it owns its partitions, and may send
before it learns better. The fence is contiguity: the offsets of our own acknowledgements must follow one another. A gap
means foreign records. Whoever is behind them crashes; whoever is ahead sends its newer state and outputs again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streamer import telemetry
from streamer.core.user_state import applied
from streamer.errors import ForeignWrite
from streamer.transport.batch_producer import BatchProducer, Sent
from streamer.transport.state_store import BatchStore

State = tuple[bytes, bytes]
"""Key and value of a state record."""
Group = Sequence[State]
"""Records of one user that leave in one batch: segments and chunks first, head last."""
Republish = Callable[[int, list[bytes]], Awaitable[None]]
"""Sends the outputs of these table keys of a partition again."""


class Changelog:
    def __init__(
        self,
        topic: str,
        store: BatchStore,
        producer: BatchProducer,
        *,
        compression: str = "none",
        **connection: Any,
    ) -> None:
        self._compression = compression
        self._topic, self._store, self._producer, self._connection = topic, store, producer, connection
        self._next_offset: dict[int, int] = {}
        self.republish: Republish | None = None

    async def recovered(self, partition: int, next_offset: int) -> None:
        """Recovery has read the log up to `next_offset` (exclusive): our next record must land there."""
        self._next_offset[partition] = next_offset
        await self._repair(partition)

    async def append(self, partition: int, heads: Sequence[State], groups: Sequence[Group] = ()) -> int:
        """Send records and wait; returns the offset that local state covers the log up to (inclusive).

        heads: of users of whom nothing else changed. groups: see Group.
        Raises ForeignWrite when another writer is ahead of us.
        """
        records = [*heads, *(record for group in groups for record in group)]
        telemetry.CHANGELOG_BYTES.inc(sum([len(key) + len(value) for key, value in records]))
        sent = await self._producer.send(self._topic, partition, heads, groups, compression=self._compression)
        await self._check(partition, sent, records)
        await self._repair(partition)
        return self._next_offset[partition] - 1

    async def _check(self, partition: int, sent: list[Sent], records: Sequence[State]) -> None:
        if any(part.base_offset < 0 for part in sent):
            sent = [await self._locate(partition, records)]
        for base, count in sent:
            expected, self._next_offset[partition] = self._next_offset[partition], base + count
            if base != expected:
                await self._judge_foreign(partition, expected, base)

    async def _judge_foreign(self, partition: int, start: int, end: int) -> None:
        telemetry.FOREIGN_WRITES.inc()
        for key, theirs in (await self._read(partition, start, end)).items():
            mine = self._store.read(partition, key)
            if theirs is not None and (mine is None or applied(mine) < applied(theirs)):
                raise ForeignWrite(
                    f"{self._topic}/{partition}: records {start}..{end - 1} are another worker's and newer than ours; "
                    "this worker was stopped for longer than its session and must start again"
                )
            self._store.regressed[partition].add(key)

    async def _locate(self, partition: int, records: Sequence[State]) -> Sent:
        """Find our own records: a broker that answers 'duplicate sequence' no longer knows their offset."""
        flat = list(records)
        start = self._next_offset[partition]
        log = await self._read_all(partition, start)
        for i in range(len(log) - len(flat), -1, -1):
            if [(key, value) for _, key, value in log[i : i + len(flat)]] == flat:
                return Sent(log[i][0], len(flat))
        raise ForeignWrite(
            f"{self._topic}/{partition}: acknowledged records are not in the log from {start} on"
        )

    async def _repair(self, partition: int) -> None:
        """Make each user's newest record the last one in the log again, and publish what the zombie overwrote."""
        keys = sorted(self._store.regressed.pop(partition, ()))
        if not keys:
            return
        telemetry.REPAIRED_RECORDS.inc(len(keys))
        newest: list[State] = [
            (key, value) for key in keys if (value := self._store.read(partition, key)) is not None
        ]
        sent = await self._producer.send(self._topic, partition, newest, compression=self._compression)
        await self._check(partition, sent, newest)
        if self.republish is not None:
            await self.republish(partition, keys)
        await self._repair(partition)

    async def _read(self, partition: int, start: int, end: int) -> dict[bytes, bytes | None]:
        return {
            key: value for _, key, value in await self._read_all(partition, start, end) if key is not None
        }

    async def _read_all(
        self, partition: int, start: int, end: int | None = None
    ) -> list[tuple[int, bytes | None, bytes | None]]:
        """Records of our changelog partition from `start` to `end` (exclusive; None = the end of the log)."""
        tp = TopicPartition(self._topic, partition)
        found: list[tuple[int, bytes | None, bytes | None]] = []
        consumer: AIOKafkaConsumer[bytes, bytes] = AIOKafkaConsumer(
            enable_auto_commit=False, **self._connection
        )
        await consumer.start()
        try:
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp] if end is None else end
            consumer.seek(tp, start)
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(tp, timeout_ms=500)).values():
                    found += [(r.offset, r.key, r.value) for r in records if r.offset < end]
        finally:
            await consumer.stop()
        return found
