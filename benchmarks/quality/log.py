"""An event log as the benchmark judges it: cleaned, in time order, ties shuffled, people and items as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.quality.graph import friends_of
from benchmarks.quality.kinds import clipped, event_types, with_follow
from benchmarks.quality.reading import first_column, read_columns
from benchmarks.quality.times import joined, milliseconds
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.datasets import split_at, time_order
from streamer.errors import DataError

Rows = NDArray[np.int64]

MISSING = ("", "nan", "none", "null", "na", "n/a", "<na>", "nat", "\\n")
LATEST_MS = 4_000_000_000_000
"""2096: later time stamps are taken for wrong ones."""
CROWD_SHARE, CROWD_USERS = 0.1, 200
"""A user id with a tenth of the events of a log with many users is no person but what unknown visitors are put down to."""
MAX_EVENTS = 1_000_000
"""Of a longer log the last ones are taken, so that a run ends."""
MIN_EVENTS = 20


@dataclass(frozen=True)
class Source:
    """Which file, and what it calls what. `time` may be several columns, separated by commas."""

    events: Path
    user: str
    item: str
    time: str | None
    type: str | None = None
    value: str | None = None
    items: Path | None = None
    item_text: tuple[str, ...] = ()
    graph: Path | None = None


@dataclass(frozen=True)
class Log:
    """n events in time order. `user` and `item` are rows of `users` and `items` (N)."""

    user: Rows
    item: Rows
    type: NDArray[np.uint8]
    value: NDArray[np.float32]
    """NaN where the event has none."""
    time_ms: Rows
    users: int
    items: list[ItemRecord]
    """Named by their row; title: the item's text."""
    has_text: bool
    types: EventTypes
    notes: tuple[str, ...]
    """What was left out or assumed, one sentence each."""
    friends: Rows = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(F, 2) users by row, each pair once."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice | Rows) -> Log:
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            type=self.type[rows],
            value=self.value[rows],
            time_ms=self.time_ms[rows],
        )

    def of_users(self, row: Rows) -> Log:
        """Events of the users with a row (users,), by which they are then called; -1: left out."""
        rows = np.flatnonzero(row[self.user] >= 0)
        return replace(self.take(rows), user=row[self.user[rows]], users=int(row.max()) + 1)

    def repeats(self) -> bool:
        """Whether any user meets an item twice: then what was consumed may come again, and nothing is masked."""
        pairs = self.user * len(self.items) + self.item
        return len(np.unique(pairs)) < len(pairs)

    def split(self, fraction: float) -> int:
        """How many events train; a moment is never cut in two. Raises DataError when a side would be empty."""
        cut = split_at(self.time_ms, fraction)
        if cut == 0:  # the first moment is larger than the share: it trains as a whole
            cut = int(np.searchsorted(self.time_ms, self.time_ms[0], side="right"))
        if cut >= len(self):
            raise DataError(
                "all events carry the same time stamp: a log without an order in time is no prequential evidence, "
                "judge it with --protocol leave-one-out"
            )
        return cut

    def masked(self, consumes: bool) -> Log:
        """The same log, with types of which all or none keep their items from coming again."""
        return replace(self, types=EventTypes([replace(each, consumes=consumes) for each in self.types]))


