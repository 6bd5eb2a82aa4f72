"""Why a record is no good, as a value: rejected records go to the dead letters and stop nothing.

Every function here is off the hot path: it runs once it is known, or to be feared, that something is wrong.
"""

from __future__ import annotations

import enum
import functools
import json
import math
from typing import Any

import msgspec

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 8 * 1024
_SHOWN = 80
_LITERALS = {None: "null", True: "true", False: "false"}


class Reason(enum.StrEnum):
    """Why a record was rejected: a closed set, fit for a metric's label."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    BAD_ID = "bad_id"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    WRONG_PARTITION = "wrong_partition"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    TEXT_TOO_LONG = "text_too_long"
    RECORD_TOO_LARGE = "record_too_large"
    KEY_MISMATCH = "key_mismatch"
    SELF_TARGET = "self_target"


class Rejected(msgspec.Struct, frozen=True):
    """A record that must not be used. `detail`: a bounded sentence with the offending value."""

    reason: Reason
    detail: str


def reject_size(value: bytes | None, limit: int) -> Rejected:
    """Of a value that is absent, empty, or longer than `limit` bytes."""
    if not value:
        return Rejected(
            Reason.NOT_JSON,
            "the value is null, it must be a JSON object" if value is None else "the value is empty",
        )
    return Rejected(Reason.RECORD_TOO_LARGE, f"the value has {len(value)} bytes, at most {limit} are taken")


def reject_undecodable(value: bytes, error: Exception, struct: type[msgspec.Struct]) -> Rejected:
    """Why `value` is no `struct`; `error` is what the typed decode raised.

    A typed decoder stops at the first thing that it dislikes, so the text is parsed again without types:
    what is not JSON is called so, whatever else is wrong with it.
    """
    try:
        tree = _untyped.decode(value.decode())
    except (ValueError, RecursionError) as exc:
        return _reject_json(value, exc)
    if not isinstance(error, msgspec.ValidationError):
        return _reject_json(value, error)
    if not isinstance(tree, dict):
        return Rejected(Reason.NOT_AN_OBJECT, f"the value is {shown(tree)}, it must be a JSON object")
    for name, required, type_ in _fields(struct):
        if name not in tree:
            if required:
                return reject_missing(name, "it is required")
        elif problem := _reject_field(name, type_, tree[name]):
            return problem
    return Rejected(Reason.WRONG_TYPE, clipped(str(error), 200))


def reject_id(name: str, value: str) -> Rejected | None:
    """Of an id that is empty or over 256 bytes of UTF-8; None when it is neither."""
    if not value:
        return Rejected(Reason.BAD_ID, f"{name} is empty, an id has 1 to {MAX_ID_BYTES} bytes")
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        return Rejected(
            Reason.BAD_ID, f"{name} has {size} bytes, at most {MAX_ID_BYTES} are taken: {shown(value)}"
        )
    return None


def reject_long(name: str, text: str, limit: int = MAX_TEXT_BYTES) -> Rejected | None:
    """Of a text over `limit` bytes of UTF-8; None when it is not."""
    size = len(text.encode())
    if size <= limit:
        return None
    return Rejected(
        Reason.TEXT_TOO_LONG, f"{name} has {size} bytes, at most {limit} are taken: {shown(text)}"
    )


def reject_key(name: str, value: str, key: bytes | None) -> Rejected:
    """Of a record whose key is not this id."""
    found = "the record has no key" if key is None else f"the record's key is {shown(key)}"
    return Rejected(Reason.KEY_MISMATCH, f"{found}, it must be the {name} {shown(value)} in UTF-8")


def reject_missing(name: str, why: str) -> Rejected:
    """Of a record that lacks a field."""
    return Rejected(Reason.MISSING_FIELD, f"{name} is missing, {why}")


def reject_self(user_id: str) -> Rejected:
    """Of an event by which a user would follow herself."""
    return Rejected(Reason.SELF_TARGET, f"target_user_id is {shown(user_id)}, the user of the event")


def shown(value: object) -> str:
    """A value fit for a sentence: bounded, encodable as UTF-8."""
    if isinstance(value, (list, dict)):
        return "an array" if isinstance(value, list) else "an object"
    if isinstance(value, (str, bytes)) and len(value) > _SHOWN:
        return repr(value[:_SHOWN]) + "…"
    return _LITERALS[value] if value is None or isinstance(value, bool) else clipped(repr(value), 4 * _SHOWN)


def clipped(text: str, limit: int = _SHOWN) -> str:
    """The text, or its first `limit` characters and an ellipsis."""
    return text if len(text) <= limit else text[:limit] + "…"


def _reject_json(value: bytes, error: Exception) -> Rejected:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else clipped(str(error), 120)
    return Rejected(Reason.NOT_JSON, f"the value is not JSON: {why}; it begins with {shown(value)}")


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> list[tuple[str, bool, Any]]:
    """(name, required, type) of each field that is decoded; cached, as it resolves annotations."""
    fields = msgspec.structs.fields(struct)
    return [(each.name, each.required, each.type) for each in fields if each.type is not msgspec.Raw]


def _reject_field(name: str, type_: Any, value: object) -> Rejected | None:
    """Of one field whose value is not of its type, or is a number beyond every float."""
    if type_ is str and isinstance(value, str):
        return None
    infinite = isinstance(value, float) and math.isinf(value)
    try:
        msgspec.convert(0 if infinite else value, type_)
    except msgspec.ValidationError as exc:
        return Rejected(Reason.WRONG_TYPE, f"{name} is {shown(value)}: {clipped(str(exc), 200)}")
    except UnicodeEncodeError:
        return Rejected(
            Reason.WRONG_TYPE, f"{name} is {shown(value)}: half of a surrogate pair is no character"
        )
    if not _has_infinity(value):
        return None
    reason = Reason.TIMESTAMP_OUT_OF_RANGE if name == "timestamp_ms" else Reason.VALUE_OUT_OF_RANGE
    return Rejected(reason, f"{name} holds a number that no 64-bit float can hold")


def _has_infinity(value: object) -> bool:
    """An infinite number is in this JSON value."""
    if isinstance(value, (list, dict)):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


def _parse_int(digits: str) -> int | float:
    """Integers of 300 digits and more are infinite: no float holds them, and Python refuses the longest."""
    return int(digits) if len(digits) < 300 else -math.inf if digits[0] == "-" else math.inf


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"{literal} is no JSON")


_untyped = json.JSONDecoder(parse_int=_parse_int, parse_constant=_refuse_constant)
