"""Decoding of raw user events: whatever the bytes, the answer is an `Event` or a `Rejected`, no exception.

A good event costs one typed decode and a few comparisons; what ails a bad one is found by a second look.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, cast

import msgspec
import numpy as np

from streamer.core.event_types import REFRESH, REFRESH_CODE, EventTypes
from streamer.core.partitioner import Partitioner
from streamer.core.rejections import (
    MAX_TEXT_BYTES,
    Reason,
    Rejected,
    clipped,
    reject_id,
    reject_key,
    reject_long,
    reject_missing,
    reject_self,
    reject_size,
    reject_undecodable,
    shown,
)

__all__ = ["Event", "EventDecoder", "Reason", "Rejected"]

MAX_RECORD_BYTES = 64 * 1024
FEW_RECORDS = 16
"""Up to so many are decoded one by one: array operations would cost more."""
MAX_AHEAD_MS = 24 * 3600 * 1000
"""How far an event's time may lie after the time of its Kafka record."""
LATEST_MS = (1 << 24) * 300_000 - 1
"""The rolling counts number their five-minute buckets in 24 bits (2129-06-29)."""
MAX_FLOAT32 = 3.4028234663852886e38
"""State records keep `value` as f4."""

_CACHED_KEYS = 1 << 16
_ID_FIELDS = ("event_id", "user_id", "item_id", "target_user_id", "session_id")
_ABSENT = msgspec.Raw(b"null")


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event as it lies on `events`, every field checked. Fields not named here are ignored.

    Of a request for a fresh list (type `refresh`) user_id is all that counts, though every field is checked.
    """

    event_id: str
    user_id: str
    type: str
    timestamp_ms: int
    item_id: str | None = None
    target_user_id: str | None = None
    value: float | None = None
    text: str | None = None
    session_id: str | None = None
    context: msgspec.Raw = _ABSENT
    """Any JSON, kept as it came."""


_PlainId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _PlainEvent(Event, frozen=True, gc=False, omit_defaults=True):
    """An event of which the parser itself checks what `decode` checks of nearly every one."""

    event_id: _PlainId
    user_id: _PlainId
    type: str
    timestamp_ms: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
    item_id: _PlainId | None = None
    target_user_id: _PlainId | None = None
    value: float | None = None
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_BYTES // 4)] | None = None
    session_id: _PlainId | None = None
    context: msgspec.Raw = _ABSENT


class EventDecoder:
    """Decodes records of `events`.

    partitioner: what producers must use; None or kind `off` means that any partition will do.
    partitions: how many partitions `events` has.
    """

    def __init__(self, types: EventTypes, partitioner: Partitioner | None, partitions: int) -> None:
        self._types = types
        self._parse = msgspec.json.Decoder(Event).decode
        self._parse_lines = cast(
            "Callable[[bytes], list[Event]]", msgspec.json.Decoder(_PlainEvent).decode_lines
        )
        # Per type: lowest and highest value, and whether a target is needed.
        self._rules = {
            each.name: (
                max(each.value_min, -MAX_FLOAT32),
                min(each.value_max, MAX_FLOAT32),
                each.needs_target,
            )
            for each in types
        } | {REFRESH: (-MAX_FLOAT32, MAX_FLOAT32, False)}
        size = 1 + max((each.code for each in types), default=0)
        self._codes = {each.name: each.code for each in types} | {REFRESH: REFRESH_CODE}
        self._lowest, self._highest = np.full(size, -MAX_FLOAT32), np.full(size, MAX_FLOAT32)
        self._needs_target = np.zeros(size, np.bool_)
        for each in types:
            self._lowest[each.code], self._highest[each.code], self._needs_target[each.code] = self._rules[
                each.name
            ]
        self._partitioner = None if partitioner is None or partitioner.kind == "off" else partitioner
        self._partition_of: Callable[[bytes], int] | None = None
        self._partitions = partitions
        self._kind = "off" if partitioner is None else partitioner.kind
        if partitioner is not None and partitioner.kind != "off":
            cached = functools.lru_cache(maxsize=_CACHED_KEYS)
            self._partition_of = cached(functools.partial(partitioner.partition, n=partitions))

    def decode(
        self, value: bytes | None, key: bytes | None, partition: int, record_timestamp_ms: int
    ) -> Event | Rejected:
        """The event of a record, or why there is none. record_timestamp_ms: the Kafka record's own time."""
        if not value or len(value) > MAX_RECORD_BYTES:
            return reject_size(value, MAX_RECORD_BYTES)
        try:
            event = self._parse(value)
            if not value.isascii():
                value.decode()  # the parser skips unknown fields without looking at their characters
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return reject_undecodable(value, exc, Event)
        user = event.user_id
        # An id of up to 64 characters has at most 256 bytes; the others are counted.
        if not (0 < len(user) <= 64 and 0 < len(event.event_id) <= 64 and _short(event)) and (
            bad := _bad_event_id(event)
        ):
            return bad
        if key is None or key != user.encode():
            return reject_key("user_id", user, key)
        if self._partition_of is not None and partition != self._partition_of(key):
            return self._reject_partition(key, partition)
        rule = self._rules.get(event.type)
        if rule is None:
            return self._reject_type(event.type)
        time_ms = event.timestamp_ms
        latest_ms = min(record_timestamp_ms + MAX_AHEAD_MS, LATEST_MS)
        if not 0 <= time_ms <= latest_ms or record_timestamp_ms < 0:
            return _reject_time(time_ms, record_timestamp_ms)
        lowest, highest, needs_target = rule
        if event.value is not None and not lowest <= event.value <= highest:
            return Rejected(
                Reason.VALUE_OUT_OF_RANGE,
                f"value is {event.value!r}, a {event.type} event takes {lowest:g} to {highest:g}",
            )
        if (
            event.text is not None
            and len(event.text) > MAX_TEXT_BYTES // 4
            and (long := reject_long("text", event.text))
        ):
            return long
        if needs_target and event.target_user_id is None:
            return reject_missing("target_user_id", f"a {event.type} event must name it")
        if needs_target and event.target_user_id == user:
            return reject_self(user)
        return event

    def decode_run(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        partition: int,
        record_timestamps_ms: Sequence[int],
    ) -> Sequence[Event | Rejected]:
        """As `decode`, of the records of one partition: at a third of the cost as long as all of them are good."""
        if len(values) > FEW_RECORDS:
            good = self._all_good(values, keys, partition, record_timestamps_ms)
            if good is not None:
                return good
        return [
            self.decode(value, key, partition, time)
            for value, key, time in zip(values, keys, record_timestamps_ms, strict=True)
        ]

    def _all_good(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        partition: int,
        record_timestamps_ms: Sequence[int],
    ) -> list[Event] | None:
        """The events if each of them is good and plain (ids of up to 64 characters, ...), else None: look at each.

        Every value is parsed as a line of its own: without a further newline in them none can pretend to be two.
        """
        if not values or None in values or None in keys:
            return None
        n, some, users = len(values), cast(Sequence[bytes], values), b"\n".join(cast(Sequence[bytes], keys))
        lines = b"\n".join(some)
        if (
            lines.count(b"\n") != n - 1
            or users.count(b"\n") != n - 1
            or max(map(len, some)) > MAX_RECORD_BYTES
        ):
            return None
        try:
            if not lines.isascii():
                lines.decode()  # the parser skips unknown fields without looking at their characters
            events = self._parse_lines(lines)
            codes = np.fromiter(map(self._codes.__getitem__, [e.type for e in events]), np.int64, len(events))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return None
        if len(events) != n or "\n".join([e.user_id for e in events]).encode() != users:
            return None
        if (
            self._partitioner is not None
            and (
                self._partitioner.partitions(cast(Sequence[bytes], keys), self._partitions) != partition
            ).any()
        ):
            return None
        recorded = np.fromiter(record_timestamps_ms, np.int64, n)
        times = np.fromiter([e.timestamp_ms for e in events], np.int64, n)
        if (times > np.minimum(recorded + MAX_AHEAD_MS, LATEST_MS)).any() or (recorded < 0).any():
            return None
        value = np.array([e.value for e in events], np.float64)
        out_of_range = (value < self._lowest[codes]) | (value > self._highest[codes])  # of NaN (none) neither
        if out_of_range.any():
            return None
        if self._needs_target[codes].any() and any(
            events[at].target_user_id in (None, events[at].user_id)
            for at in np.flatnonzero(self._needs_target[codes]).tolist()
        ):
            return None
        return events

    def _reject_partition(self, key: bytes, partition: int) -> Rejected:
        assert self._partition_of is not None
        mend = (
            "set `partitioner=murmur2_random` in librdkafka clients (kcat, confluent-kafka); "
            "Java's default partitioner is right"
            if self._kind == "murmur2"
            else "set `partitioner=consistent_random` in librdkafka clients; "
            "others need a partitioner that takes CRC32 of the key"
        )
        return Rejected(
            Reason.WRONG_PARTITION,
            f"key {shown(key)} came on partition {partition}, {self._kind} puts it on "
            f"{self._partition_of(key)} of {self._partitions}: {mend}",
        )

    def _reject_type(self, name: str) -> Rejected:
        known = ", ".join(self._types.by_name)
        return Rejected(
            Reason.UNKNOWN_EVENT_TYPE,
            f"type {shown(name)} is not configured; known are {clipped(known, 300)}, "
            f"and {REFRESH}, which asks for a fresh list",
        )


def _short(event: Event) -> bool:
    """The optional ids are absent, or neither empty nor over 64 characters."""
    return (
        (event.item_id is None or 0 < len(event.item_id) <= 64)
        and (event.session_id is None or 0 < len(event.session_id) <= 64)
        and (event.target_user_id is None or 0 < len(event.target_user_id) <= 64)
    )


def _bad_event_id(event: Event) -> Rejected | None:
    for name in _ID_FIELDS:
        value: str | None = getattr(event, name)
        if value is not None and (problem := reject_id(name, value)):
            return problem
    return None


def _reject_time(time_ms: int, record_timestamp_ms: int) -> Rejected:
    if time_ms < 0:
        why = "it is before 1970"
    elif time_ms > LATEST_MS:
        why = f"at most {LATEST_MS} is taken; the unit is milliseconds since 1970"
    elif record_timestamp_ms < 0:
        why = f"but the Kafka record's own timestamp is {record_timestamp_ms}: let the producer set one"
    else:
        why = f"more than a day after the Kafka record's own timestamp {record_timestamp_ms}"
    return Rejected(Reason.TIMESTAMP_OUT_OF_RANGE, f"timestamp_ms is {shown(time_ms)}, {why}")
