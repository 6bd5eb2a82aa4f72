"""An open loop: events at their times, whatever became of the earlier ones, and when their recommendations came."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.outputs import Place, Sourced

PATIENCE_S = 20.0
"""How long to wait for the last recommendations."""


class Load:
    """Sends events at `rate` per second and notes when their recommendations came; every event wants one of its own."""

    def __init__(self, brokers: str, rate: float) -> None:
        self._brokers, self._rate = brokers, rate
        self._meant: dict[Place, float] = {}
        self._came: dict[Place, float] = {}

    async def run(self, events: Iterable[tuple[bytes, bytes]]) -> list[float]:
        """Seconds from meant-to-be-sent to received, of each event in order, so that waiting to be sent counts too.

        Raises RuntimeError when one has no answer.
        """
        producer = AIOKafkaProducer(bootstrap_servers=self._brokers, linger_ms=0)
        consumer = AIOKafkaConsumer(
            "recommendations", bootstrap_servers=self._brokers, auto_offset_reset="latest"
        )
        async with producer, consumer:
            await consumer.seek_to_end()
            for partition in consumer.assignment():
                await consumer.position(partition)
            listener = asyncio.ensure_future(self._listen(consumer))
            try:
                await self._send(producer, events)
                await self._all_came()
            finally:
                listener.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listener
        in_order = sorted(self._meant.items(), key=lambda pair: pair[1])
        return [self._came[place] - meant for place, meant in in_order]

    async def _send(self, producer: Any, events: Iterable[tuple[bytes, bytes]]) -> None:
        started = time.perf_counter() + 0.1
        sent: list[tuple[float, Any]] = []
        for number, (key, value) in enumerate(events):
            meant = started + number / self._rate
            if (early := meant - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            sent.append((meant, await producer.send("events", value, key)))
        for meant, acknowledged in sent:
            place = await acknowledged
            self._meant[place.partition, place.offset] = meant

    async def _listen(self, consumer: Any) -> None:
        decode = msgspec.json.Decoder(Sourced).decode
        while True:
            fetched = await consumer.getmany(timeout_ms=1000)
            now = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    source = decode(record.value).source
                    self._came.setdefault((source.partition, source.offset), now)

    async def _all_came(self) -> None:
        deadline = time.perf_counter() + PATIENCE_S
        while missing := self._meant.keys() - self._came.keys():
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{len(missing)} of {len(self._meant)} events have no recommendation")
            await asyncio.sleep(0.1)
