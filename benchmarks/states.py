"""State records of many users, as a worker would have written them, without sending the events.

A few thousand users live through a full window of random events with the real codec; everyone else gets the records of one of
them under a key and an applied offset of their own. Applied offsets rise along the log, as they do when a worker writes it, and
are negative, so that every event sent later is new.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from streamer.core.columns import EventColumns
from streamer.core.event_types import EventTypes
from streamer.core.hashing import item_hash
from streamer.core.state_records import user_of_key
from streamer.core.user_state import UserStates

WINDOW = 100
EVENTS_EACH = 140
"""More than the window holds, so that segments have fallen out of it and there are seen chunks."""
LIVED = 2000
MINUTE_MS, START_MS = 60_000, 1_700_000_000_000
APART_MS = 10 * MINUTE_MS
END_MS = START_MS + EVENTS_EACH * APART_MS
SCATTER = 6_180_339_887
"""Coprime to 10^10."""
_APPLIED = struct.Struct("<q")

Pair = tuple[bytes, bytes]


def user_name(number: int) -> bytes:
    """Neighbours in number, and so in the log, are none in the table."""
    return b"user-%010d" % (number * SCATTER % 10**10)


Life = list[tuple[bytes, bytes, bytes]]
"""What is before and behind the user in the key of each record, and the record."""


def lived(n: int, hidden: int, items: int, seed: int = 0) -> list[Life]:
    """Records of n users after EVENTS_EACH events each; segments and chunks first, the head last."""
    rng = np.random.default_rng(seed)
    keys, rows = [user_name(i) for i in range(n)], np.arange(n)
    types = EventTypes.DEFAULT
    codes = np.array([types.by_name[name].code for name in ("view", "click", "rating", "purchase")], np.uint8)
    catalogue = np.array([item_hash(f"i{i}") for i in range(items)], np.uint64)
    categories = rng.integers(1, 1 << 32, 22, dtype=np.uint32)
    states = UserStates.load(keys, lambda key: None, hidden, WINDOW, types)
    for turn in range(EVENTS_EACH):
        item = rng.integers(items, size=n)
        labels = np.zeros((n, 6), np.uint32)
        labels[:, 0], labels[:, 1] = categories[item % 17], categories[17 + item % 5]
        kind = codes[rng.choice(len(codes), size=n, p=[0.4, 0.3, 0.2, 0.1])]
        states.absorb(
            rows,
            EventColumns(
                user=rows,
                offset=np.full(n, turn),
                time=START_MS + turn * APART_MS + rng.integers(MINUTE_MS, size=n),
                type=kind,
                value=np.where(kind == codes[2], rng.integers(1, 6, size=n), 0).astype(np.float32),
                item=catalogue[item],
                person=np.zeros(n, np.bool_),
                event=rng.integers(1 << 32, size=n, dtype=np.uint32),
                known=np.ones(n, np.bool_),
                labels=labels,
            ),
        )
    states.heads["gru"] = np.tanh(rng.standard_normal((n, hidden)))
    return [
        [(*_around(key), bytes(value)) for key, value in of_user] for of_user in states.changes().groups()
    ]


def _around(key: bytes) -> Pair:
    """What is before and behind the user in a key."""
    before, _, behind = key.partition(user_of_key(key))
    return before, behind


def records(lives: list[Life], users: range, applied: int) -> Iterator[tuple[bytes, list[Pair]]]:
    """Users and their records; the first user's were applied up to `applied`, each next one's one further."""
    for turn, number in enumerate(users):
        user, offset = user_name(number), _APPLIED.pack(applied + turn)
        yield (
            user,
            [
                (before + user + behind, value[:2] + offset + value[10:])
                for before, behind, value in lives[number % len(lives)]
            ],
        )
