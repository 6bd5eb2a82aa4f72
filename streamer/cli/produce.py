"""`headwater produce FILE|DATASET`: replay events into `events`, at their own pace or faster."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import RecordMetadata
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamer import datasets
from streamer.core.events import Event
from streamer.core.partitioner import Partitioner
from streamer.core.protocol import ItemRecord, encode
from streamer.errors import BrokerUnavailable, DataError
from streamer.settings import Settings

MAX_SLEEP_S = 0.2
FLUSH_EVERY = 2000
"""Records between two waits for acknowledgements: bounds what a slow broker makes us hold."""

_encode_event = msgspec.json.Encoder().encode


class Keyed(NamedTuple):
    """A record ready to be sent, and the event time that its pace follows."""

    key: bytes
    value: bytes
    timestamp_ms: int


class _Line(msgspec.Struct, gc=False):
    """What a replay must know of an event; the worker judges the rest."""

    user_id: str
    timestamp_ms: int


@dataclass(frozen=True)
class Pace:
    """When each record is due: an open loop, so a slow broker is caught up with rather than waited for.

    `speed` 1 is the events' own time, 100 a hundred times as fast; `rate` is so many events a second whatever
    their times; neither means as fast as it goes.
    """

    speed: float | None = None
    rate: float | None = None

    def due_s(self, position: int, elapsed_ms: int) -> float | None:
        """Seconds after the start at which an event is due; never negative, None means at once.

        It is number `position` (from 0), and `elapsed_ms` of event time after the first one.
        """
        if self.rate is not None:
            return position / self.rate
        return None if self.speed is None else max(0.0, elapsed_ms / 1000.0 / self.speed)


class Sent(NamedTuple):
    """An acknowledged record: where it lies, and when it was due (time.monotonic; without a pace: sent)."""

    partition: int
    offset: int
    due_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="FILE|DATASET",
        help=f"a file of JSON events, one per line, or a data set ({', '.join(datasets.DATASETS)})",
    )
    parser.add_argument(
        "--speed", type=float, metavar="X", help="X times the events' own pace (default: as fast as it goes)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="stop after the first N events")
    parser.add_argument(
        "--items",
        nargs="?",
        const="",
        metavar="FILE",
        help="first publish the catalogue to `items`: the data set's own, or FILE (JSON items, one per line)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the data set's files are (default: download)"
    )
    parser.add_argument("--seed", type=int, default=7, help="order of events with equal times (default: 7)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Exit code 0 when every record was acknowledged."""
    console = Console(stderr=True)
    if args.speed is not None and not args.speed > 0:
        raise DataError(f"--speed must be greater than 0, not {args.speed}")
    events, items = _read(args, settings, console)
    events = events[: args.limit] if args.limit is not None else events
    asyncio.run(_produce(settings, events, items, Pace(args.speed), console))
    return 0


def _read(
    args: argparse.Namespace, settings: Settings, console: Console
) -> tuple[Sequence[Keyed], Sequence[Keyed]]:
    if args.source in datasets.DATASETS:
        folder = datasets.fetch(args.source, settings.cache_dir, args.data, say=console.print)
        data = datasets.load(args.source, folder)
        order = datasets.time_order([i.timestamp_ms for i in data.interactions], args.seed)
        events = [event_record(data.interactions[i]) for i in order.tolist()]
        own = [item_record(item) for item in data.items]
    else:
        events, own = list(read_events(Path(args.source))), None
    if args.items is None:
        return events, []
    if args.items:
        return events, list(read_items(Path(args.items)))
    if own is None:
        raise DataError("--items needs a FILE here: a file of events carries no catalogue")
    return events, own


def event_record(event: datasets.Interaction) -> Keyed:
    """The event as it lies on `events`."""
    value = _encode_event(
        Event(
            event.event_id,
            event.user_id,
            event.type,
            event.timestamp_ms,
            item_id=event.item_id,
            value=event.value,
        )
    )
    return Keyed(event.user_id.encode(), value, event.timestamp_ms)


def item_record(item: ItemRecord) -> Keyed:
    """The item as it lies on `items`."""
    return Keyed(item.item_id.encode(), encode(item), 0)


