"""Laws of decoding: nothing that a producer can send raises, and what is legal is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streamer.core.event_fields import EventFields
from streamer.core.event_types import REFRESH, EventType, EventTypes
from streamer.core.events import (
    LATEST_MS,
    MAX_AHEAD_MS,
    MAX_FLOAT32,
    Event,
    EventDecoder,
    Reason,
    Rejected,
)
from streamer.core.partitioner import Partitioner
from streamer.core.protocol import ItemRecord, decode_item

PARTITIONS = 8
PARTITIONER = Partitioner("murmur2")
STRICT = EventDecoder(EventTypes.DEFAULT, PARTITIONER, PARTITIONS)
CRC = EventDecoder(EventTypes.DEFAULT, Partitioner("crc32"), PARTITIONS)
LOOSE = EventDecoder(EventTypes.DEFAULT, None, PARTITIONS)
FIELDS = Event.__struct_fields__
SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "event.schema.json").read_text())
)

numbers = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, -(10**30), 1e308])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=70) | st.sampled_from(["\ud800", "x" * 257])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
record_times = st.integers(-1, 2**63 - 1)
keys = st.none() | st.binary(max_size=20) | st.just(b"u")
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@st.composite
def nearly_good(draw: st.DrawFn) -> dict[str, Any]:
    """A good event of which up to two fields are replaced by anything, or dropped."""
    fields: dict[str, Any] = {
        "event_id": "e",
        "user_id": "u",
        "type": "follow",
        "timestamp_ms": 1,
        "target_user_id": "v",
    }
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        fields[name] = draw(anything)
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=1)):
        fields.pop(name, None)
    return fields


@st.composite
def good(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A legal event or request, and the time of its record."""
    kind: EventType | None = draw(st.none() | st.sampled_from(list(EventTypes.DEFAULT)))
    recorded_ms = draw(st.integers(0, 2**63 - 1))
    low = max(kind.value_min if kind else -MAX_FLOAT32, -MAX_FLOAT32)
    high = min(kind.value_max if kind else MAX_FLOAT32, MAX_FLOAT32)
    target = kind is not None and kind.needs_target
    optional: dict[str, st.SearchStrategy[Any]] = {
        "item_id": st.none() | ids,
        "target_user_id": ids,
        "session_id": st.none() | ids,
        "value": st.none() | st.floats(low, high),
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
        "context": st.dictionaries(ids, st.integers() | ids | st.booleans(), max_size=3),
    }
    required = {"target_user_id"} if target else set()
    chosen = draw(st.sets(st.sampled_from(sorted(optional)))) | required
    fields = {
        "event_id": draw(ids),
        "user_id": draw(ids),
        "type": kind.name if kind else REFRESH,
        "timestamp_ms": draw(st.integers(0, min(recorded_ms + MAX_AHEAD_MS, LATEST_MS))),
    }
    fields |= {name: draw(optional[name]) for name in sorted(chosen)}
    if target:
        assume(fields["target_user_id"] != fields["user_id"])
    return fields, recorded_ms


def check(value: bytes | None, key: bytes | None, partition: int, recorded_ms: int) -> None:
    for decoder in (STRICT, LOOSE):
        result = decoder.decode(value, key, partition, recorded_ms)
        if isinstance(result, Rejected):
            assert isinstance(result.reason, Reason)
            assert 0 < len(result.detail.encode()) < 2000
        else:
            assert isinstance(result, Event)
            assert key == result.user_id.encode()
            assert 0 <= result.timestamp_ms <= LATEST_MS
            for name in ("event_id", "item_id", "target_user_id", "session_id", "text"):
                (getattr(result, name) or "").encode()
    item = decode_item(value, key)
    assert item is None or isinstance(item, ItemRecord | Rejected)


@given(st.none() | st.binary(max_size=300), keys, record_times)
@example(b"\x00" * 70_000, b"u", 0)
def test_any_bytes_are_an_event_or_rejected(value: bytes | None, key: bytes | None, recorded_ms: int) -> None:
    check(value, key, 0, recorded_ms)


@given(anything, keys, record_times, st.booleans())
def test_any_json_is_an_event_or_rejected(
    tree: Any, key: bytes | None, recorded_ms: int, escape: bool
) -> None:
    check(json.dumps(tree, ensure_ascii=escape).encode("utf-8", "surrogatepass"), key, 0, recorded_ms)


@given(nearly_good(), keys, record_times, st.integers(0, PARTITIONS - 1))
def test_any_nearly_good_event_is_an_event_or_rejected(
    fields: dict[str, Any], key: bytes | None, recorded_ms: int, partition: int
) -> None:
    check(json.dumps(fields).encode(), key, partition, recorded_ms)


