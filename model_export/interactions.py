"""An event log as numpy columns: what the trainer learns from and the evaluation judges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import EventTypes
from streamer.core.features import gap_feature, value_feature
from streamer.core.protocol import ItemRecord
from streamer.datasets import split_at, time_order
from streamer.errors import DataError

NONE = -1
"""No item, or no text."""
REQUESTS = "requests for a fresh list"
"""Records of the product's own log that are no events."""


@dataclass(frozen=True)
class Interactions:
    """n events and the catalogue. `user` and `item` are rows of `users` and `items`."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    """NONE where the event has no item."""
    type: NDArray[np.uint8]
    """Code of the event type, 1..31."""
    value: NDArray[np.float32]
    """0 where the event has none, as in the state records."""
    timestamp_ms: NDArray[np.int64]
    users: Sequence[str]
    items: Sequence[ItemRecord]
    text: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Row of `texts` (n,), NONE where the event has no text; left empty it is filled with NONE."""
    texts: Sequence[str] = ()
    weight: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """(n,) what each event counts as a target of training; left empty, its type's weight."""
    friends: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(m, 2) pairs of users who follow each other, as rows of `users`; each pair once, the smaller row first."""

    def __post_init__(self) -> None:
        n = len(self.user)
        if n == 0:
            raise DataError("the event log holds no usable event: check the path and the time span")
        if not len(self.text):
            object.__setattr__(self, "text", np.full(n, NONE, np.int64))
        for name in ("item", "type", "value", "timestamp_ms", "text", "weight"):
            if len(getattr(self, name)) != n and (name != "weight" or len(self.weight)):
                raise DataError(f"column {name!r} has {len(getattr(self, name))} rows, user has {n}")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def item_ids(self) -> list[str]:
        return [item.item_id for item in self.items]

    @property
    def popularity(self) -> NDArray[np.float32]:
        """Events of each item (N,)."""
        counts = np.bincount(self.item[self.item != NONE], minlength=len(self.items))
        return counts.astype(np.float32)

    def take(self, rows: NDArray[np.int64] | slice) -> Interactions:
        """Some of the events, in the order of `rows`; users, items and texts keep their rows."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            type=self.type[rows],
            value=self.value[rows],
            timestamp_ms=self.timestamp_ms[rows],
            text=self.text[rows],
            weight=self.weight[rows] if len(self.weight) else self.weight,
        )

    def in_time_order(self, seed: int) -> Interactions:
        """Global time order. Events of the same moment are shuffled: their order in a file tells what comes next."""
        return self.take(time_order(self.timestamp_ms, seed))

    def split(self, fraction: float, seed: int) -> tuple[Interactions, Interactions | None]:
        """The first `fraction` of the events by global time, and the rest (None with 1.0), each in time order.

        Raises DataError when a side would be empty. A moment is never cut in two: it belongs to the rest as a whole.
        """
        if not 0 < fraction <= 1:
            raise DataError(f"the fraction of events before the cut is {fraction}: it must lie in (0, 1]")
        ordered = self.in_time_order(seed)
        cut = split_at(ordered.timestamp_ms, fraction)
        if cut == 0:
            raise DataError(
                f"no event lies before {fraction:g} of the log: its first events share one timestamp, "
                "take a larger fraction"
            )
        rest = ordered.take(slice(cut, None)) if cut < len(ordered) else None
        return ordered.take(slice(0, cut)), rest

    def known_items_only(self) -> Interactions:
        """The same events over a catalogue of the items that occur in them.

        A softmax over items that never occur would only learn that they are never taken; left out, they are served by
        their content like any item that appears later.
        """
        kept = np.flatnonzero(self.popularity)
        if not len(kept):
            raise DataError("no event has an item: there is nothing to learn")
        rows = np.full(len(self.items) + 1, NONE, np.int64)  # the last one is for NONE itself
        rows[kept] = np.arange(len(kept))
        return replace(self, item=rows[self.item], items=[self.items[row] for row in kept.tolist()])

    def digest(self) -> str:
        """sha256 of the events in their order and of the catalogue, 64 hex digits: which data a model was trained on."""
        digest = hashlib.sha256()
        columns = (self.user, self.item, self.type, self.value, self.timestamp_ms, self.text)
        for column in (*columns, self.weight, self.friends):
            digest.update(np.ascontiguousarray(column).tobytes())
        for name in (*self.users, *self.texts):
            digest.update(name.encode() + b"\0")
        for item in self.items:
            digest.update(repr((item.item_id, item.title, item.text, item.categories)).encode())
        return digest.hexdigest()

    def histories(self, types: EventTypes) -> list[History]:
        """One history for each user who has events, in the order of the log."""
        order = np.argsort(self.user, kind="stable")
        starts = np.flatnonzero(np.diff(self.user[order], prepend=-1))
        weights = self.weights(types)
        return [self._history(rows, types, weights) for rows in np.split(order, starts[1:])]

    def weights(self, types: EventTypes) -> NDArray[np.float32]:
        """(n,) what each event counts as a target of training."""
        if len(self.weight):
            return self.weight
        by_code = np.zeros(32, np.float32)
        for each in types:
            by_code[each.code] = each.weight
        return by_code[self.type]

    def _history(self, rows: NDArray[np.int64], types: EventTypes, weights: NDArray[np.float32]) -> History:
        time_ms = self.timestamp_ms[rows]
        return History(
            rows=rows,
            item=self.item[rows],
            type=self.type[rows],
            gap=gap_feature(time_ms, np.concatenate([[-1], time_ms[:-1]])),
            value=value_feature(self.value[rows], self.type[rows], types),
            text=self.text[rows],
            timestamp_ms=time_ms,
            weight=weights[rows],
        )


