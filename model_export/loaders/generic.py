"""Any table of events, with a column map; usual names and words are understood without one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_export.interactions import REQUESTS, InteractionsBuilder
from model_export.loaders.cells import id_of, is_empty, number_of, time_ms_of
from model_export.loaders.tables import read_table
from streamer.core.event_types import REFRESH
from streamer.errors import DataError

EVENT_COLUMNS = (
    "user_id", "item_id", "type", "value", "text", "timestamp_ms", "timestamp_s", "timestamp", "target_user_id",
)  # fmt: skip
"""What a table of events may hold; user_id, item_id and one of the timestamps it must. `timestamp` is of any form."""
_TIMES = {"timestamp_ms": 1, "timestamp_s": 1000, "timestamp": 0}
"""Column → milliseconds in its unit, 0 where the number's size tells."""

_USUAL = {
    "user_id": ("userid", "user", "uid", "customerid", "visitorid", "reviewerid", "memberid", "sessionid"),
    "item_id": (
        "itemid",
        "item",
        "iid",
        "productid",
        "movieid",
        "articleid",
        "parentasin",
        "asin",
        "stockcode",
    ),
    "type": ("eventtype", "event", "action", "behavior", "behaviour", "behaviortype"),
    "value": ("rating", "overall", "score", "stars"),
    "text": ("reviewtext", "query", "comment"),
    "timestamp_ms": ("timestampms", "unixms"),
    "timestamp_s": ("timestamps", "unixreviewtime", "unixtime"),
    "timestamp": ("timestamp", "time", "datetime", "date", "eventtime", "ts", "createdat", "invoicedate"),
}
_WORDS = {
    "pv": "view", "pageview": "view", "page_view": "view", "detail": "view", "addtocart": "cart", "add_to_cart": "cart",
    "buy": "purchase", "transaction": "purchase", "order": "purchase", "fav": "favourite", "favorite": "favourite",
    "listen": "play", "watch": "play", "rate": "rating",
}  # fmt: skip
"""Words of well-known logs → event types, where the log's word is no type itself."""


def read_events(
    file: Path,
    names: Mapping[str, str],
    builder: InteractionsBuilder,
    *,
    type: str | None = None,
    time_format: str | None = None,
) -> None:
    """Add every row of `file` but requests for a fresh list.

    `names`: one of EVENT_COLUMNS → what the file calls it; `type`: of all its events.
    Raises DataError for unknown columns and for cells that cannot be read.
    """
    unknown = sorted(set(names) - set(EVENT_COLUMNS))
    if unknown:
        raise DataError(f"{unknown[0]!r} is no column of an event log: map any of {', '.join(EVENT_COLUMNS)}")
    found, rows = read_table(file)
    column = _columns(found, names)
    _check(file.name, found, names, column)
    clock = next(name for name in _TIMES if name in column)
    scale, at = _TIMES[clock], column[clock]
    user, item, value = column["user_id"], column["item_id"], column.get("value", "")
    for number, row in enumerate(rows, 1):
        where = f"{file.name}, row {number}"
        amount = row.get(value)
        said = row.get(column.get("type", ""))
        kind = type or (str(said).strip() if not is_empty(said) else "view" if is_empty(amount) else "rating")
        if kind not in builder.types.by_name:
            kind = _WORDS.get(kind.lower(), kind)
        if kind == REFRESH:
            builder.leave_out(REQUESTS)
            continue
        builder.add(
            id_of(row.get(user), where, user),
            None if is_empty(row.get(item)) else id_of(row[item], where, item),
            kind,
            time_ms_of(row.get(at), where, at, scale=scale, time_format=time_format),
            None if is_empty(amount) else number_of(amount, where, value),
            str(row.get(column.get("text", "")) or "") or None,
            _target(row.get(column.get("target_user_id", ""))),
        )


def _target(found: object) -> str | None:
    return None if is_empty(found) else id_of(found, "", "target_user_id")


def _columns(found: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """One of EVENT_COLUMNS → the file's column: the map's, one of that very name, or one that is usually called so."""
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(found)}
    column = dict(names)
    for name in EVENT_COLUMNS:
        if name in found:
            column.setdefault(name, name)
    mapped = set(column.values())
    for name, usual in _USUAL.items():
        if name in _TIMES and any(clock in column for clock in _TIMES):
            continue
        match = next((plain[word] for word in usual if word in plain and plain[word] not in mapped), None)
        if match is not None and name not in column:
            column[name] = match
            mapped.add(match)
    return column


def _check(file: str, found: Sequence[str], names: Mapping[str, str], column: Mapping[str, str]) -> None:
    missing = [column[name] for name in names if column[name] not in found]
    missing += [name for name in ("user_id", "item_id") if name not in column]
    if not missing and not any(clock in column for clock in _TIMES):
        missing = ["timestamp_ms (or timestamp_s, or timestamp)"]
    if missing:
        raise DataError(
            f"{file} has no column {missing[0]!r}, only {', '.join(found) or 'none at all'}: "
            "map it with --column NAME=COLUMN"
        )