@given(good(), st.data())
def test_damaged_bytes_are_an_event_or_rejected(
    event: tuple[dict[str, Any], int], data: st.DataObject
) -> None:
    fields, recorded_ms = event
    value = bytearray(json.dumps(fields).encode())
    at = data.draw(st.integers(0, len(value) - 1))
    value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(bytes(value), fields["user_id"].encode(), 0, recorded_ms)


@given(good(), st.booleans())
def test_a_legal_event_is_taken_as_it_is(event: tuple[dict[str, Any], int], escape: bool) -> None:
    fields, recorded_ms = event
    key = fields["user_id"].encode()
    value = json.dumps(fields, ensure_ascii=escape).encode()
    result = STRICT.decode(value, key, PARTITIONER.partition(key, PARTITIONS), recorded_ms)
    assert isinstance(result, Event), result
    SCHEMA.validate(fields)
    written = msgspec.json.decode(msgspec.json.encode(result))
    assert written == {name: each for name, each in fields.items() if each is not None}


odd_numbers = st.sampled_from(
    ["0", "-0", "-0.0", "00", "01", "1.", ".5", "+1", "1e2", "1E-2", "0.1", "5.0", "-3.25", "123456789012345", "1234567890123456",
     "0.000000000000001", "9007199254740993", "1e400", "NaN", "Infinity", "true", "null", "1700000000000.0", "-"]
)  # fmt: skip
odd_strings = st.sampled_from(
    ['""', '"a\\u0041"', '"\\ud800"', '"a\\"b"', '"\\x"', '"tab\there"', '"unclosed', '"é"', '"😀"', '"' + "é" * 64 + '"']
    + ['"' + "x" * n + '"' for n in (64, 65, 8192, 8193)]
)  # fmt: skip
odd_nests = st.sampled_from(["[1,]", "{}}", "[[[]]]", '{"a":{"b":[0,{}]}}', "[1 2]", "[" * 70 + "]" * 70])
space = st.sampled_from(["", "", "", " ", "\n", "\t \r\n", "\f", "\u00a0"])


@st.composite
def spelled(draw: st.DrawFn) -> bytes:
    """A record of `u`, written in any way, in which up to two things are odd."""
    members = {
        "event_id": json.dumps(draw(ids)),
        "user_id": '"u"',
        "type": json.dumps(
            draw(st.sampled_from(["view", "rating", "follow", "refresh", "search", "Rating"]))
        ),
        "timestamp_ms": str(draw(st.integers(0, 2 * MAX_AHEAD_MS))),
        "item_id": json.dumps(draw(ids), ensure_ascii=draw(st.booleans())),
        "target_user_id": json.dumps(draw(ids | st.just("u"))),
        "value": json.dumps(
            draw(st.none() | st.integers(-1, 11) | st.floats(allow_nan=False, allow_infinity=False))
        ),
        "text": json.dumps(draw(ids), ensure_ascii=False),
        "session_id": "null",
        "context": json.dumps(draw(anything)),
        draw(st.sampled_from(["unknown", "", "typo", "Type"])): json.dumps(draw(anything)),
    }
    for name in draw(st.sets(st.sampled_from(list(members)[4:]))):
        del members[name]
    for name in draw(st.lists(st.sampled_from(list(members)), max_size=2)):
        members[name] = draw(
            odd_numbers
            | odd_strings
            | st.sampled_from(["[1,]", "{}}", "[[[]]]", '{"a":{"b":[0,{}]}}', "[1 2]"])
        )
    parts = [(name, value) for name, value in members.items() if draw(st.integers(0, 30))]
    parts += (
        draw(st.lists(st.sampled_from(parts), max_size=1)) if parts and not draw(st.integers(0, 5)) else []
    )
    parts = draw(st.permutations(parts))
    inside = ",".join(
        f'{draw(space)}"{name}"{draw(space)}:{draw(space)}{value}{draw(space)}' for name, value in parts
    )
    whole = (
        draw(space)
        + "{"
        + inside
        + draw(st.sampled_from(["}", "}", "}", "", ",}", "}}", "} {"]))
        + draw(space)
    )
    return whole.encode(errors="surrogatepass")


def careful(
    decoder: EventDecoder, values: list[bytes | None], record_keys: list[bytes | None], times: list[int]
) -> tuple[EventFields, list[int], list[tuple[int, str]], list[tuple[int, Rejected]]]:
    """What comes of records that are looked at one by one."""
    found = [
        decoder.decode(*record, 0, time)
        for record, time in zip(zip(values, record_keys, strict=True), times, strict=True)
    ]
    good = [at for at, each in enumerate(found) if isinstance(each, Event)]
    events = [each for each in found if isinstance(each, Event)]
    texts = [
        (place, event.text)
        for place, event in enumerate(events)
        if event.text and event.type != REFRESH and EventTypes.DEFAULT.by_name[event.type].uses_text
    ]
    rejected = [(at, each) for at, each in enumerate(found) if isinstance(each, Rejected)]
    return EventFields.of(events, EventTypes.DEFAULT), good, texts, rejected


