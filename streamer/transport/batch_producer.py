"""Whole record batches to one partition, acknowledged; idempotent, and disposable.

Faust's producer is not idempotent and costs 100 to 400 µs a record. aiokafka's idempotent batches never expire once
they are sent, across rebalances too: hence `abandon`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from streamer.errors import LostOwnership, RecordTooLarge

BATCH_BYTES = 900_000
"""Below the broker's default `message.max.bytes` (1,048,588)."""
BATCH_OVERHEAD_BYTES = 61
RECORD_OVERHEAD_BYTES = 40
HEADER_OVERHEAD_BYTES = 10
GZIP = 1

Headers = Sequence[tuple[str, bytes]]


class Outgoing(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Sent(NamedTuple):
    """Where an acknowledged batch landed; `base_offset` is -1 where the broker saw a duplicate and kept no offset."""

    base_offset: int
    records: int


class BatchProducer:
    def __init__(self, *, request_timeout_s: float = 40.0, **connection: Any) -> None:
        self._options = dict(
            connection,
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            max_request_size=4 * BATCH_BYTES,
            request_timeout_ms=int(request_timeout_s * 1000),
        )
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(**self._options)
        await self._producer.start()

    async def send(self, topic: str, partition: int, groups: Iterable[Sequence[Outgoing]]) -> list[Sent]:
        """Send and wait for all acknowledgements.

        groups: records that must leave in one batch, in order (a user's segments before its head); a group is never
        split. Raises RecordTooLarge, aiokafka's errors, LostOwnership when abandoned meanwhile.
        """
        if self._producer is None:
            raise LostOwnership("the producer was given up")
        producer, now_ms = self._producer, int(time.time() * 1000)
        builder, size, futures = producer.create_batch(), 0, []
        for group in groups:
            need = sum(map(wire_bytes, group))
            if size and size + need > BATCH_BYTES:
                builder.close()
                futures.append((await producer.send_batch(builder, topic, partition=partition), builder))
                builder, size = producer.create_batch(), 0
            if need > BATCH_BYTES:
                builder = packing_builder()
            if not all(append(builder, record, now_ms) for record in group):
                raise RecordTooLarge(
                    f"{topic}: {need} bytes of one user do not fit a batch of {BATCH_BYTES} bytes"
                )
            size = (size or BATCH_OVERHEAD_BYTES) + need
        if size:
            builder.close()
            futures.append((await producer.send_batch(builder, topic, partition=partition), builder))
        return [Sent((await future).offset, builder.record_count()) for future, builder in futures]

    async def partitions_for(self, topic: str) -> int:
        """Number of partitions of a topic."""
        if self._producer is None:
            raise LostOwnership("the producer was given up")
        return len(await self._producer.partitions_for(topic))

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def abandon(self) -> None:
        """Throw away what is unsent or unacknowledged; the next producer has a new producer id."""
        old, self._producer = self._producer, None
        if old is not None:
            if old._sender.sender_task is not None:
                old._sender.sender_task.cancel()
            await old.client.close()
            old._message_accumulator.fail_all(LostOwnership("the partition was revoked"))
            old._closed = True
        await self.start()


def wire_bytes(record: Outgoing) -> int:
    """An upper bound of the record's size in a batch, uncompressed."""
    size = len(record.key or b"") + len(record.value or b"") + RECORD_OVERHEAD_BYTES
    for name, value in record.headers:  # a name's character has up to four bytes
        size += 4 * len(name) + len(value) + HEADER_OVERHEAD_BYTES
    return size


def append(builder: BatchBuilder, record: Outgoing, now_ms: int) -> bool:
    """Whether there was room; for the first record there always is."""
    added = builder.append(timestamp=now_ms, key=record.key, value=record.value, headers=list(record.headers))
    return added is not None


def packing_builder() -> BatchBuilder:
    """A batch that is compressed: for a record that is large because its own batch was."""
    return BatchBuilder(BATCH_BYTES, GZIP)
