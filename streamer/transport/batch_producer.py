"""Whole record batches to one partition, acknowledged; idempotent, and disposable.

Faust's producer is not idempotent and costs 100 to 400 µs a record. aiokafka's idempotent batches never expire once
they are sent, across rebalances too: hence `abandon`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from streamer.errors import LostOwnership, RecordTooLarge
from streamer.transport.produce_request import LeanSender

BATCH_BYTES = 900_000
"""Below the broker's default `message.max.bytes` (1,048,588)."""
RECORD_OVERHEAD_BYTES = 40
HEADER_OVERHEAD_BYTES = 10
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Names of compression codecs and their numbers in a batch's attributes (KIP-98, KIP-110)."""
GZIP = CODECS["gzip"]
_NO_HEADERS: list[tuple[str, bytes]] = []

Pair = tuple[bytes | None, bytes | None]
"""Key and value of a record without headers."""
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
        self._known: set[TopicPartition] = set()
        """What this producer has sent to: the client keeps itself informed about them."""

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(**self._options)
        self._producer._sender = LeanSender.of(self._producer._sender)
        self._known.clear()
        await self._producer.start()

    async def send(
        self,
        topic: str,
        partition: int,
        pairs: Iterable[Pair] = (),
        groups: Iterable[Sequence[Outgoing | Pair]] = (),
        *,
        compression: str = "none",
    ) -> list[Sent]:
        """Send and wait for all acknowledgements; the pairs first, then the groups.

        pairs: keys and values of records without headers, which may be cut into batches anywhere. groups: records that must
        leave in one batch, in order (a user's segments before its head); a group is never split. compression: a codec's name.
        Raises RecordTooLarge, aiokafka's errors, LostOwnership when abandoned meanwhile.
        """
        packer = Packer(topic, CODECS[compression], int(time.time() * 1000))
        packer.add_pairs(pairs)
        packer.add_groups(groups)
        return await self._acknowledged(await self._hand_over(topic, partition, packer.finish()))

    async def send_all(self, partition: int, outputs: Mapping[str, Iterable[Pair]]) -> None:
        """Send records of several topics to a partition of each, together, and wait for all acknowledgements."""
        now_ms, on_their_way = int(time.time() * 1000), []
        for topic, pairs in outputs.items():
            packer = Packer(topic, 0, now_ms)
            packer.add_pairs(pairs)
            on_their_way += await self._hand_over(topic, partition, packer.finish())
        await self._acknowledged(on_their_way)

    async def _hand_over(
        self, topic: str, partition: int, batches: Iterable[BatchBuilder]
    ) -> list[tuple[Awaitable[Any], BatchBuilder]]:
        sent: list[tuple[Awaitable[Any], BatchBuilder]] = []
        tp = TopicPartition(topic, partition)
        for batch in batches:
            if self._producer is None:
                raise LostOwnership("the producer was given up")
            waiting = self._producer._message_accumulator
            if tp in self._known and not (waiting._batches.get(tp) or waiting._closed or waiting._exception):
                # What `send_batch` comes to for a known partition for which nothing waits.
                sent.append((asyncio.shield(waiting._append_batch(batch, tp).future), batch))
            else:
                sent.append((await self._producer.send_batch(batch, topic, partition=partition), batch))
                self._known.add(tp)
        return sent

    async def _acknowledged(self, sent: Iterable[tuple[Awaitable[Any], BatchBuilder]]) -> list[Sent]:
        return [Sent((await future).offset, batch.record_count()) for future, batch in sent]

    async def partitions_for(self, topic: str) -> int:
        """Number of partitions of a topic."""
        if self._producer is None:
            raise LostOwnership("the producer was given up")
        return len(await self._producer.partitions_for(topic))

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def drop(self) -> None:
        """Close at once; what is unsent or unacknowledged is thrown away."""
        old, self._producer = self._producer, None
        if old is not None:
            if old._sender.sender_task is not None:
                old._sender.sender_task.cancel()
            await old.client.close()
            old._message_accumulator.fail_all(LostOwnership("the partition was revoked"))
            old._closed = True

    async def abandon(self) -> None:
        """Throw away what is unsent or unacknowledged; the next producer has a new producer id."""
        await self.drop()
        await self.start()


class Packer:
    """Fills batches with the records of one partition."""

    def __init__(self, topic: str, codec: int, now_ms: int) -> None:
        self._topic, self._codec, self._now_ms = topic, codec, now_ms
        self._full: list[BatchBuilder] = []
        self._batch = BatchBuilder(BATCH_BYTES, codec)

    def add_pairs(self, pairs: Iterable[Pair]) -> None:
        now_ms, count = self._now_ms, self._batch._relative_offset
        add = self._batch._builder.append  # BatchBuilder.append around it costs as much again
        for key, value in pairs:
            if add(count, now_ms, key, value, _NO_HEADERS) is None:
                self._batch._relative_offset = count
                self._next()
                add = self._batch._builder.append
                # The first record of a batch always has room.
                add(0, now_ms, key, value, _NO_HEADERS)
                count = 0
            count += 1
        self._batch._relative_offset = count

    def add_groups(self, groups: Iterable[Sequence[Outgoing | Pair]]) -> None:
        """Raises RecordTooLarge for a group that fits no batch."""
        for group in groups:
            need = sum(map(wire_bytes, group))
            if self._batch.record_count() and self._batch.size() + need > BATCH_BYTES:
                self._next()
            if need > BATCH_BYTES:
                self._next(packing_builder())
            if not all(append(self._batch, record, self._now_ms) for record in group):
                raise RecordTooLarge(
                    f"{self._topic}: {need} bytes of one user do not fit a batch of {BATCH_BYTES} bytes"
                )

    def _next(self, batch: BatchBuilder | None = None) -> None:
        if self._batch.record_count():
            self._batch.close()
            self._full.append(self._batch)
        self._batch = BatchBuilder(BATCH_BYTES, self._codec) if batch is None else batch

    def finish(self) -> list[BatchBuilder]:
        """The batches, closed; none where nothing was added."""
        self._next()
        return self._full


def wire_bytes(record: Outgoing | Pair) -> int:
    """An upper bound of the record's size in a batch, uncompressed."""
    size = len(record[0] or b"") + len(record[1] or b"") + RECORD_OVERHEAD_BYTES
    for name, value in headers_of(record):  # a name's character has up to four bytes
        size += 4 * len(name) + len(value) + HEADER_OVERHEAD_BYTES
    return size


def headers_of(record: Outgoing | Pair) -> Headers:
    return record.headers if isinstance(record, Outgoing) else ()


def append(builder: BatchBuilder, record: Outgoing | Pair, now_ms: int) -> bool:
    """Whether there was room; for the first record there always is."""
    added = builder.append(timestamp=now_ms, key=record[0], value=record[1], headers=list(headers_of(record)))
    return added is not None


def packing_builder() -> BatchBuilder:
    """A batch that is compressed: for a record that is large because its own batch was."""
    return BatchBuilder(BATCH_BYTES, GZIP)