def assert_decoded_alike(
    values: list[bytes | None], record_keys: list[bytes | None], times: list[int]
) -> None:
    for decoder in (STRICT, LOOSE, CRC):
        fields, good, texts, rejected = careful(decoder, values, record_keys, times)
        together = decoder.decode_run(values, record_keys, 0, np.array(times, np.int64))
        assert together.rejected == rejected
        assert together.good.tolist() == good
        assert together.texts == texts
        for name in EventFields.__slots__:
            assert getattr(together.fields, name).tobytes() == getattr(fields, name).tobytes(), name


@settings(deadline=None)
@example(
    records=[({"event_id": "e", "user_id": "u", "text": [], "value": "\ud800"}, 0)], mixed=False, data=None
)
@given(
    st.lists(good() | st.tuples(nearly_good(), st.integers(0, 2**62)), max_size=25),
    st.booleans(),
    st.data(),
)
def test_a_run_is_decoded_as_its_records_are(
    records: list[tuple[dict[str, Any], int]], mixed: bool, data: st.DataObject
) -> None:
    """Also where values hold newlines, so that two of them might be taken for others."""
    values: list[bytes | None] = [json.dumps(event).encode() for event, _ in records]
    if mixed and values:
        at = data.draw(st.integers(0, len(values) - 1))
        odd = [
            None,
            b"",
            b"\n",
            b"{}\n{}",
            (values[at] or b"") + b"\n",
            b"[1",
            b"1]",
            (values[at] or b"")[:-3],
            (values[at] or b"")[:-1] + b',"x":"\xc3\xa9"}',
            (values[at] or b"")[:-1] + b',"x":"\xc3"}',
            (values[at] or b"") + b"\xc3",
        ]
        values[at] = data.draw(st.sampled_from(odd))
    users = [event.get("user_id") for event, _ in records]
    record_keys = [user.encode(errors="replace") if isinstance(user, str) else None for user in users]
    assert_decoded_alike(values, record_keys, [recorded_ms for _, recorded_ms in records])


@settings(deadline=None)
@given(st.lists(st.tuples(spelled(), st.just(MAX_AHEAD_MS) | record_times), min_size=1, max_size=4))
def test_a_run_is_decoded_as_its_records_are_however_they_are_spelled(
    records: list[tuple[bytes, int]],
) -> None:
    values: list[bytes | None] = [value for value, _ in records]
    assert_decoded_alike(values, [b"u"] * len(values), [time for _, time in records])


@settings(deadline=None)
@given(st.lists(spelled(), min_size=1, max_size=3), st.data())
def test_no_cut_or_changed_byte_is_decoded_otherwise(records: list[bytes], data: st.DataObject) -> None:
    values: list[bytes | None] = []
    for value in records:
        at = data.draw(st.integers(0, len(value) - 1))
        byte = data.draw(st.sampled_from(list(b'{}[]",:\\ 0e-.\n\x00\x80\xc3\xff')))
        values.append(data.draw(st.sampled_from([value[:at], value[:at] + bytes([byte]) + value[at + 1 :]])))
    assert_decoded_alike(values, [b"u"] * len(values), [MAX_AHEAD_MS] * len(values))


def test_each_reason_is_reachable() -> None:
    base = {"event_id": "e", "user_id": "u", "type": "view", "timestamp_ms": 1}
    right = PARTITIONER.partition(b"u", PARTITIONS)

    def reason(value: bytes, key: bytes = b"u", partition: int = right) -> Reason | None:
        result = STRICT.decode(value, key, partition, 0)
        return result.reason if isinstance(result, Rejected) else None

    def changed(**changes: Any) -> bytes:
        return json.dumps(base | changes).encode()

    reached = {
        reason(b""),
        reason(b"[]"),
        reason(b"{}"),
        reason(changed(event_id=1)),
        reason(changed(event_id="")),
        reason(changed(type="viewed")),
        reason(changed(timestamp_ms=-1)),
        reason(changed(), partition=right - 1),
        reason(changed(value=1e300)),
        reason(changed(text="x" * 9000)),
        reason(changed(context="x" * 70_000)),
        reason(changed(), key=b"v"),
        reason(changed(type="follow", target_user_id="u")),
    }
    assert reached == set(Reason)
