"""User state in plain Python, straight from its definition: one event after the other, everything remembered.

Shares no code with streamer.core but the hashes; the laws compare the vectorised states with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from streamer.core.event_types import REFRESH, EventTypes
from streamer.core.events import Event
from streamer.core.hashing import event_hash, item_hash

WINDOWS_MS = {"1h": (300_000, 12), "24h": (3_600_000, 24), "7d": (21_600_000, 28)}
"""Bucket size in ms and number of buckets."""


@dataclass(frozen=True)
class Source:
    """An event or a request as it came: where, and when Kafka says that it did."""

    offset: int
    record_time_ms: int
    event: Event


@dataclass
class Applied:
    """One applied event."""

    item: int
    time_ms: int
    code: int
    value: float
    event: int
    labels: list[int]


@dataclass
class ReferenceUser:
    """Everything about one user that the definition speaks of."""

    applied_offset: int = -1
    requests: int = 0
    watermark_ms: int = -1
    late: int = 0
    duplicates: int = 0
    usable: int = 0
    history: list[Applied] = field(default_factory=list)

    def window(self, length: int) -> list[Applied]:
        return self.history[-length:]

    def activity(self, types: EventTypes) -> dict[str, dict[str, int]]:
        """Applied events per window and type name, recounted from the whole history."""
        result = {}
        for name, (size_ms, buckets) in WINDOWS_MS.items():
            newest = self.watermark_ms // size_ms
            result[name] = dict(
                Counter(
                    types.by_code[each.code].name
                    for each in self.history
                    if newest - buckets < each.time_ms // size_ms <= newest
                )
            )
        return result

    def consumed(self, types: EventTypes) -> set[int]:
        return {each.item for each in self.history if each.item and types.by_code[each.code].consumes}

    def interest(self, label: int, half_life_ms: int, types: EventTypes) -> float:
        """Decayed weight of a category at the watermark, if it never had to make room for another."""
        total = 0.0
        for each in self.history:
            for _ in range(each.labels.count(label)):
                age_ms = self.watermark_ms - each.time_ms
                total += types.by_code[each.code].weight / len(each.labels) * 2.0 ** (-age_ms / half_life_ms)
        return total


class Reference:
    """States of all users; `labels` and `known` say of an item hash which categories it has and whether it has a vector."""

    def __init__(
        self, types: EventTypes, window: int, grace_ms: int, labels: dict[int, list[int]], known: set[int]
    ) -> None:
        self.types, self.window_length, self.grace_ms = types, window, grace_ms
        self.labels, self.known = labels, known
        self.users: dict[str, ReferenceUser] = {}

    def absorb(self, source: Source) -> str:
        """The name of the outcome."""
        event = source.event
        user = self.users.setdefault(event.user_id, ReferenceUser())
        if source.offset <= user.applied_offset:
            return "REPLAYED"
        user.applied_offset = source.offset
        if event.type == REFRESH:
            user.requests += 1
            return "REFRESH"
        time_ms = min(event.timestamp_ms, source.record_time_ms)
        if time_ms < user.watermark_ms - self.grace_ms:
            user.late += 1
            return "LATE"
        hashed = event_hash(event.event_id)
        if any(each.event == hashed for each in user.window(self.window_length)):
            user.duplicates += 1
            return "DUPLICATE"
        item = item_hash(event.item_id) if event.item_id is not None else 0
        user.usable += item in self.known
        user.watermark_ms = max(user.watermark_ms, time_ms)
        code = self.types.by_name[event.type].code
        labels = self.labels.get(item, [])
        user.history.append(Applied(item, time_ms, code, event.value or 0.0, hashed, labels))
        return "APPLIED"
