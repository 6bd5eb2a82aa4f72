"""Records of the topics: strict decoding, and the published schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from streamer.core.events import Reason, Rejected
from streamer.core.protocol import (
    ItemRecord,
    ItemVector,
    Label,
    Profile,
    Recommendation,
    Recommendations,
    Release,
    Source,
    decode_item,
    decode_item_vector,
    decode_release,
    encode,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
ITEM: dict[str, Any] = {"item_id": "i", "title": "Heat"}
SOURCE = Source("events", 3, 41)
LIST = Recommendations(
    "u",
    7,
    0,
    1_700_000_000_000,
    "m1",
    "model",
    [Recommendation("i", 1.5, "h"), Recommendation("j", 1.0)],
    SOURCE,
)
PROFILE = Profile(
    "u", 7, 0, 1_700_000_000_000, "m1",
    {"short_term": [Label("Crime", 1.0)], "long_term": [], "event_type": [Label("view", 0.75)]},
    {"1h": {}, "24h": {"view": 2}, "7d": {"view": 2}}, SOURCE,
)  # fmt: skip
RELEASE = Release("m1", "file:///models/m1", "0" * 64, 1_700_000_000_000, {"ndcg@10": 0.09})
VECTOR = ItemVector("i", "0123456789abcdef", b"\x00\x3c" * 384, True, ["Crime"], 2, 9)


def schema(name: str) -> Draft202012Validator:
    content = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def problem(item: Rejected | ItemRecord | None) -> Reason | None:
    return item.reason if isinstance(item, Rejected) else None


def decode_with(**changes: Any) -> Rejected | ItemRecord | None:
    return decode_item(json.dumps(ITEM | changes).encode(), b"i")


def test_an_item_arrives() -> None:
    assert decode_with() == ItemRecord("i", "Heat")
    assert decode_with(
        text="t", categories=["a"], price=2, available=False, vectors={"image": [1, 2.5]}
    ) == ItemRecord("i", "Heat", "t", ["a"], 2.0, False, {"image": [1.0, 2.5]})


def test_a_null_item_is_withdrawn() -> None:
    assert decode_item(None, b"i") is None
    assert problem(decode_item(None, None)) == Reason.KEY_MISMATCH
    assert problem(decode_item(None, b"\xff")) == Reason.KEY_MISMATCH
    assert problem(decode_item(None, b"")) == Reason.BAD_ID


def test_a_category_counts_once() -> None:
    assert decode_with(categories=["b", "a", "b"]) == ItemRecord("i", "Heat", categories=["b", "a"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b'{"item_id": "i", "title": "x", "y": "\xff"}', Reason.NOT_JSON),
        (b"[" * 99_999, Reason.NOT_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b'{"item_id": "i"}', Reason.MISSING_FIELD),
        (b'{"item_id": "j", "title": "x"}', Reason.KEY_MISMATCH),
        (b'{"item_id": "i", "title": "x", "vectors": {"a": [1e999]}}', Reason.VALUE_OUT_OF_RANGE),
        (b'{"item_id": "i", "title": "x", "price": 1e999}', Reason.VALUE_OUT_OF_RANGE),
        (b'{"item_id": "i", "title": "x", "y": "%b"}' % (b"x" * 1_048_576), Reason.RECORD_TOO_LARGE),
    ],
)
def test_a_bad_item_is_rejected(value: bytes, reason: Reason) -> None:
    assert problem(decode_item(value, b"i")) == reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("item_id", "", Reason.BAD_ID),
        ("item_id", "x" * 257, Reason.BAD_ID),
        ("title", None, Reason.WRONG_TYPE),
        ("title", "x" * 8193, Reason.TEXT_TOO_LONG),
        ("text", "é" * 32769, Reason.TEXT_TOO_LONG),
        ("categories", "Crime", Reason.WRONG_TYPE),
        ("categories", [1], Reason.WRONG_TYPE),
        ("categories", ["a", ""], Reason.BAD_ID),
        ("categories", ["a"] * 65, Reason.VALUE_OUT_OF_RANGE),
        ("price", True, Reason.WRONG_TYPE),
        ("price", -1, Reason.VALUE_OUT_OF_RANGE),
        ("available", 1, Reason.WRONG_TYPE),
        ("vectors", {"a": ["1"]}, Reason.WRONG_TYPE),
        ("vectors", {"a": [1e39]}, Reason.VALUE_OUT_OF_RANGE),
        ("vectors", {"": [1]}, Reason.BAD_ID),
    ],
)
def test_a_bad_field_of_an_item_is_rejected(name: str, value: Any, reason: Reason) -> None:
    assert problem(decode_with(**{name: value})) == reason


def test_vectors_and_releases_make_the_round_trip() -> None:
    assert decode_item_vector(encode(VECTOR)) == VECTOR
    assert decode_release(encode(RELEASE)) == RELEASE


def test_a_vector_of_another_schema_is_refused() -> None:
    newer = msgspec.to_builtins(VECTOR, builtin_types=(bytes,)) | {"schema": 2}
    with pytest.raises(msgspec.ValidationError, match="schema"):
        decode_item_vector(msgspec.msgpack.encode(newer))


def test_an_absent_because_is_left_out() -> None:
    assert [sorted(each) for each in json.loads(encode(LIST))["items"]] == [
        ["because", "item_id", "score"],
        ["item_id", "score"],
    ]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("recommendations", LIST),
        ("profile", PROFILE),
        ("release", RELEASE),
        ("item", ItemRecord("i", "Heat")),
        ("item", ItemRecord("i", "Heat", "t", ["a"], 2.0, False, {"image": [1.0]})),
    ],
)
def test_what_is_written_fits_its_schema(name: str, record: Any) -> None:
    schema(name).validate(json.loads(encode(record)))


@pytest.mark.parametrize(
    ("name", "record", "path", "value"),
    [
        ("recommendations", LIST, ["strategy"], "luck"),
        ("recommendations", LIST, ["version"], -1),
        ("recommendations", LIST, ["as_of_ms"], None),
        ("recommendations", LIST, ["items", 0, "score"], None),  # NaN is encoded so
        ("recommendations", LIST, ["items", 0, "because"], None),
        ("recommendations", LIST, ["items", 0, "item_id"], ""),
        ("recommendations", LIST, ["source", "offset"], -1),
        ("recommendations", LIST, ["extra"], 1),
        ("profile", PROFILE, ["interests", "short_term", 0, "p"], 1.5),
        ("profile", PROFILE, ["interests"], {"short_term": []}),
        ("profile", PROFILE, ["activity", "24h", "view"], 0),
        ("profile", PROFILE, ["activity", "2h"], {}),
        ("profile", PROFILE, ["source", "extra"], 1),
        ("release", RELEASE, ["sha256"], "0" * 63),
        ("item", ItemRecord("i", "Heat"), ["price"], -1),
        ("item", ItemRecord("i", "Heat"), ["colour"], "red"),
    ],
)
def test_a_malformed_record_fails_its_schema(name: str, record: Any, path: list[Any], value: Any) -> None:
    content = json.loads(encode(record))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not schema(name).is_valid(content)
