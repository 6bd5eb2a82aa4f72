"""Where an event log comes from: a data set by name, a RecBole or GroupLens folder, CSV, Parquet, or the Kafka topic itself.

RecBole's atomic files (Zhao et al. 2021, arXiv:2011.01731) are tab-separated, their header names each column and its type:
`user_id:token  item_id:token  rating:float  timestamp:float`, timestamps in seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from model_export.interactions import Interactions, InteractionsBuilder
from streamer import datasets
from streamer.core.event_types import EventTypes
from streamer.core.events import EventDecoder, Rejected
from streamer.core.protocol import ItemRecord, decode_item
from streamer.errors import DataError

KAFKA = "kafka://"
CACHE = Path("~/.cache/headwater")
EVENT_COLUMNS = ("user_id", "item_id", "type", "value", "text", "timestamp_ms", "timestamp_s")
"""What a CSV or Parquet file may hold; user_id, item_id and one of the timestamps it must."""

_TITLES = ("title", "movie_title", "name", "item_name")
_YEARS = ("release_year", "year")
_CATEGORIES = ("categories", "class", "genre", "genres", "category")

Row = Mapping[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class LogOptions:
    """How to read a log that does not explain itself."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """One of EVENT_COLUMNS → what the file calls it."""
    items: str | None = None
    """The catalogue: a .csv, .parquet or .jsonl file, or a topic when the log is one."""
    until: Mapping[int, int] | None = None
    """Partition → offset (exclusive) at which a topic is taken to end."""
    cache: Path = CACHE
    """Where fetched data sets are kept."""


def load_log(
    source: str, types: EventTypes, options: LogOptions | None = None, say: Say = print
) -> Interactions:
    """The log at `source`: `ml-100k`, a folder, a .csv or .parquet file, or kafka://HOST:PORT,…/TOPIC.

    Events keep the order in which they were read. Raises DataError when the log is missing, empty or unreadable, and
    BrokerUnavailable.
    """
    options = options or LogOptions()
    builder = InteractionsBuilder(types)
    if source.startswith(KAFKA):
        _read_topic(source, types, options, builder, say)
    elif source in datasets.DATASETS:
        _read_dataset(source, datasets.fetch(source, options.cache.expanduser(), say=say), builder)
    else:
        _read_path(Path(source).expanduser(), options, builder)
    if not len(builder):
        raise DataError(f"{source} holds no event")
    return builder.build()


def _read_path(path: Path, options: LogOptions, builder: InteractionsBuilder) -> None:
    if path.is_dir():
        _read_folder(path, builder)
    elif path.suffix in (".csv", ".parquet") and path.is_file():
        if options.items is not None:
            _read_items(Path(options.items).expanduser(), builder)
        _read_table(path, options.columns, builder)
    elif path.exists():
        raise DataError(f"{path} is no log that can be read: give a .csv, a .parquet or a RecBole folder")
    else:
        raise DataError(
            f"there is no event log at {path}: give a file, a folder, {KAFKA}HOST:PORT/TOPIC "
            f"or one of {', '.join(datasets.DATASETS)}"
        )


def _read_folder(folder: Path, builder: InteractionsBuilder) -> None:
    for name in datasets.DATASETS:  # parsed exactly as it is published, so that the texts agree
        try:
            _read_dataset(name, datasets.fetch(name, folder, folder), builder)
            return
        except DataError:
            if any((folder / f"{name}{ending}").exists() for ending in (".inter", ".item")):
                raise
    logs = sorted(folder.glob("*.inter"))
    if len(logs) != 1:
        found = ", ".join(log.name for log in logs) or "none"
        raise DataError(
            f"{folder} must hold exactly one .inter file (found: {found}), or be a GroupLens folder"
        )
    for row in _atomic_rows(logs[0].with_suffix(".item")):
        builder.add_item(_item_of(row))
    for number, row in enumerate(_atomic_rows(logs[0]), 2):
        where = f"{logs[0].name}:{number}"
        value = row.get("rating")
        builder.add(
            _text_of(row, "user_id", where),
            _text_of(row, "item_id", where),
            "view" if value is None else "rating",
            _time_ms(row, "timestamp", 1000, where),
            None if value is None else _number_of(row, "rating", where),
        )


def _read_dataset(name: str, folder: Path, builder: InteractionsBuilder) -> None:
    found = datasets.load(name, folder)
    for item in found.items:
        builder.add_item(item)
    for event in found.interactions:
        builder.add(event.user_id, event.item_id, event.type, event.timestamp_ms, event.value)


def _atomic_rows(file: Path) -> Iterator[dict[str, str]]:
    """Rows of a RecBole atomic file by column name without type; none where the file does not exist."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [name.partition(":")[0] for name in next(reader, [])]
        for row in reader:
            yield dict(zip(names, row, strict=False))


