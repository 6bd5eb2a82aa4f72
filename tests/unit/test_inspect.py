from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rocksdict
from rich.console import Console

from streamer.cli import inspect
from streamer.core.columns import EventColumns
from streamer.core.event_fields import EventFields
from streamer.core.event_types import EventTypes
from streamer.core.events import Event
from streamer.core.hashing import label_hash
from streamer.core.protocol import ItemRecord
from streamer.core.state_records import segment_key
from streamer.core.user_state import UserStates
from streamer.transport.log_reader import LogRecord

TYPES = EventTypes.DEFAULT
EVENTS = 40
"""Two sealed segments and an open one."""


@pytest.fixture
def records() -> dict[bytes, bytes]:
    """What the table holds of user `u` after EVENTS ratings of item `50`, one a minute."""
    table: dict[bytes, bytes] = {}
    labels = np.zeros((1, 6), np.uint32)
    labels[0, 0] = label_hash("Drama")
    for n in range(EVENTS):
        states = UserStates.load([b"u"], table.get, 4, 100, TYPES)
        event = Event(f"e{n}", "u", "rating", n * 60_000, item_id="50", value=4.0)
        one = np.zeros(1, np.int64)
        columns = EventColumns.of(
            EventFields.of([event], TYPES),
            one,
            one + n,
            one - 1,
            lambda items: (np.ones(1, np.bool_), labels),
        )
        states.absorb(one, columns)
        table.update(pair for user in states.changes().groups() for pair in user)
    return table


def shown(table: dict[bytes, bytes], names: inspect.Names) -> str:
    screen = io.StringIO()
    panel = inspect.state_panel("u", table.get, "here", names, TYPES, last=3)
    Console(file=screen, width=120).print(panel)
    return " ".join(screen.getvalue().split())


def test_a_state_is_shown_in_words(records: dict[bytes, bytes]) -> None:
    names = inspect.Names()
    names.add(ItemRecord("50", "Star Wars (1977)", categories=["Drama"]))
    text = shown(records, names)
    assert "version.revision 40.0" in text
    assert "the last 3 of the 40 events" in text
    assert "1970-01-01 00:39:00 rating Star Wars (1977) 4" in text
    assert "rating 40 40 40" in text
    assert "Drama" in text


def test_without_the_catalogue_hashes_are_shown(records: dict[bytes, bytes]) -> None:
    assert f"{label_hash('Drama'):08x}" in shown(records, inspect.Names())


def test_a_users_records_are_found_in_the_partition_that_has_them(
    records: dict[bytes, bytes], tmp_path: Path
) -> None:
    for partition, rows in ((0, {b"hother": records[b"hu"]}), (1, records)):
        db = rocksdict.Rdict(
            str(tmp_path / "tables" / f"users-{partition}.db"), rocksdict.Options(raw_mode=True)
        )
        for key, value in rows.items():
            db[key] = value
        if partition == 1:  # a running worker: the database stays open
            found = inspect._from_table(tmp_path, b"u")
            assert found is not None
            assert {key: found[0](key) for key in records} == records
        db.close()
    assert inspect._from_table(tmp_path, b"nobody") is None


def test_the_changelogs_newest_record_is_the_one_applied_last(records: dict[bytes, bytes]) -> None:
    kept: dict[bytes, bytes] = {}
    empty: dict[bytes, bytes] = {}
    old = UserStates.load([b"u"], empty.get, 4, 100, TYPES)
    old.touch(np.zeros(1, np.int64))
    stale = old.changes().groups()[0][-1][1]  # a zombie's: applied -1
    for key, value in (
        (b"hu", records[b"hu"]),
        (b"hu", stale),
        (b"hv", stale),
        (segment_key(b"v", 0), stale),
    ):
        inspect.take_newest(kept, LogRecord(0, 0, 0, key, value), b"u")
    assert kept == {b"hu": records[b"hu"]}
    inspect.take_newest(kept, LogRecord(0, 0, 0, b"hu", None), b"u")
    assert kept == {}
