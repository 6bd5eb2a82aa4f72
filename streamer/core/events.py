"""Decoding of raw user events: whatever the bytes, the answer is a good event or a `Rejected`, no exception.

Of a run nearly all are plain, and become columns without an object for any of them (`parse_kernels`). The others get a second
look each: one typed decode and a few comparisons for a good one; what ails a bad one is found by a third.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core import parse_kernels
from streamer.core.compiled import fixed
from streamer.core.event_fields import EventFields, about_users
from streamer.core.event_types import REFRESH, REFRESH_CODE, EventTypes
from streamer.core.hashing import user_hash
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

__all__ = ["Decoded", "Event", "EventDecoder", "Reason", "Rejected"]

MAX_RECORD_BYTES = 64 * 1024
MAX_AHEAD_MS = 24 * 3600 * 1000
"""How far an event's time may lie after the time of its Kafka record."""
LATEST_MS = (1 << 24) * 300_000 - 1
"""The rolling counts number their five-minute buckets in 24 bits (2129-06-29)."""
MAX_FLOAT32 = 3.4028234663852886e38
"""State records keep `value` as f4."""

_CACHED_KEYS = 1 << 16
_TARGET, _TEXT = range(2)
"""Spans of `parse_kernels`"""
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


@dataclass(frozen=True, slots=True)
class Decoded:
    """The records of a run."""

    fields: EventFields
    """Of the good ones, in order"""
    good: NDArray[np.int64]
    """Their rows among the records"""
    texts: list[tuple[int, str]]
    """Place among the good ones, and text, of those whose text counts"""
    rejected: list[tuple[int, Rejected]]
    """Row among the records, and why, of the others"""


class EventDecoder:
    """Decodes records of `events`.

    partitioner: what producers must use; None or kind `off` means that any partition will do.
    partitions: how many partitions `events` has.
    """

    def __init__(self, types: EventTypes, partitioner: Partitioner | None, partitions: int) -> None:
        self._types = types
        self._parse = msgspec.json.Decoder(Event).decode
        # Per type: lowest and highest value, and whether a target is needed.
        self._rules = {
            each.name: (
                max(each.value_min, -MAX_FLOAT32),
                min(each.value_max, MAX_FLOAT32),
                each.needs_target,
            )
            for each in types
        } | {REFRESH: (-MAX_FLOAT32, MAX_FLOAT32, False)}
        self._tables = _Tables(types, self._rules)
        self._with_texts = frozenset(each.code for each in types if each.uses_text)
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
        record_timestamps_ms: NDArray[np.int64],
    ) -> Decoded:
        """What `decode` says of each record of one partition (n,), at a fifth of the cost of those that are plain."""
        n = len(values)
        some = [value or b"" for value in values]
        text = b"".join(some)
        fields, plain, spans = EventFields.empty(n), np.zeros(n, np.bool_), np.empty((n, 2, 2), np.int64)
        if text.isascii() or _is_utf8(text):
            where = parse_kernels.PARTITIONERS[self._kind], self._partitions, partition
            self._tables.parse(text, some, keys, record_timestamps_ms, where, plain, fields, spans)
        rows = plain.nonzero()[0]
        self._name_users(text, fields, spans, rows)
        with_text = rows[spans[rows, _TEXT, 1] > spans[rows, _TEXT, 0]]
        texts = {at: text[slice(*spans[at, _TEXT])].decode() for at in with_text.tolist()}
        rejected: list[tuple[int, Rejected]] = []
        if len(rows) < n:
            rejected = self._look_again(values, keys, partition, record_timestamps_ms, ~plain, fields, texts)
        good = np.ones(n, np.bool_)
        good[[at for at, _ in rejected]] = False
        kept = good.nonzero()[0]
        placed = [
            (int(kept.searchsorted(at)), texts[at])
            for at in sorted(texts)
            if int(fields.type[at]) in self._with_texts
        ]
        return Decoded(fields.take(kept) if rejected else fields, kept, placed, rejected)

    def _look_again(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        partition: int,
        record_timestamps_ms: NDArray[np.int64],
        which: NDArray[np.bool_],
        fields: EventFields,
        texts: dict[int, str],
    ) -> list[tuple[int, Rejected]]:
        """Decode those of the records (n,) one by one: good ones into fields and texts; the row of each other, and why."""
        rejected, events = [], {}
        for at in which.nonzero()[0].tolist():
            found = self.decode(values[at], keys[at], partition, int(record_timestamps_ms[at]))
            if isinstance(found, Rejected):
                rejected.append((at, found))
            else:
                events[at] = found
        if events:
            fields.put(np.array(list(events)), EventFields.of(list(events.values()), self._types))
            texts.update((at, event.text) for at, event in events.items() if event.text)
        return rejected

    def _name_users(
        self, text: bytes, fields: EventFields, spans: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Hash those whom plain events are about that name no item."""
        about = rows[(fields.item[rows] == 0) & self._tables.about_users[fields.type[rows]]]
        if len(about):
            fields.person[about] = True
            whom = spans[about, _TARGET].tolist()
            fields.item[about] = [user_hash(text[first:last].decode()) for first, last in whom]

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


class _Tables:
    """What `parse_kernels` must know of the event types."""

    def __init__(self, types: EventTypes, rules: Mapping[str, tuple[float, float, bool]]) -> None:
        codes = {each.name: each.code for each in types} | {REFRESH: REFRESH_CODE}
        names = [name.encode() for name in codes]
        size = 1 + max(codes.values())
        self._names = fixed(np.frombuffer(b"".join(names), np.uint8))
        self._types = np.stack([_ends(names), list(codes.values())], axis=1)
        self._rules = np.zeros((size, 3))
        for name, code in codes.items():
            self._rules[code] = rules[name]
        self.about_users = about_users(types)

    def parse(
        self,
        text: bytes,
        values: Sequence[bytes],
        keys: Sequence[bytes | None],
        record_timestamps_ms: NDArray[np.int64],
        where: tuple[int, int, int],
        plain: NDArray[np.bool_],
        fields: EventFields,
        spans: NDArray[np.int64],
    ) -> None:
        """Fill plain (n,), spans (n, 2, 2) and of plain events the fields, but for users in the place of items.

        where: kind of partitioner, number of partitions, and which one this is.
        """
        known = [key or b"" for key in keys]
        latest = np.minimum(np.minimum(record_timestamps_ms, LATEST_MS) + MAX_AHEAD_MS, LATEST_MS)
        latest[record_timestamps_ms < 0] = -1
        parse_kernels.parse(
            _bytes(text), _ends(values), _bytes(b"".join(known)), _ends(known), latest, self._names, self._types,
            self._rules, *where, MAX_RECORD_BYTES, plain, fields.time, fields.value, fields.type, fields.item,
            fields.event, spans,
        )  # fmt: skip


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8) if text else fixed(np.zeros(1, np.uint8))


def _ends(parts: Sequence[bytes]) -> NDArray[np.int64]:
    return np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


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
