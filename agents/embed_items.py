"""`items` → `item-vectors`: every new or changed item gets its content vector from the text encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from faust.types import TP

from streamer import telemetry
from streamer.core.dead_letters import dead_letter_headers
from streamer.core.events import Rejected
from streamer.core.item_text import item_text
from streamer.core.protocol import ItemRecord, ItemVector, decode_item, encode
from streamer.serving.micro_batcher import MicroBatcher, Priority
from streamer.serving.text_encoder import TextEncoder
from streamer.transport.batch_producer import Outgoing, Pair
from streamer.transport.consumer import Run
from streamer.transport.log_batches import LoggedRecord
from streamer.transport.sending import Delivery


class EmbedItems:
    """A `Processor`: the encoding happens in `prepare`, so it never holds up the event path."""

    def __init__(self, topic: str, batcher: MicroBatcher, encoder: Callable[[], TextEncoder]) -> None:
        self._topic, self._batcher, self._encoder = topic, batcher, encoder

    async def prepare(self, run: Run) -> Delivery:
        newest: dict[bytes, tuple[LoggedRecord, ItemRecord | None]] = {}
        delivery = Delivery()
        for record in run.records:
            decoded = decode_item(record.value, record.key)
            if isinstance(decoded, Rejected):
                delivery.dead_letters.append(bury(run.tp, record, decoded))
            else:
                assert record.key is not None
                newest[record.key] = (record, decoded)
        delivery.outputs[self._topic] = await self._embed(newest, run.tp.partition)
        return delivery

    async def _embed(
        self, newest: dict[bytes, tuple[LoggedRecord, ItemRecord | None]], partition: int
    ) -> list[Pair]:
        present = [(record, item) for record, item in newest.values() if item is not None]
        digest = self._encoder().digest
        telemetry.ENCODER_TEXTS.labels("item").inc(len(present))
        vectors = await self._batcher.encode([item_text(item) for _, item in present], Priority.ITEM)
        withdrawn: list[Pair] = [(key, None) for key, (_, item) in newest.items() if item is None]
        return withdrawn + [
            (record.key, encode(item_vector(record.offset, partition, item, digest, vector)))
            for (record, item), vector in zip(present, vectors, strict=True)
        ]

    def compute(self, work: dict[int, list[Delivery]], lagging: bool = False) -> dict[int, Delivery]:
        """Join the deliveries of a partition; everything was done in `prepare`."""
        return {partition: _joined(deliveries) for partition, deliveries in work.items()}

    def due_at_s(self) -> None:
        """Nothing is ever put off."""

    def forget(self) -> None:
        """Nothing is kept from batch to batch."""


def item_vector(offset: int, partition: int, item: ItemRecord, digest: str, vector: np.ndarray) -> ItemVector:
    """offset and partition of the item's record; vector: (384,) f32, stored as fp16."""
    return ItemVector(
        item_id=item.item_id,
        encoder=digest,
        vector=vector.astype("<f2").tobytes(),
        available=item.available,
        categories=list(item.categories),
        offset=offset,
        partition=partition,
    )


def bury(tp: TP, record: LoggedRecord, rejected: Rejected) -> Outgoing:
    """The dead letter of a record of a partition: its original key, value and headers, and why."""
    telemetry.DEAD_LETTERS.labels(rejected.reason).inc()
    headers = dead_letter_headers(rejected, tp.topic, tp.partition, record.offset, record.headers)
    return Outgoing(record.key, record.value, headers)


def _joined(deliveries: list[Delivery]) -> Delivery:
    total = Delivery()
    for delivery in deliveries:
        total.dead_letters += delivery.dead_letters
        for topic, records in delivery.outputs.items():
            total.outputs.setdefault(topic, []).extend(records)
    return total
