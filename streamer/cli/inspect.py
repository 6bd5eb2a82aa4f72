"""`headwater inspect user U`: a user's decoded state, out of a worker's table or out of the changelog."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import rocksdict
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from streamer.core.event_types import EventTypes
from streamer.core.hashing import item_hash, label_hash
from streamer.core.protocol import ItemRecord
from streamer.core.rolling_counts import LEVELS
from streamer.core.state_records import SEGMENT_EVENTS, head_key, past_prefix
from streamer.core.user_state import UserStates, applied
from streamer.errors import BrokerUnavailable, DataError
from streamer.settings import Settings
from streamer.transport.log_reader import LogRecord, iter_log
from streamer.transport.topics import TABLE, changelog_topic

_HIDDEN_AT = slice(10, 12)
"""Where a head says how long its GRU state is (core.state_records.head_dtype)."""
_SLOTS_AT = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["user"], help="what to look at")
    parser.add_argument("user", metavar="U", help="the user's id")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=["table", "changelog"],
        help="this worker's RocksDB (HEADWATER_STATE_DIR) or the changelog (default: whichever has the user)",
    )
    parser.add_argument(
        "--last", type=int, default=10, metavar="N", help="events of the window to show (default: 10)"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    console = Console(highlight=False)
    user = args.user.encode()
    found = _from_table(settings.state_dir, user) if args.origin != "changelog" else None
    if found is None and args.origin != "table":
        found = asyncio.run(_from_changelog(settings, user))
    if found is None:
        looked = {"table": f"the tables below {settings.state_dir}", "changelog": "the changelog"}
        where = looked.get(args.origin or "", " or ".join(looked.values()))
        console.print(f"no state of user {args.user!r} in {where}", style="yellow")
        return 1
    records, where = found
    names = asyncio.run(_names(settings))
    console.print(state_panel(args.user, records, where, names, settings.event_types, args.last))
    return 0


@dataclass
class Names:
    """What hashes stand for, as far as `items` tells."""

    items: dict[int, str] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)

    def add(self, item: ItemRecord) -> None:
        self.items[item_hash(item.item_id)] = item.title or item.item_id
        self.labels.update((label_hash(category), category) for category in item.categories)


async def _names(settings: Settings) -> Names:
    """Empty where no broker answers: the state is then shown with hashes."""
    names, decoder = Names(), msgspec.json.Decoder(ItemRecord)
    try:
        async for batch in iter_log(
            settings.brokers, settings.topic("items"), security=settings.kafka_options()
        ):
            for record in batch:
                try:
                    if record.value is not None:
                        names.add(decoder.decode(record.value))
                except msgspec.MsgspecError:
                    continue
    except (BrokerUnavailable, DataError):
        pass
    return names


Found = tuple[Callable[[bytes], bytes | None], str]


def _from_table(state_dir: Path, user: bytes) -> Found | None:
    """The user's records in a partition database. A running worker may own it: opened as a secondary."""
    for path in sorted(state_dir.rglob(f"{TABLE}-*.db")):
        with tempfile.TemporaryDirectory() as scratch:
            options = rocksdict.Options(raw_mode=True)
            db = rocksdict.Rdict(str(path), options, access_type=rocksdict.AccessType.secondary(scratch))
            try:
                db.try_catch_up_with_primary()
                if (head := db.get(head_key(user))) is not None:
                    return {head_key(user): head, **_past(db, user)}.get, str(path)
            finally:
                db.close()
    return None


async def _from_changelog(settings: Settings, user: bytes) -> Found | None:
    topic = changelog_topic(settings)
    records: dict[bytes, bytes] = {}
    try:
        async for batch in iter_log(settings.brokers, topic, security=settings.kafka_options()):
            for record in batch:
                take_newest(records, record, user)
    except DataError:
        return None
    return (records.get, f"topic {topic}") if head_key(user) in records else None


def take_newest(records: dict[bytes, bytes], record: LogRecord, user: bytes) -> None:
    """Keep of each of the user's keys what a recovery would: the record with the highest applied offset."""
    if record.key is None or not _is_of(record.key, user):
        return
    if record.value is None:
        records.pop(record.key, None)
    elif record.key not in records or applied(record.value) >= applied(records[record.key]):
        records[record.key] = record.value


