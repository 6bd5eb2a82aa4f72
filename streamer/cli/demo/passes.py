"""The two passes over the later events: streamed one by one and judged, then for several times the users at full speed."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamer.cli.consume import LatestOutputs
from streamer.cli.demo import judging
from streamer.cli.demo.judging import Quality
from streamer.cli.demo.prepare import Data, worker
from streamer.cli.demo.processes import Child, read_metric
from streamer.cli.demo.replay import Arrival, OutputWatch, last_offsets, latencies_ms, throughput
from streamer.cli.demo.report import Person
from streamer.cli.demo.steps import DemoFailed, Screen
from streamer.cli.produce import Pace, Sent, event_record, open_producer, send_all
from streamer.core.protocol import Profile, Recommendations
from streamer.datasets import Interaction
from streamer.errors import BrokerUnavailable
from streamer.settings import Settings
from streamer.transport.log_reader import iter_log, log_extent
from streamer.transport.topics import ensure_topics

LATENCY_RATE = 200.0
"""Events per second of the open loop: one top-10 after every event, mostly of one user at a time, has to keep up."""
LATENCY_EVENTS = 2000
"""The last so many events of the replay, at most a third of them."""
TWINS = 5
"""Users at full speed for each one of the log: a worker that lags takes 16,000 events at a time, so one log is a batch or two."""
READY_EVERY_S = 0.02
PERSON_EVENTS = 10
"""The user shown at the end did at least so much, if anybody did."""


@dataclass(frozen=True)
class Streamed:
    """What the first pass gave: `sent` and the replayed events have the same order."""

    sent: list[Sent]
    arrivals: list[Arrival]
    latency_ms: list[float]


@dataclass(frozen=True)
class Speed:
    """What the second pass gave."""

    events_per_s: float
    worker_rss_mb: float


def stream(data: Data, settings: Settings, process: Child, screen: Screen) -> Streamed:
    """Every event through the worker with refresh=event; the last ones at a steady rate, to measure latency."""
    return asyncio.run(_stream(data.replayed, settings, process, screen))


async def _stream(
    replayed: Sequence[Interaction], settings: Settings, process: Child, screen: Screen
) -> Streamed:
    paced = min(LATENCY_EVENTS, len(replayed) // 3)
    records = [event_record(event) for event in replayed]
    users = [event.user_id for event in replayed]
    cut = len(records) - paced
    async with OutputWatch(settings) as watch, _Producer(settings) as producer:
        outputs = watch.outputs
        with screen.step("streaming, a new top-10 after every event", total=cut) as step:
            topic = settings.topic("events")
            sent = await send_all(
                producer, topic, records[:cut], Pace(), lambda n: step.advance_to(len(outputs.arrivals))
            )
            await watch.covered(last_offsets(users[:cut], sent), process.check, step.advance_to)
            step.say(f"{len(outputs.arrivals):,} recommendation lists")
        with screen.step(f"latency at {LATENCY_RATE:.0f} events/s", total=paced) as step:
            # A collection over everything received so far would stop our own clock, not the worker.
            gc.collect()
            gc.disable()
            try:
                timed = await send_all(
                    producer, topic, records[cut:], Pace(rate=LATENCY_RATE), step.advance_to
                )
                await watch.covered(last_offsets(users[cut:], timed), process.check)
            finally:
                gc.enable()
    return Streamed(sent + timed, outputs.arrivals, latencies_ms(users[cut:], timed, outputs.arrivals))


def judged(data: Data, streamed: Streamed, screen: Screen) -> Quality:
    with screen.step("judging each event by the list before it", total=len(data.replayed)) as step:
        item_ids = [item.item_id for item in data.dataset.items]
        return judging.judge(
            data.training, data.replayed, streamed.sent, streamed.arrivals, item_ids, step.advance_to
        )


def flat_out(data: Data, main: Settings, settings: Settings, log: Path, screen: Screen) -> Speed:
    """The log under a topic prefix of its own, of TWINS users for each one, all of it there before its worker starts."""
    return asyncio.run(_flat_out(data.replayed, main, settings, log, screen))


async def _flat_out(
    replayed: Sequence[Interaction], main: Settings, settings: Settings, log: Path, screen: Screen
) -> Speed:
    with screen.step(f"throughput: the same log of {TWINS} times the users at full speed") as step:
        step.say("copying the log")
        await ensure_topics(settings)
        for topic in ("models", "item-vectors"):
            await _copy(main, settings, topic)
        events = [twin for event in replayed for twin in twins(event)]
        async with _Producer(settings) as producer:
            records = [event_record(event) for event in events]
            sent = await send_all(producer, settings.topic("events"), records, Pace())
        last = last_offsets([event.user_id for event in events], sent)
        async with OutputWatch(settings) as watch:
            with worker(settings, log) as process:
                step.say("the worker starts")
                ready_ms = await _ready(process, settings)
                await watch.covered(last, process.check, lambda n: step.say(f"{n:,} outputs") if n else None)
                rss_mb = process.peak_rss_mb()
        speed = throughput(watch.outputs.arrivals, len(events), ready_ms)
        step.say(f"{len(events):,} events, refresh=batch")
    return Speed(speed, rss_mb)


async def _ready(process: Child, settings: Settings) -> int:
    """When the worker began to consume, ms since the epoch."""
    while not await asyncio.to_thread(read_metric, settings.metrics_port, "headwater_ready"):
        process.check()
        await asyncio.sleep(READY_EVERY_S)
    return time.time_ns() // 1_000_000


def twins(event: Interaction) -> list[Interaction]:
    """The same event of TWINS users, the first of them its own."""
    others = [
        event._replace(event_id=f"{event.event_id}~{n}", user_id=f"{event.user_id}~{n}")
        for n in range(1, TWINS)
    ]
    return [event, *others]


async def _copy(source: Settings, target: Settings, topic: str) -> None:
    """Copy a topic's records as they are into the same partitions."""
    async with _Producer(target) as producer:
        async for batch in iter_log(source.brokers, source.topic(topic), security=source.kafka_options()):
            futures = [
                await producer.send(target.topic(topic), r.value, key=r.key, partition=r.partition)
                for r in batch
            ]
            await asyncio.gather(*futures)


