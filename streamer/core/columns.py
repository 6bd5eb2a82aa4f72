"""A batch of decoded events as columns, so that what follows works on arrays and not on events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import REFRESH, REFRESH_CODE, EventTypes
from streamer.core.events import Event
from streamer.core.hashing import event_hash, item_hash, user_hash

CATEGORIES = 6
"""Categories of an item that count as interests; further ones are left out."""

ItemFacts = tuple[NDArray[np.bool_], NDArray[np.uint32]]
"""known (n,): the item has a vector; labels (n, 6): hashes of its categories, 0 = none."""
ItemLookup = Callable[[NDArray[np.uint64]], ItemFacts]
"""From item hashes (n,), 0 = no item, to their facts."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class EventColumns:
    """n events in source order, and requests for a fresh list between them; every array has n rows."""

    user: NDArray[np.int64]
    """Row of the user in the batch."""
    offset: NDArray[np.int64]
    time: NDArray[np.int64]
    """ms; never after the Kafka record's own timestamp."""
    type: NDArray[np.uint8]
    """REFRESH_CODE of a request, which has no item and no value."""
    value: NDArray[np.float32]
    """0 where the event has none."""
    item: NDArray[np.uint64]
    """The item's hash; of an event without one that names a user whom it is about (`follow`), that user's; else 0."""
    person: NDArray[np.bool_]
    """Whether `item` is a user."""
    event: NDArray[np.uint32]
    known: NDArray[np.bool_]
    labels: NDArray[np.uint32]
    """(n, 6)"""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def from_events(
        cls,
        events: Sequence[Event],
        users: NDArray[np.int64],
        offsets: NDArray[np.int64],
        record_times_ms: NDArray[np.int64],
        types: EventTypes,
        items: ItemLookup,
        hash_item: Callable[[str], int] = item_hash,
    ) -> EventColumns:
        """Columns of `events`; users, offsets and times of their Kafka records (n,), -1 for a record without a time.

        `hash_item` may be a cached `item_hash`. A type must be in `types` (the decoder saw to it): KeyError otherwise.
        """
        n = len(events)
        codes = {name: event_type.code for name, event_type in types.by_name.items()} | {
            REFRESH: REFRESH_CODE
        }
        times = np.fromiter([event.timestamp_ms for event in events], np.int64, n)
        no_limit = np.iinfo(np.int64).max
        times = np.minimum(times, np.where(record_times_ms < 0, no_limit, record_times_ms))
        values = np.array([event.value for event in events], np.float64)
        hashes = [0 if event.item_id is None else hash_item(event.item_id) for event in events]
        item = np.fromiter(hashes, np.uint64, n)
        type_codes = np.fromiter([codes[event.type] for event in events], np.uint8, n)
        requests = type_codes == REFRESH_CODE
        item[requests], values[requests] = 0, np.nan
        person = _whom(events, type_codes, types, item)
        known, labels = items(item)
        return cls(
            user=users,
            offset=offsets,
            time=times,
            type=type_codes,
            value=np.nan_to_num(np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX)).astype(np.float32),
            item=item,
            person=person,
            event=np.fromiter([event_hash(event.event_id) for event in events], np.uint32, n),
            known=known,
            labels=labels,
        )

    def take(self, rows: NDArray[np.int64]) -> EventColumns:
        """The events of `rows` (m,)."""
        return EventColumns(
            self.user[rows],
            self.offset[rows],
            self.time[rows],
            self.type[rows],
            self.value[rows],
            self.item[rows],
            self.person[rows],
            self.event[rows],
            self.known[rows],
            self.labels[rows],
        )


def _whom(
    events: Sequence[Event], type_codes: NDArray[np.uint8], types: EventTypes, item: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Put into `item` (n,) the hashes of those who are followed without an item; where (n,) that is so."""
    targeted = np.zeros(256, np.bool_)
    targeted[[each.code for each in types if each.needs_target]] = True
    person: NDArray[np.bool_] = targeted[type_codes] & (item == 0)
    for at in np.flatnonzero(person).tolist():
        whom = events[at].target_user_id
        if whom is None:
            person[at] = False
        else:
            item[at] = user_hash(whom)
    return person


def rounds(user: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each round: round r holds the r-th event of every user (n,) that has one, in source order."""
    if not len(user):
        return []
    order = np.argsort(user, kind="stable")
    ordered = user[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    if new.all():
        return [np.arange(len(user))]
    starts = np.flatnonzero(new)
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    by_rank = np.argsort(rank, kind="stable")
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1])