def _item_of(row: Row) -> ItemRecord:
    title = next((str(row[name]) for name in _TITLES if row.get(name)), "")
    year = next((str(row[name]) for name in _YEARS if row.get(name)), "")
    categories: Any = next((row[name] for name in _CATEGORIES if row.get(name)), [])
    if isinstance(categories, str):
        categories = categories.split("|" if "|" in categories else None)
    return ItemRecord(
        _text_of(row, "item_id", "the catalogue"),
        f"{title} ({year})" if title and year.isdigit() else title,
        text=str(row.get("text") or ""),
        categories=[str(each) for each in categories],
    )


def _read_table(file: Path, names: Mapping[str, str], builder: InteractionsBuilder) -> None:
    unknown = sorted(set(names) - set(EVENT_COLUMNS))
    if unknown:
        raise DataError(f"{unknown[0]!r} is no column of an event log: map any of {', '.join(EVENT_COLUMNS)}")
    column = {name: names.get(name, name) for name in EVENT_COLUMNS}
    found, rows = _table(file)
    timestamp = next((name for name in ("timestamp_ms", "timestamp_s") if column[name] in found), None)
    wanted = [column[name] for name in ("user_id", "item_id", *names)]
    missing = [name for name in wanted if name not in found]
    if missing or timestamp is None:
        lacking = missing[0] if missing else "timestamp_ms (or timestamp_s)"
        raise DataError(
            f"{file.name} has no column {lacking!r}, only {', '.join(found)}: map it with --column NAME=COLUMN"
        )
    scale = 1 if timestamp == "timestamp_ms" else 1000
    for number, row in enumerate(rows, 1):
        where = f"{file.name}, row {number}"
        value = row.get(column["value"])
        item = row.get(column["item_id"])
        builder.add(
            _text_of(row, column["user_id"], where),
            None if item is None or item == "" else str(item),
            str(row.get(column["type"]) or ("view" if value in (None, "") else "rating")),
            _time_ms(row, column[timestamp], scale, where),
            None if value in (None, "") else _number_of(row, column["value"], where),
            str(row.get(column["text"]) or "") or None,
        )


def _table(file: Path) -> tuple[Sequence[str], Iterable[Row]]:
    """Column names and rows of a .csv or .parquet file."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            return list(reader.fieldnames or ()), list(reader)
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from error
    return opened.schema_arrow.names, (row for batch in opened.iter_batches() for row in batch.to_pylist())


def _read_items(file: Path, builder: InteractionsBuilder) -> None:
    if not file.is_file():
        raise DataError(f"there is no catalogue at {file}")
    if file.suffix == ".jsonl":
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if line.strip():
                builder.add_item(_item_of_line(line, f"{file.name}:{number}"))
    elif file.suffix in (".csv", ".parquet"):
        for row in _table(file)[1]:
            builder.add_item(_item_of(row))
    else:
        raise DataError(f"{file} is no catalogue that can be read: give a .csv, .parquet or .jsonl file")


def _item_of_line(line: bytes, where: str) -> ItemRecord:
    """An `items` record without its key."""
    try:
        item_id = msgspec.json.decode(line, type=ItemRecord).item_id
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is no item: {error}") from error
    record = decode_item(line, item_id.encode())
    if not isinstance(record, ItemRecord):
        raise DataError(f"{where}: {record.detail if record is not None else 'no item'}")
    return record


def _text_of(row: Row, name: str, where: str) -> str:
    found = row.get(name)
    if found is None or found == "":
        raise DataError(f"{where}: {name!r} is empty")
    return str(found)


def _time_ms(row: Row, name: str, scale: int, where: str) -> int:
    """A number of milliseconds (scale 1) or seconds (1000), or a Parquet timestamp, taken as UTC if it has no zone."""
    found = row.get(name)
    if isinstance(found, datetime):
        aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    return int(_number_of(row, name, where) * scale)


def _number_of(row: Row, name: str, where: str) -> float:
    found = row.get(name)
    try:
        return float(found)  # type: ignore[arg-type]  # whatever it is, the next line says so
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name!r} is {found!r}, which is no number") from error


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
    rejected = 0
    for record in read_log(brokers, topic, until=options.until):
        event = decoder.decode(record.value, record.key, record.partition, record.timestamp_ms)
        if isinstance(event, Rejected):
            rejected += 1
        elif (event.user_id, event.event_id) not in known:
            known.add((event.user_id, event.event_id))
            time_ms = min(event.timestamp_ms, record.timestamp_ms)  # as the worker counts it
            builder.add(event.user_id, event.item_id, event.type, time_ms, event.value, event.text)
    say(f"{topic}: {len(builder)} events read, {rejected} left out that a worker rejects")
