"""What flows in a benchmark: a catalogue, and events in an order of their own.

uniform        every event another of 20,000 users, in turn
zipf           the same users, the n-th as often as 1/n
ml-100k        MovieLens-100K in its real order; after its end again from the start with new users
fat-catalogue  as uniform, with 50,000 items
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from streamer import datasets
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

USERS, ITEMS, FAT_ITEMS = 20_000, 1682, 50_000
"""1682: as many items as MovieLens-100K has."""
START_MS = 1_700_000_000_000
CACHE = Path(".headwater/cache")
BLOCK = 10_000
"""Events whose random parts are drawn at a time."""

Events = Iterator[tuple[bytes, bytes]]
"""Keys and values of `events`."""


class NoData(Exception):
    """The workload's data cannot be had here; the message is a sentence."""


@dataclass(frozen=True)
class Workload:
    name: str
    items: list[ItemRecord]
    events: Callable[[int, int], Events]
    """(n, first): events `first` to `first + n`, the same at every call."""


def workload(name: str) -> Workload:
    """Raises NoData."""
    return WORKLOADS[name]()


# ---------------------------------------------------------------------- made up
def catalogue(n: int) -> list[ItemRecord]:
    """Items "i0", "i1", …, each in two of some twenty categories, as films are."""
    return [
        ItemRecord(f"i{i}", f"Title number {i}", categories=[f"genre-{i % 17}", f"mood-{i % 5}"])
        for i in range(n)
    ]


def uniform(users: int = USERS, items: int = ITEMS, name: str = "uniform") -> Workload:
    """Every event another of `users` users, in turn."""

    def turns(rng: np.random.Generator, first: int, n: int) -> list[int]:
        return [i % users for i in range(first, first + n)]

    return Workload(name, catalogue(items), lambda n, first: _drawn(n, first, items, turns))


def zipf(users: int = USERS, items: int = ITEMS) -> Workload:
    """The n-th of `users` users sends as often as 1/n: one event in ten is the first user's."""
    chances = 1.0 / np.arange(1, users + 1)
    cumulative = np.cumsum(chances / chances.sum())

    def skewed(rng: np.random.Generator, first: int, n: int) -> list[int]:
        found: list[int] = np.searchsorted(cumulative, rng.random(n)).clip(0, users - 1).tolist()
        return found

    return Workload("zipf", catalogue(items), lambda n, first: _drawn(n, first, items, skewed))


def _drawn(
    n: int, first: int, items: int, users_of: Callable[[np.random.Generator, int, int], list[int]]
) -> Events:
    """About 180 bytes each, one per millisecond. Drawn in blocks with seeds of their own, so they can start anywhere."""
    encode = msgspec.json.encode
    for block in itertools.count(first // BLOCK):
        rng, start = np.random.default_rng(block), block * BLOCK
        columns = zip(
            range(start, start + BLOCK),
            users_of(rng, start, BLOCK),
            rng.integers(items, size=BLOCK).tolist(),
            rng.integers(1, 6, size=BLOCK).tolist(),
            rng.choice(["view", "click", "rating", "purchase"], size=BLOCK, p=[0.4, 0.3, 0.2, 0.1]).tolist(),
            strict=True,
        )
        for i, user_number, item, stars, kind in columns:
            if i < first:
                continue
            if i >= first + n:
                return
            user = f"user-{user_number:06d}"
            event = {
                "event_id": uuid.UUID(int=i).hex,
                "user_id": user,
                "type": kind,
                "timestamp_ms": START_MS + i,
                "item_id": f"i{item}",
                "session_id": f"session-{user_number:08d}",
            }
            if kind == "rating":
                event["value"] = float(stars)
            yield user.encode(), encode(event)


# ---------------------------------------------------------------------- real
def ml_100k() -> Workload:
    """Film n is item "i<n - 1>", as the benchmark's artefact names its items. Raises NoData."""
    try:
        data = datasets.load("ml-100k", datasets.fetch("ml-100k", CACHE, say=print))
    except DataError as error:
        raise NoData(f"MovieLens-100K cannot be had: {error}") from error
    events = data.interactions
    times = np.array([each.timestamp_ms for each in events], np.int64)
    order = datasets.time_order(times, 0).tolist()
    span = int(times.max() - times.min()) + 1

    def looped(n: int, first: int) -> Events:
        encode = msgspec.json.encode
        for i in range(first, first + n):
            lap, at = divmod(i, len(events))
            each = events[order[at]]
            user = f"user-{lap}-{each.user_id}"
            yield (
                user.encode(),
                encode(
                    {
                        "event_id": f"{lap}-{each.event_id}",
                        "user_id": user,
                        "type": each.type,
                        "timestamp_ms": each.timestamp_ms + lap * span,
                        "item_id": f"i{int(each.item_id) - 1}",
                        "value": each.value,
                    }
                ),
            )

    items = [
        msgspec.structs.replace(item, item_id=f"i{int(item.item_id) - 1}")
        for item in sorted(data.items, key=lambda item: int(item.item_id))
    ]
    return Workload("ml-100k", items, looped)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "uniform": uniform,
    "zipf": zipf,
    "ml-100k": ml_100k,
    "fat-catalogue": functools.partial(uniform, items=FAT_ITEMS, name="fat-catalogue"),
}