def _past(db: rocksdict.Rdict, user: bytes) -> dict[bytes, bytes]:
    """The segments and chunks that a partition database holds of the user."""
    items = cast(Iterator[tuple[bytes, bytes]], db.items(from_key=past_prefix(user)))
    return dict(itertools.takewhile(lambda item: item[0].startswith(past_prefix(user)), items))


def _is_of(key: bytes, user: bytes) -> bool:
    """Whether it is the key of the user's head, of one of its segments or of one of its chunks."""
    return key == head_key(user) or key.startswith(past_prefix(user))


def state_panel(
    user: str,
    read: Callable[[bytes], bytes | None],
    where: str,
    names: Names,
    types: EventTypes,
    last: int,
) -> Panel:
    """The state as a person reads it. Raises StateError for records that cannot be read."""
    head = read(head_key(user.encode())) or b""
    hidden, slots = int.from_bytes(head[_HIDDEN_AT], "little"), head[_SLOTS_AT]
    states = UserStates.load([user.encode()], read, hidden, slots * SEGMENT_EVENTS, types)
    parts = Columns([_facts(states), _activity(states, types), _interests(states, names)], padding=(0, 3))
    return Panel(
        Group(parts, "", _window(states, names, types, last)),
        title=f"user [bold]{user}[/bold]",
        subtitle=where,
        title_align="left",
        subtitle_align="right",
    )


def _facts(states: UserStates) -> Table:
    head = states.heads[0]
    users = np.zeros(1, np.int64)
    gru = np.asarray(head["gru"])
    facts: Mapping[str, str] = {
        "version.revision": f"{head['version']}.{head['revision']}",
        "applied offset": str(head["applied"]),
        "watermark": _time(int(head["watermark"])),
        "items consumed": str(len(np.unique(states.seen(users)[1]))),
        "events usable": str(head["usable"]),
        "late, duplicate": f"{head['late']}, {head['duplicates']}",
        "GRU state": f"{len(gru)} numbers, norm {float(np.linalg.norm(gru)):.3f}",
        "of model": f"{int(head['model']):08x}" if head["model"] else "none",
        "rebuilt at version": str(head["rebuilt"]) if head["rebuilt"] else "never",
    }
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, value in facts.items():
        table.add_row(name, value, style="dim" if value in ("0", "0, 0", "never") else "")
    return table


def _activity(states: UserStates, types: EventTypes) -> Table:
    counts = states.activity(np.zeros(1, np.int64))[0]
    table = Table("events", *LEVELS, box=None, padding=(0, 1), header_style="dim")
    for each in types:
        if counts[:, each.code].any():
            table.add_row(each.name, *(str(n) for n in counts[:, each.code].tolist()))
    if not table.rows:
        table.add_row("none", *("0" for _ in LEVELS))
    return table


def _interests(states: UserStates, names: Names) -> Table:
    labels, short, long = (column[0] for column in states.interests(np.zeros(1, np.int64)))
    table = Table("interest", "short", "long", box=None, padding=(0, 1), header_style="dim")
    for slot in np.argsort(-long, kind="stable").tolist():
        if labels[slot]:
            label = names.labels.get(int(labels[slot]), f"{int(labels[slot]):08x}")
            table.add_row(label, f"{short[slot]:.2f}", f"{long[slot]:.2f}")
    return table


def _window(states: UserStates, names: Names, types: EventTypes, last: int) -> Table:
    entries, lengths = states.window_entries(np.zeros(1, np.int64))
    n = int(lengths[0])
    table = Table(
        "time", "type", "item", "value", box=None, padding=(0, 1), header_style="dim", title_justify="left"
    )
    table.title = f"the last {min(last, n)} of the {n} events in the window, newest first"
    for entry in entries[0][max(0, n - last) : n][::-1]:
        table.add_row(*_entry_cells(entry, names, types))
    return table


def _entry_cells(entry: Any, names: Names, types: EventTypes) -> tuple[str, str, str, str]:
    item, code = int(entry["item"]), int(entry["type"])
    kind = types.by_code.get(code)
    title = names.items.get(item, f"{item:016x}") if item else ""
    value = f"{float(entry['value']):g}" if kind is None or kind.uses_value else ""
    return _time(int(entry["time"])), kind.name if kind else f"type {code}", title, value


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if ms >= 0 else "never"
