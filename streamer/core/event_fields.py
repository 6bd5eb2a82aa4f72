"""What counts of decoded events, as arrays: the same whether the events were objects in between or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import REFRESH, REFRESH_CODE, EventTypes
from streamer.core.hashing import event_hash, item_hash, user_hash

if TYPE_CHECKING:
    from streamer.core.events import Event

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class EventFields:
    """n events, and requests for a fresh list between them; every array has n rows."""

    time: NDArray[np.int64]
    """ms, as the event says."""
    type: NDArray[np.uint8]
    """REFRESH_CODE of a request, which has no item and no value."""
    value: NDArray[np.float32]
    """0 where the event has none."""
    item: NDArray[np.uint64]
    """The item's hash; of an event without one that names a user whom it is about (`follow`), that user's; else 0."""
    person: NDArray[np.bool_]
    """Whether `item` is a user."""
    event: NDArray[np.uint32]
    """Hash of the event's id."""

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def empty(cls, n: int) -> EventFields:
        """To be filled."""
        return cls(
            np.zeros(n, np.int64),
            np.zeros(n, np.uint8),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint64),
            np.zeros(n, np.bool_),
            np.zeros(n, np.uint32),
        )

    @classmethod
    def of(cls, events: Sequence[Event], types: EventTypes) -> EventFields:
        """A type must be in `types` (the decoder saw to it): KeyError otherwise."""
        n = len(events)
        codes = {each.name: each.code for each in types} | {REFRESH: REFRESH_CODE}
        type_codes = np.fromiter([codes[event.type] for event in events], np.uint8, n)
        hashes = [0 if event.item_id is None else item_hash(event.item_id) for event in events]
        item = np.fromiter(hashes, np.uint64, n)
        values = np.array([event.value for event in events], np.float64)  # NaN where there is none
        value = np.nan_to_num(np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX)).astype(np.float32)
        requests = type_codes == REFRESH_CODE
        item[requests], value[requests] = 0, 0
        person = np.zeros(n, np.bool_)
        for at in np.flatnonzero(about_users(types)[type_codes] & (item == 0)).tolist():
            whom = events[at].target_user_id
            if whom is not None:
                item[at], person[at] = user_hash(whom), True
        return cls(
            time=np.fromiter([event.timestamp_ms for event in events], np.int64, n),
            type=type_codes,
            value=value,
            item=item,
            person=person,
            event=np.fromiter([event_hash(event.event_id) for event in events], np.uint32, n),
        )

    @classmethod
    def join(cls, parts: Sequence[EventFields]) -> EventFields:
        """Of at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> EventFields:
        """The events of rows (m,)."""
        return EventFields(*(getattr(self, each.name)[rows] for each in fields(self)))

    def put(self, rows: NDArray[np.int64], other: EventFields) -> None:
        """Fill rows (m,) with m events."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(other, each.name)


def about_users(types: EventTypes) -> NDArray[np.bool_]:
    """(256,) by code: whether an event of the type names the user whom it is about."""
    found = np.zeros(256, np.bool_)
    found[[each.code for each in types if each.needs_target]] = True
    return found