def load(source: Source, seed: int, *, max_events: int = MAX_EVENTS) -> Log:
    """Read, clean and order a log. Raises DataError with what to mend."""
    frame, notes = _events(source)
    frame, more = _cleaned(frame, max_events)
    notes += more
    names, values = (frame[name] if getattr(source, name) else None for name in ("type", "value"))
    types, codes = event_types(names, values, len(frame))
    user, item = (frame[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user", "item"))
    friends = np.zeros((0, 2), np.int64)
    if source.graph is not None:
        ids = frame["user"].unique().sort()
        friends, told = friends_of(source.graph, _ids, {name: row for row, name in enumerate(ids.to_list())})
        types, notes = with_follow(types), [*notes, told]
    items, has_text, said = _items(source, frame["item"].unique().sort().to_list())
    order = time_order(frame["time"].to_numpy(), seed)
    return Log(
        user=user[order],
        item=item[order],
        type=codes[order],
        value=clipped(values, len(frame))[order],
        time_ms=frame["time"].to_numpy().astype(np.int64)[order],
        users=int(user.max()) + 1,
        items=items,
        has_text=has_text,
        types=types,
        notes=(*notes, *said),
        friends=friends,
    )


def _events(source: Source) -> tuple[pl.DataFrame, list[str]]:
    wanted = {"user": source.user, "item": source.item}
    wanted |= {name: column for name in ("type", "value") if (column := getattr(source, name)) is not None}
    times = _time_columns(source)
    found = read_columns(source.events, list(dict.fromkeys([*wanted.values(), *times])))
    found = found.filter(~pl.all_horizontal(pl.all().is_null()))
    if not len(found):
        raise DataError(f"{source.events} holds no event")
    columns = {name: found[column].alias(name) for name, column in wanted.items()}
    notes = []
    if times:
        raw = found[times[0]] if len(times) == 1 else joined(found, times)
        columns["time"], unit = milliseconds(raw)
        notes.append(f"{source.time} read as {unit}")
    else:
        columns["time"] = pl.Series("time", np.arange(len(found), dtype=np.int64))
    nothing = pl.Series("type", [None] * len(found), dtype=pl.String)
    columns["type"] = _ids(columns["type"]) if "type" in columns else nothing
    columns["value"] = columns.get("value", nothing).cast(pl.Float64, strict=False)
    columns |= {name: _ids(columns[name]) for name in ("user", "item")}
    return pl.DataFrame([column.alias(name) for name, column in columns.items()]), notes


def _time_columns(source: Source) -> list[str]:
    if source.time is None:
        return []
    return [name.strip() for name in source.time.split(",")]


def _ids(column: pl.Series) -> pl.Series:
    """Ids as text: 17850.0 is 17850, blanks around are cut, and what means "nothing" is null."""
    if column.dtype.is_float():
        whole = (
            column.drop_nulls().is_finite().all()
            and (column.drop_nulls() == column.drop_nulls().round(0)).all()
        )
        column = column.cast(pl.Int64, strict=False) if whole else column
    if column.dtype == pl.Binary:
        column = column.cast(pl.String, strict=False)
    try:
        text = column.cast(pl.String, strict=False).str.strip_chars()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column {column.name!r} holds {column.dtype}, which is no id: name another column"
        ) from error
    return text.set(text.str.to_lowercase().is_in(MISSING).fill_null(True), None)


def _cleaned(frame: pl.DataFrame, max_events: int) -> tuple[pl.DataFrame, list[str]]:
    notes: list[str] = []

    def left(what: pl.DataFrame, why: str) -> pl.DataFrame:
        nonlocal frame
        gone = len(frame) - len(what)
        if gone:
            notes.append(f"{gone:,} events left out: {why}")
        frame = what
        return what

    left(frame.drop_nulls(["user", "item", "time"]), "user, item or time is missing or cannot be read")
    left(frame.filter(pl.col("time").is_between(0, LATEST_MS)), "their time lies before 1970 or after 2096")
    left(
        frame.unique(["user", "item", "time", "type"], maintain_order=True),
        "another has the same user, item, time and type",
    )
    if len(frame):
        users = frame["user"].value_counts(sort=True)
        if len(users) >= CROWD_USERS and users["count"][0] >= CROWD_SHARE * len(frame):
            name = users["user"][0]
            left(
                frame.filter(pl.col("user") != name),
                f"user {name!r} has {users['count'][0] / len(frame):.0%} of all events, so it stands for unknown visitors",
            )
    if len(frame) > max_events:
        left(
            frame.sort("time", maintain_order=True).tail(max_events),
            f"only the last {max_events:,} are judged",
        )
    if len(frame) < MIN_EVENTS:
        why = "; ".join(notes) or "the file holds no more"
        raise DataError(
            f"{len(frame)} usable events are too few to judge anything (at least {MIN_EVENTS}): {why}"
        )
    if frame["user"].n_unique() < 2 or frame["item"].n_unique() < 2:
        raise DataError(
            f"the log has {frame['user'].n_unique()} user(s) and {frame['item'].n_unique()} item(s): "
            "there is nothing to choose between; check which columns are named as --user and --item"
        )
    return frame, notes


def _items(source: Source, ids: Sequence[str]) -> tuple[list[ItemRecord], bool, list[str]]:
    """The catalogue: items of the log, in the order of `ids`, then those that only the items' file knows."""
    texts: dict[str, str] = {}
    if source.items is not None:
        texts = _texts(source)
    matched = sum(item_id in texts for item_id in ids)
    notes = []
    if source.items is not None:
        notes.append(f"{matched:,} of {len(ids):,} items have a row in {source.items.name}")
        if not matched:
            raise DataError(
                f"no item of {source.events.name} is in {source.items.name}: its id column must be named {source.item!r}, "
                "or be its first column"
            )
    records = [ItemRecord(str(row), texts.get(item_id, "")) for row, item_id in enumerate(ids)]
    return records, any(record.title for record in records), notes


def _texts(source: Source) -> dict[str, str]:
    """Id → text of the items' file. Its id column is called as in the log, or else is the first of the file."""
    assert source.items is not None
    if not source.item_text:
        raise DataError("--items needs --item-text COLS: which columns hold titles and descriptions")
    try:
        frame = read_columns(source.items, [source.item, *source.item_text])
        key = source.item
    except DataError:
        key = first_column(source.items)
        frame = read_columns(source.items, list(dict.fromkeys([key, *source.item_text])))
    ids = _ids(frame[key])
    parts = [
        frame[name].cast(pl.String, strict=False).fill_null("").str.strip_chars() for name in source.item_text
    ]
    texts: dict[str, str] = {}
    for item_id, *words in zip(ids.to_list(), *(part.to_list() for part in parts), strict=True):
        if item_id is not None and item_id not in texts:
            texts[item_id] = ". ".join(word for word in words if word)[:4000]
    return texts