class _Producer:
    """A started producer while the `async with` block lasts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> AIOKafkaProducer:
        # No lingering: it would count as latency. Batches form by themselves while a request is on its way.
        self._producer = open_producer(self._settings, linger_ms=0)
        try:
            await self._producer.start()
        except KafkaError as error:
            raise BrokerUnavailable(f"no broker answers at {self._settings.brokers}: {error}") from error
        return self._producer

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()


def last_look(data: Data, streamed: Streamed, settings: Settings, screen: Screen) -> tuple[int, Person]:
    """How many dead letters there are, and one user as the stream left it."""
    with screen.step("dead letters and one user's profile"):
        return asyncio.run(_last_look(data, streamed.arrivals, settings))


async def _last_look(data: Data, arrivals: Sequence[Arrival], settings: Settings) -> tuple[int, Person]:
    extent = await log_extent(settings.brokers, settings.topic("dead-letters"), settings.kafka_options())
    user = shown_user(data.replayed)
    profiles = LatestOutputs("profiles", user)
    async for batch in iter_log(
        settings.brokers, settings.topic("profiles"), security=settings.kafka_options()
    ):
        for record in batch:
            profiles.take(record)
    profile = profiles.by_user.get(user)
    if not isinstance(profile, Profile):
        raise DemoFailed(f"there is no profile of user {user} on {settings.topic('profiles')}")
    mine = [arrival.output for arrival in arrivals if arrival.output.user_id == user]
    newest: Recommendations = max(mine, key=lambda output: (output.version, output.revision))
    events = [event for event in data.replayed if event.user_id == user]
    return sum(end - first for first, end in extent.values()), Person(events, profile, newest)


def shown_user(replayed: Sequence[Interaction]) -> str:
    """Of those with at least PERSON_EVENTS events (or else of all) the one who acted last."""
    counts: dict[str, int] = {}
    for event in replayed:
        counts[event.user_id] = counts.get(event.user_id, 0) + 1
    busy = [event.user_id for event in replayed if counts[event.user_id] >= PERSON_EVENTS]
    return busy[-1] if busy else replayed[-1].user_id
