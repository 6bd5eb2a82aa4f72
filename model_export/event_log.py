"""Where an event log comes from: a data set by name, a folder or file of a known format, any table, or the Kafka topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_export.interactions import REQUESTS, Interactions, InteractionsBuilder
from model_export.loaders import FORMATS, format_of
from model_export.loaders.catalogues import read_items
from model_export.loaders.generic import EVENT_COLUMNS, read_events
from model_export.loaders.graphs import read_graph
from model_export.loaders.movielens import read_100k
from model_export.loaders.tables import TABLES, kind_of
from streamer import datasets
from streamer.core.event_types import REFRESH, EventTypes
from streamer.core.events import EventDecoder, Rejected
from streamer.core.protocol import ItemRecord, decode_item
from streamer.errors import DataError

__all__ = ["CACHE", "EVENT_COLUMNS", "KAFKA", "LogOptions", "load_log"]

KAFKA = "kafka://"
CACHE = Path("~/.cache/headwater")

Say = Callable[[str], None]


@dataclass(frozen=True)
class LogOptions:
    """How to read a log that does not explain itself."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """One of EVENT_COLUMNS → what the file calls it."""
    items: str | None = None
    """The catalogue: a table, or a topic when the log is one."""
    until: Mapping[int, int] | None = None
    """Partition → offset (exclusive) at which a topic is taken to end."""
    cache: Path = CACHE
    """Where fetched data sets are kept."""
    graph: Path | None = None
    """A table of friends."""
    time_format: str | None = None
    """Of strptime, for a table's times that are neither numbers nor ISO 8601."""


def load_log(
    source: str | Iterable[str], types: EventTypes, options: LogOptions | None = None, say: Say = print
) -> Interactions:
    """The log at `source`, or several logs as one: `ml-100k`, a folder, a file, or kafka://HOST:PORT,…/TOPIC each.

    `TYPE=FILE` gives all events of a table that type. Events keep the order in which they were read. Raises DataError when
    a log is missing, empty or unreadable, and BrokerUnavailable.
    """
    options = options or LogOptions()
    builder = InteractionsBuilder(types)
    sources = [source] if isinstance(source, str) else list(source)
    if options.items is not None and not any(each.startswith(KAFKA) for each in sources):
        read_items(Path(options.items).expanduser(), builder)
    for each in sources:
        before = len(builder)
        if each.startswith(KAFKA):
            _read_topic(each, types, options, builder, say)
        elif each in datasets.DATASETS:
            read_100k(each, datasets.fetch(each, options.cache.expanduser(), say=say), builder)
        else:
            _read_path(each, types, options, builder)
        if len(builder) == before:
            raise DataError(f"{each} holds no event{_why(builder)}")
    if options.graph is not None:
        read_graph(options.graph.expanduser(), builder)
    if builder.left_out:
        say("left out: " + ", ".join(f"{times:,} {what}" for what, times in builder.left_out.items()))
    return builder.build()


def _why(builder: InteractionsBuilder) -> str:
    return "".join(f"; {times:,} {what} were left out" for what, times in builder.left_out.items())


def _read_path(source: str, types: EventTypes, options: LogOptions, builder: InteractionsBuilder) -> None:
    name, equals, rest = source.partition("=")
    kind = name if equals and name in types.by_name else None
    path = Path(rest if kind else source).expanduser()
    if path.is_dir() and _read_100k_folder(path, builder):
        return
    form = None if kind or options.columns else format_of(path)
    if form is not None:
        form.read(path, builder)
    elif path.is_file() and kind_of(path) in TABLES:
        read_events(path, options.columns, builder, type=kind, time_format=options.time_format)
    elif path.exists():
        raise DataError(
            f"{path} is no log that can be read: give a table ({', '.join(TABLES)}, also .gz) "
            f"or a folder of {', '.join(form.name for form in FORMATS)}"
        )
    else:
        raise DataError(
            f"there is no event log at {path}: give a file, a folder, {KAFKA}HOST:PORT/TOPIC "
            f"or one of {', '.join(datasets.DATASETS)}"
        )


def _read_100k_folder(folder: Path, builder: InteractionsBuilder) -> bool:
    """Parsed exactly as it is published, so that the texts agree; False where the folder is another one."""
    for name in datasets.DATASETS:
        try:
            read_100k(name, datasets.fetch(name, folder, folder), builder)
            return True
        except DataError:
            if any((folder / f"{name}{ending}").exists() for ending in (".inter", ".item")):
                raise
    return False


def _read_topic(
    source: str, types: EventTypes, options: LogOptions, builder: InteractionsBuilder, say: Say
) -> None:
    """Events as the worker takes them: rejected ones are left out, so are repeats of a user's event_id."""
    from streamer.transport.log_reader import read_log

    brokers, _, topic = source.removeprefix(KAFKA).partition("/")
    if not brokers or not topic:
        raise DataError(f"{source!r} names no topic: write {KAFKA}HOST:PORT/TOPIC")
    items = options.items or (topic.removesuffix("events") + "items" if topic.endswith("events") else None)
    if items is not None:
        for record in read_log(brokers, items):
            item = decode_item(record.value, record.key)
            if isinstance(item, ItemRecord):
                builder.add_item(item)
    decoder = EventDecoder(types, None, 1)
    known: set[tuple[str, str]] = set()
    taken = rejected = 0
    for record in read_log(brokers, topic, until=options.until):
        event = decoder.decode(record.value, record.key, record.partition, record.timestamp_ms)
        if isinstance(event, Rejected):
            rejected += 1
        elif event.type == REFRESH:
            builder.leave_out(REQUESTS)
        elif (event.user_id, event.event_id) not in known:
            taken += 1
            known.add((event.user_id, event.event_id))
            time_ms = min(event.timestamp_ms, record.timestamp_ms)  # as the worker counts it
            builder.add(
                event.user_id,
                event.item_id,
                event.type,
                time_ms,
                event.value,
                event.text,
                event.target_user_id,
            )
    say(f"{topic}: {taken} events read, {rejected} left out that a worker rejects")
