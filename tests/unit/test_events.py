"""Each way in which an event can be good or bad."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from streamer.core import parse_kernels
from streamer.core.event_fields import EventFields
from streamer.core.event_types import REFRESH_CODE, EventTypes
from streamer.core.events import LATEST_MS, Event, EventDecoder, Reason, Rejected
from streamer.core.partitioner import Kind, Partitioner
from streamer.core.rejections import MAX_TEXT_BYTES

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
GOOD: dict[str, Any] = {"event_id": "e", "user_id": "u", "type": "view", "timestamp_ms": NOW_MS}
ANY_PARTITION = EventDecoder(EventTypes.DEFAULT, None, 8)


def decode(value: bytes, key: bytes | None = b"u", record_timestamp_ms: int = NOW_MS) -> Event | Rejected:
    return ANY_PARTITION.decode(value, key, 0, record_timestamp_ms)


def decode_with(record_timestamp_ms: int = NOW_MS, /, **changes: Any) -> Event | Rejected:
    fields = GOOD | changes
    key = fields["user_id"].encode() if isinstance(fields["user_id"], str) else b"u"
    return decode(json.dumps(fields).encode(), key, record_timestamp_ms)


def raw(field: str, literal: bytes) -> bytes:
    """A good event, but for a field given as JSON text."""
    rest = {name: value for name, value in GOOD.items() if name != field}
    return json.dumps(rest).encode()[:-1] + b', "%b": %b}' % (field.encode(), literal)


def reason(result: Event | Rejected) -> Reason | None:
    return result.reason if isinstance(result, Rejected) else None


def test_every_field_arrives() -> None:
    fields = GOOD | {
        "type": "review", "item_id": "i", "target_user_id": "v", "value": 3, "text": "né", "session_id": "s",
        "context": {"a": [1]}, "unknown": None,
    }  # fmt: skip
    assert decode(json.dumps(fields).encode()) == Event(
        "e", "u", "review", NOW_MS, "i", "v", 3.0, "né", "s", msgspec.Raw(b'{"a": [1]}')
    )


def test_optional_fields_may_be_null() -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ("item_id", "target_user_id", "value", "text", "session_id", "context")
    )
    assert decode_with(**nulls) == decode_with() == Event("e", "u", "view", NOW_MS)


def test_an_event_is_encoded_without_what_it_lacks() -> None:
    assert json.loads(msgspec.json.encode(Event(**GOOD))) == GOOD


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"{", b"nope", b"{} {}", b'\xef\xbb\xbf{}', "{}".encode("utf-16"), b"\x00\xff",
        raw("value", b"NaN"), raw("value", b"Infinity"), raw("value", b"-Infinity"), raw("value", b"01"),
        raw("item_id", b'"\xff"'), raw("item_id", b'"\xed\xa0\x80"'), raw("item_id", rb'"\ud800"'),
        raw("item_id", rb'"\udc00 and more"'), raw("item_id", b'"\x01"'),
        raw("context", b'"\xff"'), raw("unknown", b'"\xff"'), raw("context", b"[1,}"),
        raw("context", b"[" * 30_000 + b"]" * 30_000), raw("item_id", b"[" * 30_000 + b"]" * 30_000),
        b"[" * 60_000,
        raw("event_id", b"1")[:-1],  # a wrong type, but no JSON either
    ],
)  # fmt: skip
def test_not_json(value: bytes) -> None:
    assert reason(decode(value)) == Reason.NOT_JSON


def test_null_value() -> None:
    assert reason(ANY_PARTITION.decode(None, b"u", 0, NOW_MS)) == Reason.NOT_JSON


@pytest.mark.parametrize("value", [b"null", b"[]", b'"e"', b"1", b"1e999", b"true", b"9" * 5000])
def test_not_an_object(value: bytes) -> None:
    assert reason(decode(value)) == Reason.NOT_AN_OBJECT


@pytest.mark.parametrize("name", sorted(GOOD))
def test_missing_field(name: str) -> None:
    result = decode(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())
    assert result == Rejected(Reason.MISSING_FIELD, f"{name} is missing, it is required")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_id", 1), ("user_id", None), ("type", ["view"]), ("item_id", 1.5), ("text", {}),
        ("session_id", True), ("timestamp_ms", "1"), ("timestamp_ms", 1.0), ("timestamp_ms", True),
        ("timestamp_ms", None),
        ("value", "1"), ("value", True), ("value", [1.0]), ("target_user_id", False),
    ],
)  # fmt: skip
def test_wrong_type(name: str, value: Any) -> None:
    result = decode_with(**{name: value})
    assert reason(result) == Reason.WRONG_TYPE
    assert isinstance(result, Rejected)
    assert result.detail.startswith(f"{name} is ")


@pytest.mark.parametrize("name", ["event_id", "user_id", "item_id", "target_user_id", "session_id"])
def test_ids_have_1_to_256_bytes(name: str) -> None:
    for good in ("x", "x" * 256, "é" * 128, "😀" * 64):
        fields: dict[str, Any] = {name: good}
        assert reason(decode_with(**fields)) is None, good
    for bad in ("", "x" * 257, "é" * 129, "😀" * 65):
        fields = {name: bad}
        assert reason(decode_with(**fields)) == Reason.BAD_ID, bad


def test_unknown_event_type() -> None:
    result = decode_with(type="viewed")
    assert isinstance(result, Rejected)
    assert result.reason == Reason.UNKNOWN_EVENT_TYPE
    assert result.detail.startswith("type 'viewed' is not configured; known are view, click, ")


def test_a_request_for_a_fresh_list_is_checked_as_an_event_is() -> None:
    assert decode_with(type="refresh") == Event("e", "u", "refresh", NOW_MS)
    assert reason(decode_with(type="refresh", item_id="i", value=1e9, text="anything")) is None
    assert reason(decode_with(type="Refresh")) == Reason.UNKNOWN_EVENT_TYPE
    assert reason(decode_with(type="refresh", timestamp_ms=NOW_MS + DAY_MS + 1)) == (
        Reason.TIMESTAMP_OUT_OF_RANGE
    )
    assert reason(decode_with(type="refresh", event_id="")) == Reason.BAD_ID
    assert reason(decode_with(type="refresh", item_id="")) == Reason.BAD_ID
    assert reason(decode(json.dumps(GOOD | {"type": "refresh"}).encode(), b"v")) == Reason.KEY_MISMATCH


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type": "refresh"},
        {"type": "search", "text": "blå skjorte"},
        {"type": "rating", "value": 4.5},
        {"type": "rating", "value": 4},
        {"type": "view", "value": -0.25, "session_id": None},
        {"type": "follow", "target_user_id": "v"},
        {"item_id": "日本" * 10},
        {"context": {"page": [1, {"a": None}], "quoted": 'a "b" \\n'}, "unknown": [[], {}], "": 1e9},
    ],
)
def test_usual_records_are_plain(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """None is looked at alone, which costs several times as much."""
    value = json.dumps(GOOD | changes, ensure_ascii=False).encode()
    expected = EventFields.of([msgspec.json.decode(value, type=Event)], EventTypes.DEFAULT)
    for partitioner in (None, Partitioner("murmur2"), Partitioner("crc32")):
        decoder = EventDecoder(EventTypes.DEFAULT, partitioner, 8)
        partition = 0 if partitioner is None else partitioner.partition(b"u", 8)
        monkeypatch.setattr(decoder, "decode", lambda *record: pytest.fail(f"{record} was looked at alone"))
        found = decoder.decode_run([value], [b"u"], partition, np.array([NOW_MS]))
        for name in EventFields.__slots__:
            assert getattr(found.fields, name).tolist() == getattr(expected, name).tolist(), name


def test_limits_of_kernels_are_those_of_the_decoder() -> None:
    assert parse_kernels.MAX_TEXT_BYTES == MAX_TEXT_BYTES
    assert parse_kernels.NO_EVENT == REFRESH_CODE
    assert {parse_kernels.PARTITIONERS[kind] for kind in get_args(Kind)} == {0, 1, 2}


def test_timestamps_end_a_day_after_the_record() -> None:
    assert reason(decode_with(timestamp_ms=0)) is None
    assert reason(decode_with(timestamp_ms=NOW_MS + DAY_MS)) is None
    for bad in (-1, NOW_MS + DAY_MS + 1, 2**63, -(2**63), 10**30):
        assert reason(decode_with(timestamp_ms=bad)) == Reason.TIMESTAMP_OUT_OF_RANGE, bad
    for literal in (b"9" * 400, b"-" + b"9" * 5000, b"1e999"):
        assert reason(decode(raw("timestamp_ms", literal))) == Reason.TIMESTAMP_OUT_OF_RANGE


def test_timestamps_fit_the_rolling_counts_whatever_the_record_says() -> None:
    assert reason(decode_with(2**63 - 1, timestamp_ms=LATEST_MS)) is None
    assert reason(decode_with(2**63 - 1, timestamp_ms=LATEST_MS + 1)) == Reason.TIMESTAMP_OUT_OF_RANGE


def test_a_record_without_a_time_is_rejected() -> None:
    assert reason(decode_with(-1, timestamp_ms=0)) == Reason.TIMESTAMP_OUT_OF_RANGE


def test_values_stay_within_their_types_range() -> None:
    for good in (0, 10, 3.5, -0.0):
        assert reason(decode_with(type="rating", value=good)) is None, good
    for bad in (-0.1, 10.1):
        assert reason(decode_with(type="rating", value=bad)) == Reason.VALUE_OUT_OF_RANGE, bad
    assert reason(decode_with(type="dwell", value=1e9)) is None
    assert reason(decode_with(type="dwell", value=-1)) == Reason.VALUE_OUT_OF_RANGE


@pytest.mark.parametrize("literal", [b"1e999", b"-1e999", b"1e39", b"9" * 400, b"9" * 5000])
def test_values_fit_32_bits(literal: bytes) -> None:
    assert reason(decode(raw("value", literal))) == Reason.VALUE_OUT_OF_RANGE


def test_texts_have_at_most_8_kib() -> None:
    for good in ("", "x" * 8192, "é" * 4096, "😀" * 2048):
        assert reason(decode_with(type="search", text=good)) is None
    for bad in ("x" * 8193, "é" * 4097, "😀" * 2049):
        assert reason(decode_with(type="search", text=bad)) == Reason.TEXT_TOO_LONG


def test_records_have_at_most_64_kib() -> None:
    padding = 65536 - len(raw("context", b'""'))
    assert reason(decode(raw("context", b'"%b"' % (b"x" * padding)))) is None
    assert reason(decode(raw("context", b'"%b"' % (b"x" * (padding + 1))))) == Reason.RECORD_TOO_LARGE


@pytest.mark.parametrize("key", [None, b"", b"v", b"u ", b"\xff"])
def test_the_key_is_the_user(key: bytes | None) -> None:
    assert reason(decode(json.dumps(GOOD).encode(), key)) == Reason.KEY_MISMATCH


def test_a_follow_names_its_target() -> None:
    assert reason(decode_with(type="follow", target_user_id="v")) is None
    assert reason(decode_with(type="follow")) == Reason.MISSING_FIELD


def test_wrong_partition_says_how_to_mend_the_producer() -> None:
    partitioner = Partitioner("murmur2")
    decoder = EventDecoder(EventTypes.DEFAULT, partitioner, 8)
    right = partitioner.partition(b"u", 8)
    value = json.dumps(GOOD).encode()
    assert reason(decoder.decode(value, b"u", right, NOW_MS)) is None
    result = decoder.decode(value, b"u", (right + 1) % 8, NOW_MS)
    assert isinstance(result, Rejected)
    assert result.reason == Reason.WRONG_PARTITION
    assert f"partition {(right + 1) % 8}, murmur2 puts it on {right} of 8" in result.detail
    assert "partitioner=murmur2_random" in result.detail


def test_without_a_partitioner_any_partition_will_do() -> None:
    decoder = EventDecoder(EventTypes.DEFAULT, Partitioner("off"), 8)
    value = json.dumps(GOOD).encode()
    assert all(reason(decoder.decode(value, b"u", partition, NOW_MS)) is None for partition in range(8))
