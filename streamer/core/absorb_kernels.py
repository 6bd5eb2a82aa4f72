"""Events of a batch, judged and put into their users' windows one after the other.

Windows are bytes here: packed ENTRY records at `at` in a head, and behind the header of a segment. Only event ids are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled
from streamer.core.event_types import REFRESH_CODE
from streamer.core.state_records import ENTRY, SEGMENT, SEGMENT_EVENTS, place_of

APPLIED, REPLAYED, LATE, DUPLICATE, REFRESH = range(5)
"""As user_state.Outcome says."""

CURSOR = np.dtype(
    [
        (name, "i8")
        for name in (
            "applied", "watermark", "last_time", "version", "revision", "usable", "late", "duplicates", "open", "sealed",
        )
    ]
)  # fmt: skip
"""What moves in a head with every event, under the names it has there."""
EVENT = np.dtype([("offset", "i8"), ("time", "i8"), ("event", "u4"), ("known", "u4"), ("type", "u1")])
SEAL = np.dtype([(name, "i8") for name in ("user", "slot", "seq", "offset", "fallen")])
"""A segment that was sealed: whose, where in the ring, by which event; pool row of the one that fell out of it (0 = none)."""

_ENTRY_BYTES = ENTRY.itemsize
_EVENT_AT, _ENTRIES_AT = place_of(ENTRY, "event"), place_of(SEGMENT, "entries")
_WINDOW_BYTES = SEGMENT_EVENTS * _ENTRY_BYTES
Bytes = NDArray[np.uint8]


@compiled
def _has_id(records: Bytes, row: int, at: int, event: int) -> bool:
    """Is this the little-endian event id of the entry at `at`?"""
    at += _EVENT_AT
    return bool(
        records[row, at] == event & 255
        and records[row, at + 1] == event >> 8 & 255
        and records[row, at + 2] == event >> 16 & 255
        and records[row, at + 3] == event >> 24
    )


@compiled
def _holds(
    event: int,
    window: int,
    user: int,
    cursor: Any,
    heads: Bytes,
    at: int,
    index: NDArray[np.int64],
    pool: Bytes,
) -> bool:
    """Is the event id among the last `window` events of the user?"""
    for place in range(max(cursor.open - window, 0), cursor.open):
        if _has_id(heads, user, at + place * _ENTRY_BYTES, event):
            return True
    slots = index.shape[1]
    for back in range(1, min(cursor.sealed, slots) + 1):
        row = index[user, (cursor.sealed - back) % slots]
        # The ring holds a little more than the window.
        first = max(back * SEGMENT_EVENTS + cursor.open - window, 0)
        for place in range(first, SEGMENT_EVENTS):
            if _has_id(pool, row, _ENTRIES_AT + place * _ENTRY_BYTES, event):
                return True
    return False


@compiled
def absorb(
    starts: NDArray[np.int64],
    users: NDArray[np.int64],
    cursors: NDArray[np.void],
    events: NDArray[np.void],
    entries: Bytes,
    grace_ms: int,
    window: int,
    heads: Bytes,
    at: int,
    index: NDArray[np.int64],
    pool: Bytes,
    used: int,
    outcome: NDArray[np.uint8],
    seals: NDArray[np.void],
) -> int:
    """Runs of events, starts (R + 1,), of `users` (R,) with CURSOR (R,): EVENT (n,) and packed entries (n, 25) → outcome (n,).

    heads (U, …), pool (S, …): packed records; index (U, slots): pool row of each ring slot. A sealed segment's entries go to
    the pool's next row from `used` on, whose header is the caller's to write, and a SEAL is noted; returns how many.
    """
    slots, sealed = index.shape[1], 0
    for run in range(len(users)):
        user, cursor = users[run], cursors[run]
        for number in range(starts[run], starts[run + 1]):
            event = events[number]
            if event.offset <= cursor.applied:
                outcome[number] = REPLAYED
                continue
            cursor.applied = event.offset
            if event.type == REFRESH_CODE:
                outcome[number] = REFRESH
                cursor.revision += 1
                continue
            if event.time < cursor.watermark - grace_ms:
                outcome[number] = LATE
                cursor.late += 1
                continue
            if _holds(event.event, window, user, cursor, heads, at, index, pool):
                outcome[number] = DUPLICATE
                cursor.duplicates += 1
                continue
            outcome[number] = APPLIED
            cursor.watermark = max(cursor.watermark, event.time)
            cursor.last_time = event.time
            cursor.version += 1
            cursor.usable += event.known
            place = at + cursor.open * _ENTRY_BYTES
            heads[user, place : place + _ENTRY_BYTES] = entries[number]
            cursor.open += 1
            if cursor.open == SEGMENT_EVENTS:
                slot, row, seal = cursor.sealed % slots, used + sealed, seals[sealed]
                seal.user, seal.slot, seal.seq, seal.offset = user, slot, cursor.sealed, event.offset
                seal.fallen = index[user, slot]
                pool[row, _ENTRIES_AT:] = heads[user, at : at + _WINDOW_BYTES]
                heads[user, at : at + _WINDOW_BYTES] = 0
                index[user, slot] = row
                cursor.open = 0
                cursor.sealed += 1
                sealed += 1
    return sealed


def warm_up() -> None:
    """Compile for the types that are in use."""
    absorb(
        np.array([0, 1]),
        np.array([0]),
        np.zeros(1, CURSOR),
        np.ones(1, EVENT),
        np.zeros((1, _ENTRY_BYTES), np.uint8),
        0,
        1,
        np.zeros((1, _WINDOW_BYTES), np.uint8),
        0,
        np.zeros((1, 1), np.int64),
        np.zeros((2, SEGMENT.itemsize), np.uint8),
        1,
        np.zeros(1, np.uint8),
        np.zeros(1, SEAL),
    )
