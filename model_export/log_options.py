"""The options of a log on the command line, and the log that they name."""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from model_export.cleaning import clean
from model_export.event_log import CACHE, EVENT_COLUMNS, KAFKA, LogOptions, load_log
from model_export.interactions import Interactions
from model_export.loaders import FORMATS
from streamer.core.event_types import EventTypes
from streamer.errors import DataError


def add_log(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="LOG",
        help=f"ml-100k, a folder or file of {', '.join(form.name for form in FORMATS)}, a table of events (.csv, .tsv, "
        f".parquet, .jsonl), TYPE=TABLE, or {KAFKA}HOST:PORT/TOPIC; several logs become one",
    )
    command.add_argument(
        "--items",
        metavar="FILE",
        help="the catalogue: a table (.csv, .parquet, .jsonl), or a topic of a log that is one",
    )
    command.add_argument("--graph", type=Path, metavar="FILE", help="a table of friends: user_id, friend_id")
    command.add_argument(
        "--time-format",
        metavar="FORMAT",
        help="of a table's times, as strptime has it: '%%d.%%m.%%Y %%H:%%M'",
    )
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help=f"what a table calls {', '.join(EVENT_COLUMNS)}; usual names are found without",
    )
    command.add_argument(
        "--until",
        metavar="P:OFFSET,…",
        help="where each partition of a topic is taken to end (default: where it ends now)",
    )
    command.add_argument(
        "--event-types",
        type=Path,
        metavar="FILE",
        help="TOML file with [[event_types]], as the worker reads it",
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="fetched data and the text encoder (default: %(default)s)",
    )


def read_log(args: argparse.Namespace, types: EventTypes, console: Console) -> Interactions:
    """The log, cleaned. Raises DataError."""
    options = LogOptions(
        _columns(args.column), args.items, _offsets(args.until), args.cache, args.graph, args.time_format
    )
    data = load_log(args.data, types, options, say=console.print)
    data = clean(data, types, round(time.time() * 1000), say=console.print)
    days = (int(np.max(data.timestamp_ms)) - int(np.min(data.timestamp_ms))) / 86_400_000
    console.print(
        f"{len(data):,} events of {len(data.users):,} users on {len(data.items):,} items in {days:,.0f} days"
    )
    return data


def _columns(given: Sequence[str]) -> dict[str, str]:
    columns = {}
    for each in given:
        name, equals, column = each.partition("=")
        if not equals or not column:
            raise DataError(f"--column {each!r} is not NAME=COLUMN, as in --column user_id=uid")
        columns[name] = column
    return columns


def _offsets(given: str | None) -> dict[int, int] | None:
    if given is None:
        return None
    try:
        return {
            int(partition): int(offset)
            for partition, _, offset in (each.partition(":") for each in given.split(","))
        }
    except ValueError as error:
        raise DataError(
            f"--until {given!r} is not PARTITION:OFFSET,…, as in --until 0:1200,1:1180"
        ) from error


def read_event_types(file: Path | None) -> EventTypes:
    """Raises DataError for an unreadable file, SettingsError for a wrong table."""
    if file is None:
        return EventTypes.DEFAULT
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("event_types")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read event types from {file}: {error}") from error
    if table is None:
        raise DataError(f"{file} has no [[event_types]]: leave --event-types out, or list them there")
    return EventTypes.from_table(table)
