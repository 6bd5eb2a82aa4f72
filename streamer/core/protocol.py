"""The records on Headwater's topics but `events` (core/events.py): JSON, or msgpack in `item-vectors`."""

from __future__ import annotations

from typing import Literal

import msgspec

from streamer.core.events import MAX_FLOAT32
from streamer.core.rejections import (
    Reason,
    Rejected,
    reject_id,
    reject_key,
    reject_long,
    reject_size,
    reject_undecodable,
)

MAX_ITEM_BYTES = 1024 * 1024
"""An item may carry vectors, so its record may be larger than an event's."""
MAX_ITEM_TEXT_BYTES = 64 * 1024
MAX_CATEGORIES = 64


class ItemRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Value on `items`, key item_id; a null value withdraws the item."""

    item_id: str
    title: str
    text: str = ""
    categories: list[str] = []
    price: float | None = None
    available: bool = True
    vectors: dict[str, list[float]] | None = None
    """Extra content vectors by name, any length each."""


class ItemVector(msgspec.Struct, frozen=True):
    """Value on `item-vectors` (internal, msgpack), key item_id: an item's content as one encoder saw it."""

    item_id: str
    encoder: str
    """First 16 hex digits of the encoder's digest: vectors of different encoders must not be mixed."""
    vector: bytes
    """(384,) fp16, little-endian"""
    available: bool
    categories: list[str]
    partition: int
    """Of the `items` record, with its offset: of two vectors of an item the later offset wins."""
    offset: int
    schema: Literal[1] = 1


class Release(msgspec.Struct, frozen=True):
    """Value on `models`, key the slot (`champion`, `challenger`); null empties the slot."""

    version: str
    uri: str
    """Where the artefact's directory is; every worker must be able to read it."""
    sha256: str
    """Of its manifest.json, 64 hex digits."""
    released_ms: int
    metrics: dict[str, float] = {}


class Source(msgspec.Struct, frozen=True, gc=False):
    """The last record of `events` that a record includes."""

    topic: str
    partition: int
    offset: int


class Recommendation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One item of a top-k."""

    item_id: str
    score: float
    because: str | None = None
    """The past item that supports it most."""
    signal: str | None = None
    """What carried it most, in a blended list: a name of core.signals.features.Signal, in lower case."""


class Recommendations(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Value on `recommendations`, key user_id. Consumers drop what is older by (version, revision)."""

    user_id: str
    version: int
    """Events that the user's state has absorbed; 0 for somebody who has only asked."""
    revision: int
    """Requests for a fresh list that the user's state has seen."""
    as_of_ms: int
    """The user's watermark, event time; -1 without any event."""
    model_version: str
    strategy: Literal["model", "popularity", "blend"]
    items: list[Recommendation]
    """Best first."""
    source: Source
    weights: str | None = None
    """Name of the weights on `signal-weights` that a blended list was made with."""


class Label(msgspec.Struct, frozen=True, gc=False):
    """One interest, and its share or probability."""

    label: str
    p: float


class Profile(msgspec.Struct, frozen=True, gc=False):
    """Value on `profiles`, key user_id; version, revision and as_of_ms as in Recommendations."""

    user_id: str
    version: int
    revision: int
    as_of_ms: int
    model_version: str
    interests: dict[str, list[Label]]
    """`short_term`, `long_term` (decayed interests in categories), each task of the model; largest first."""
    activity: dict[str, dict[str, int]]
    """`1h`, `24h`, `7d` → events per type, types without any left out."""
    source: Source


_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_item = msgspec.json.Decoder(ItemRecord)
_item_vector = msgspec.msgpack.Decoder(ItemVector)
_release = msgspec.json.Decoder(Release)


def encode(record: ItemRecord | ItemVector | Release | Recommendations | Profile) -> bytes:
    """The record's value as it lies on its topic. A NaN or infinite number becomes null: keep them out."""
    return _msgpack.encode(record) if isinstance(record, ItemVector) else _json.encode(record)


def decode_item(value: bytes | None, key: bytes | None) -> ItemRecord | Rejected | None:
    """The item of an `items` record, None when it was withdrawn (null value), or why it is rejected.

    Never raises. A withdrawal's key must be a legal id too. A category that is listed twice counts once.
    """
    if value is None:
        return _reject_withdrawal(key)
    if not value or len(value) > MAX_ITEM_BYTES:
        return reject_size(value, MAX_ITEM_BYTES)
    try:
        item = _item.decode(value)
        value.decode()  # the parser skips unknown fields without looking at their characters
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return reject_undecodable(value, exc, ItemRecord)
    problem = (
        reject_id("item_id", item.item_id)
        or (None if key == item.item_id.encode() else reject_key("item_id", item.item_id, key))
        or reject_long("title", item.title)
        or reject_long("text", item.text, MAX_ITEM_TEXT_BYTES)
        or _reject_categories(item.categories)
        or _reject_numbers(item)
    )
    if problem:
        return problem
    distinct = list(dict.fromkeys(item.categories))
    return (
        item if len(distinct) == len(item.categories) else msgspec.structs.replace(item, categories=distinct)
    )


def decode_item_vector(value: bytes) -> ItemVector:
    """Raises msgspec.MsgspecError when the bytes are no ItemVector of schema 1."""
    return _item_vector.decode(value)


def decode_release(value: bytes) -> Release:
    """Raises msgspec.MsgspecError when the bytes are no Release."""
    return _release.decode(value)


def _reject_withdrawal(key: bytes | None) -> Rejected | None:
    if key is None:
        return Rejected(
            Reason.KEY_MISMATCH, "the record has neither key nor value: a withdrawal's key is the item_id"
        )
    try:
        return reject_id("the key", key.decode())
    except UnicodeDecodeError as exc:
        return Rejected(Reason.KEY_MISMATCH, f"the key {key[:80]!r} is no UTF-8: {exc.reason}")


def _reject_categories(categories: list[str]) -> Rejected | None:
    if len(categories) > MAX_CATEGORIES:
        return Rejected(
            Reason.VALUE_OUT_OF_RANGE,
            f"categories has {len(categories)} entries, at most {MAX_CATEGORIES} are taken",
        )
    problems = (reject_id(f"categories[{index}]", name) for index, name in enumerate(categories))
    return next(filter(None, problems), None)


def _reject_numbers(item: ItemRecord) -> Rejected | None:
    if item.price is not None and item.price < 0:
        return Rejected(Reason.VALUE_OUT_OF_RANGE, f"price is {item.price!r}, it must not be negative")
    for name, vector in (item.vectors or {}).items():
        if problem := reject_id("a vector's name", name):
            return problem
        if vector and max(map(abs, vector)) > MAX_FLOAT32:
            return Rejected(
                Reason.VALUE_OUT_OF_RANGE, f"vectors.{name} holds a number that no 32-bit float can hold"
            )
    return None
