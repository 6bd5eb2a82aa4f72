"""Milliseconds from an event to its recommendation, at a steady rate.

`python -m benchmarks.latency [--rate 500] [--json FILE] [--quick]`

Open loop: an event counts from the moment at which it was meant to be sent, so that waiting counts too. One process sends
the events and reads `recommendations`; it knows an event's recommendation by partition and offset of its source. Every
event is another user's, so none is coalesced with a later one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks import figures
from benchmarks.figures import Figure, Result
from benchmarks.stage import Stage, uniform
from streamer.core.protocol import Source

NAME = "latency"
WARM_UP_S = 5.0
PATIENCE_S = 20.0
PERCENTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9}
GOALS = {"p99_ms": 150.0}

Place = tuple[int, int]
"""Partition and offset of an event."""


class Listed(msgspec.Struct):
    """What matters here of a recommendation."""

    source: Source


class Load:
    """Sends events at their times and notes when their recommendations came."""

    def __init__(self, brokers: str, rate: float) -> None:
        self._brokers, self._rate = brokers, rate
        self._meant: dict[Place, float] = {}
        self._came: dict[Place, float] = {}

    async def run(self, events: Iterable[tuple[bytes, bytes]]) -> list[float]:
        """Seconds from meant-to-be-sent to received, of each event in order. Raises RuntimeError when one has no answer."""
        producer = AIOKafkaProducer(bootstrap_servers=self._brokers, linger_ms=0)
        consumer = AIOKafkaConsumer(
            "recommendations",
            bootstrap_servers=self._brokers,
            auto_offset_reset="latest",
            fetch_max_wait_ms=100,
        )
        async with producer, consumer:
            await consumer.seek_to_end()
            for partition in consumer.assignment():
                await consumer.position(partition)
            listener = asyncio.ensure_future(self._listen(consumer))
            try:
                await self._send(producer, events)
                await asyncio.wait_for(self._all_came(), PATIENCE_S)
            except TimeoutError:
                raise RuntimeError(
                    f"{len(self._missing())} of {len(self._meant)} events have no recommendation"
                ) from None
            finally:
                listener.cancel()
        return [
            self._came[place] - meant
            for place, meant in sorted(self._meant.items(), key=lambda pair: pair[1])
        ]

    async def _send(self, producer: Any, events: Iterable[tuple[bytes, bytes]]) -> None:
        started, sent = time.perf_counter() + 0.1, []
        for number, (key, value) in enumerate(events):
            meant = started + number / self._rate
            if (early := meant - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            sent.append((meant, await producer.send("events", value, key)))
        for meant, acknowledged in sent:
            place = await acknowledged
            self._meant[place.partition, place.offset] = meant

    async def _listen(self, consumer: Any) -> None:
        decode = msgspec.json.Decoder(Listed).decode
        while True:
            fetched = await consumer.getmany(timeout_ms=1000)
            now = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    source = decode(record.value).source
                    self._came.setdefault((source.partition, source.offset), now)

    def _missing(self) -> set[Place]:
        return self._meant.keys() - self._came.keys()

    async def _all_came(self) -> None:
        while self._missing():
            await asyncio.sleep(0.1)


def measure(stage: Stage, *, rate: float = 500.0, quick: bool = False) -> Result:
    seconds, rounds = (8.0, 1) if quick else (25.0, 3)
    warm_up, each = int(rate * WARM_UP_S), int(rate * (WARM_UP_S + seconds))
    percentiles: dict[str, list[float]] = {key: [] for key in PERCENTILES}
    worker = stage.headwater("latency", skip=("items", "events"))
    try:
        stage.wait(lambda: worker.said("ready: generation"), worker, "the worker")
        for number in range(rounds):
            waits = stage.loop.run(Load(stage.brokers, rate).run(uniform(each, number * each)))[warm_up:]
            for key, percent in PERCENTILES.items():
                percentiles[key].append(float(np.percentile(waits, percent)) * 1000)
            print(", ".join(f"{key} {runs[-1]:.1f}" for key, runs in percentiles.items()), flush=True)
    finally:
        worker.kill()
    found = {key: Figure.of(runs, "ms", GOALS.get(key)) for key, runs in percentiles.items()}
    return Result.here(f"{NAME}-{rate:g}", found)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="events per second")
    options = parser.parse_args()
    with Stage.open() as stage:
        result = measure(stage, rate=options.rate, quick=options.quick)
    figures.report(result, options)


if __name__ == "__main__":
    main()
