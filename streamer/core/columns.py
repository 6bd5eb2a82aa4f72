"""A batch of decoded events as columns, so that what follows works on arrays and not on events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_fields import EventFields

CATEGORIES = 6
"""Categories of an item that count as interests; further ones are left out."""

ItemFacts = tuple[NDArray[np.bool_], NDArray[np.uint32]]
"""known (n,): the item has a vector; labels (n, 6): hashes of its categories, 0 = none."""
ItemLookup = Callable[[NDArray[np.uint64]], ItemFacts]
"""From item hashes (n,), 0 = no item, to their facts."""


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
    def of(
        cls,
        fields: EventFields,
        users: NDArray[np.int64],
        offsets: NDArray[np.int64],
        record_times_ms: NDArray[np.int64],
        items: ItemLookup,
    ) -> EventColumns:
        """Columns of `fields`; users, offsets and times of their Kafka records (n,), -1 for a record without a time."""
        no_limit = np.iinfo(np.int64).max
        known, labels = items(fields.item)
        return cls(
            user=users,
            offset=offsets,
            time=np.minimum(fields.time, np.where(record_times_ms < 0, no_limit, record_times_ms)),
            type=fields.type,
            value=fields.value,
            item=fields.item,
            person=fields.person,
            event=fields.event,
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