@dataclass(frozen=True)
class History:
    """One user's T events as the model sees them. `rows` are their places in the log."""

    rows: NDArray[np.int64]
    item: NDArray[np.int64]
    type: NDArray[np.uint8]
    gap: NDArray[np.float32]
    value: NDArray[np.float32]
    text: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item)

    def reshuffle_ties(self, rng: np.random.Generator) -> History:
        """Another order of the events that share a timestamp. The gaps stay: within a tie all but the first are 0."""
        order = np.lexsort((rng.random(len(self)), self.timestamp_ms))
        return replace(
            self,
            rows=self.rows[order],
            item=self.item[order],
            type=self.type[order],
            value=self.value[order],
            text=self.text[order],
            weight=self.weight[order],
        )


class InteractionsBuilder:
    """Collects events one by one, in any order, into columns."""

    def __init__(self, types: EventTypes) -> None:
        self.types = types
        self.left_out: dict[str, int] = {}
        """What a reader did not take → how often."""
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._records: list[ItemRecord] = []
        self._texts: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, float, int, int]] = []
        self._friends: set[tuple[int, int]] = set()

    def add_item(self, record: ItemRecord) -> None:
        """A later record of the same item takes the place of the earlier one."""
        row = self._items.setdefault(record.item_id, len(self._records))
        if row == len(self._records):
            self._records.append(record)
        else:
            self._records[row] = record

    def add(
        self,
        user_id: str,
        item_id: str | None,
        type: str,
        timestamp_ms: int,
        value: float | None = None,
        text: str | None = None,
        target_user_id: str | None = None,
    ) -> None:
        """Raises DataError for an unknown event type. An item that is in no catalogue is known by its id alone."""
        if target_user_id is not None:
            self.add_friend(user_id, target_user_id)
        event_type = self.types.by_name.get(type)
        if event_type is None:
            known = ", ".join(sorted(self.types.by_name))
            raise DataError(f"unknown event type {type!r}: known are {known}; add it with --event-types")
        if item_id is not None and item_id not in self._items:
            self.add_item(ItemRecord(item_id, ""))
        kept = text if event_type.uses_text and text else None
        self._rows.append(
            (
                self._user(user_id),
                NONE if item_id is None else self._items[item_id],
                event_type.code,
                0.0 if value is None or value != value else value,
                timestamp_ms,
                NONE if kept is None else self._texts.setdefault(kept, len(self._texts)),
            )
        )

    def add_friend(self, user_id: str, friend_id: str) -> None:
        """A pair of the social graph, in either direction; users need not have events."""
        a, b = self._user(user_id), self._user(friend_id)
        if a != b:
            self._friends.add((min(a, b), max(a, b)))

    def leave_out(self, what: str, times: int = 1) -> None:
        if times:
            self.left_out[what] = self.left_out.get(what, 0) + times

    def _user(self, user_id: str) -> int:
        return self._users.setdefault(user_id, len(self._users))

    def __len__(self) -> int:
        return len(self._rows)

    def build(self) -> Interactions:
        """Raises DataError when nothing was added, or no event has an item."""
        if self._rows and not self._records:
            raise DataError("no event of the log has an item_id: there is nothing to recommend")
        columns = list(zip(*self._rows, strict=True)) or [()] * 6
        user, item, code, value, time_ms, text = columns
        return Interactions(
            user=np.array(user, np.int64),
            item=np.array(item, np.int64),
            type=np.array(code, np.uint8),
            value=np.array(value, np.float32),
            timestamp_ms=np.array(time_ms, np.int64),
            users=list(self._users),
            items=self._records,
            text=np.array(text, np.int64),
            texts=list(self._texts),
            friends=np.array(sorted(self._friends), np.int64).reshape(-1, 2),
        )


def category_labels(items: Sequence[ItemRecord], most: int = 64) -> list[str]:
    """Labels of the `category` head: the commonest categories of the catalogue, sorted by name; further ones are left out."""
    counts: dict[str, int] = {}
    for category in _categories(items):
        counts[category] = counts.get(category, 0) + 1
    commonest = sorted(counts, key=lambda name: (-counts[name], name))[:most]
    return sorted(commonest)


def category_targets(items: Sequence[ItemRecord], labels: Sequence[str]) -> NDArray[np.float32]:
    """(N, labels): an item's categories as a distribution, each of m labels 1/m; zeros for an item without any."""
    column = {label: place for place, label in enumerate(labels)}
    targets = np.zeros((len(items), len(labels)), np.float32)
    for row, item in enumerate(items):
        for category in item.categories:
            if category in column:
                targets[row, column[category]] = 1
    targets /= np.maximum(targets.sum(axis=1, keepdims=True), 1)
    return targets


def _categories(items: Sequence[ItemRecord]) -> Iterator[str]:
    for item in items:
        yield from dict.fromkeys(item.categories)