def read_events(path: Path) -> Iterator[Keyed]:
    """JSON-lines events, as they are. Raises DataError for a line without user_id and timestamp_ms."""
    decoder = msgspec.json.Decoder(_Line)
    for where, line in _lines(path):
        try:
            event = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise DataError(f"{where} is no event: {error}: {line[:80]!r}") from error
        yield Keyed(event.user_id.encode(), line, event.timestamp_ms)


def read_items(path: Path) -> Iterator[Keyed]:
    """JSON-lines items. Raises DataError for a line that is none."""
    decoder = msgspec.json.Decoder(ItemRecord)
    for where, line in _lines(path):
        try:
            item = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise DataError(f"{where} is no item: {error}: {line[:80]!r}") from error
        yield Keyed(item.item_id.encode(), line, 0)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()
    except OSError as error:
        known = ", ".join(datasets.DATASETS)
        raise DataError(
            f"cannot read {path}: {error.strerror}; it is no known data set either ({known})"
        ) from error


def kafka_partitioner(kind: str) -> Callable[[bytes, Sequence[int], Sequence[int]], int]:
    """Place keys as the setting demands (off: murmur2, aiokafka's own); for its `partitioner` option."""
    partition = Partitioner(kind).partition  # type: ignore[arg-type]
    return lambda key, every, available: sorted(every)[partition(key, len(every))]


def open_producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """A producer whose records land where the worker expects them. To be started; needs a running loop."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.brokers,
        acks="all",
        enable_idempotence=True,
        partitioner=kafka_partitioner(settings.partitioner),
        **{
            "linger_ms": 5,
            "max_batch_size": 1 << 17,
            "max_request_size": 2 << 20,
            **settings.kafka_options(),
            **options,
        },
    )


async def send_all(
    producer: AIOKafkaProducer,
    topic: str,
    records: Iterable[Keyed],
    pace: Pace,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Sent]:
    """Send in order, at `pace`; `advance` hears now and then how many went out.

    Raises BrokerUnavailable when the broker refuses a record.
    """
    sent: list[Sent] = []
    pending: list[tuple[asyncio.Future[RecordMetadata], float]] = []
    start_s, first_ms = time.monotonic(), None
    for position, record in enumerate(records):
        first_ms = record.timestamp_ms if first_ms is None else first_ms
        offset_s = pace.due_s(position, record.timestamp_ms - first_ms)
        due_s = time.monotonic() if offset_s is None else start_s + offset_s
        await _until(due_s)
        pending.append((await producer.send(topic, record.value, key=record.key), due_s))
        if len(pending) >= FLUSH_EVERY:
            sent += await _acknowledged(topic, pending)
        if offset_s is not None or position % 100 == 0:
            advance(position + 1)
    sent += await _acknowledged(topic, pending)
    advance(len(sent))
    return sent


async def _until(due_s: float) -> None:
    while (wait_s := due_s - time.monotonic()) > 0:
        await asyncio.sleep(min(wait_s, MAX_SLEEP_S))


async def _acknowledged(
    topic: str, pending: list[tuple[asyncio.Future[RecordMetadata], float]]
) -> list[Sent]:
    try:
        acknowledged = await asyncio.gather(*(future for future, _ in pending))
    except KafkaError as error:
        raise BrokerUnavailable(f"the broker did not take a record of {topic!r}: {error!r}") from error
    sent = [Sent(m.partition, m.offset, due_s) for m, (_, due_s) in zip(acknowledged, pending, strict=True)]
    pending.clear()
    return sent


async def _produce(
    settings: Settings, events: Sequence[Keyed], items: Sequence[Keyed], pace: Pace, console: Console
) -> None:
    producer = open_producer(settings)
    try:
        try:
            await producer.start()
        except KafkaConnectionError as error:
            raise BrokerUnavailable(f"no Kafka broker answers at {settings.brokers}: {error}") from error
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            for name, records, speed in (("items", items, Pace()), ("events", events, pace)):
                if records:
                    task = progress.add_task(name, total=len(records))
                    advance = partial(_advance, progress, task)
                    await send_all(producer, settings.topic(name), records, speed, advance)
    finally:
        await producer.stop()
    console.print(f"{len(events)} events are on [bold]{settings.topic('events')}[/bold]")


def _advance(progress: Progress, task: TaskID, n: int) -> None:
    progress.update(task, completed=n)
