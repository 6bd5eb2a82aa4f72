"""The records of the state table: layouts, keys, and reading them back.

Little-endian and packed. Three kinds, all of which start with (schema u1, kind u1, applied i8), so that recovery can compare
any two records of one key without knowing more of them:

    head     b"h" + user                       counters, GRU state, interests, open segment; then the rolling counts
    segment  b"p" + user + FF + b"s" + slot     16 events of the behaviour window, written once
    chunk    b"p" + user + FF + b"c" + index    up to 128 distinct hashes of consumed items

Heads change with every event, what is past hardly ever: apart, heads stay dense, and a user's past lies side by side, read by
one seek. Slot and index are one byte each. No UTF-8 holds the byte FF, so nobody else's keys lie between.
Heads are read in bulk: the fixed parts of a batch are joined and seen as one structured array, without a copy per user.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StateError, UnknownSchema

SCHEMA = 3
SEGMENT_EVENTS = 16
"""Events of one segment of the behaviour window."""
INTEREST_SLOTS = 12
CHUNK_HASHES = 128
CHUNK_RING = 64
"""Seen chunks kept per user; the oldest is overwritten."""

ENTRY = np.dtype([("item", "<u8"), ("time", "<i8"), ("type", "u1"), ("value", "<f4"), ("event", "<u4")])
"""One event of the window: 64-bit item hash (0 = no item), time in ms, type code, value, 32-bit hash of the event id."""
INTEREST = np.dtype([("label", "<u4"), ("short", "<f4"), ("long", "<f4")])
SEGMENT = np.dtype(
    [
        ("schema", "u1"),
        ("kind", "u1"),
        ("applied", "<i8"),
        ("seq", "<u4"),
        ("entries", ENTRY, (SEGMENT_EVENTS,)),
    ]
)
TAIL_ENTRY = np.dtype([("key", "<u4"), ("n", "<u4")])
"""One rolling count, see core.rolling_counts."""

_START = struct.Struct("<BBq")
_CHUNK_HEADER = struct.Struct("<BBqH")
_KINDS = {ord("h"): "head", ord("s"): "segment", ord("c"): "seen chunk"}
_HEAD = b"h"
_TAIL_BYTES = 3


@functools.cache
def head_dtype(hidden: int) -> np.dtype[Any]:
    """Fixed part of a head whose GRU state has `hidden` numbers; TAIL_ENTRY records follow it.

    The state is rounded to half precision after every event, wherever batches are cut; the model computes in single.
    """
    return np.dtype(
        [
            ("schema", "u1"),
            ("kind", "u1"),
            ("applied", "<i8"),
            ("hidden", "<u2"),
            ("slots", "u1"),
            ("open", "u1"),
            ("model", "<u4"),
            ("version", "<i8"),
            ("revision", "<u4"),
            ("watermark", "<i8"),
            ("last_time", "<i8"),
            ("usable", "<u4"),
            ("late", "<u4"),
            ("duplicates", "<u4"),
            ("sealed", "<u4"),
            ("chunks", "<u2"),
            ("rebuilt", "<i8"),
            ("gru", "<f2", (hidden,)),
            ("interests_time", "<i8"),
            ("interests", INTEREST, (INTEREST_SLOTS,)),
            ("window", ENTRY, (SEGMENT_EVENTS,)),
        ]
    )


def applied(record: bytes) -> int:
    """Source offset that the record (of any kind) had last absorbed. Raises StateError for something that is no record."""
    if len(record) < _START.size:
        raise StateError(
            f"A state record of {len(record)} bytes is cut off: at least {_START.size} were expected"
        )
    schema, kind, offset = _START.unpack_from(record)
    if schema != SCHEMA or kind not in _KINDS:
        _refuse(record, _KINDS.get(kind, "state"))
    return int(offset)


def head_key(user: bytes) -> bytes:
    """Key of the user's head in the state table."""
    return _HEAD + user


def segment_key(user: bytes, slot: int) -> bytes:
    """Key of the segment in a slot of the user's ring."""
    return segments_prefix(user) + bytes([slot])


def chunk_key(user: bytes, index: int) -> bytes:
    """Key of the seen chunk at a position of the user's ring."""
    return chunks_prefix(user) + bytes([index])


def segments_prefix(user: bytes) -> bytes:
    """What the slot is put behind in the keys of the user's segments."""
    return b"p%b\xffs" % user


def chunks_prefix(user: bytes) -> bytes:
    """What the index is put behind in the keys of the user's chunks."""
    return b"p%b\xffc" % user


def user_of_key(key: bytes) -> bytes:
    """The user of a head's, segment's or chunk's key."""
    return key[1:] if is_head_key(key) else key[1:-_TAIL_BYTES]


def is_head_key(key: bytes) -> bool:
    """Is it the key of a head?"""
    return key[:1] == _HEAD


def past_prefix(user: bytes) -> bytes:
    """What the keys of the user's segments and chunks begin with, and nobody else's."""
    return b"p%b\xff" % user


def segment_slots(window: int) -> int:
    """Sealed segments that hold a window of `window` events."""
    if not 1 <= window <= 255 * SEGMENT_EVENTS:
        raise StateError(
            f"A behaviour window of {window} events cannot be kept: choose 1 to {255 * SEGMENT_EVENTS}"
        )
    return -(-window // SEGMENT_EVENTS)


def fresh_head(hidden: int, slots: int) -> NDArray[np.void]:
    """Head of a user never seen before, shape (1,). Offsets and times are -1: nothing applied, no event yet."""
    head = np.zeros(1, head_dtype(hidden))
    head["schema"], head["kind"], head["hidden"], head["slots"] = SCHEMA, ord("h"), hidden, slots
    head["applied"] = head["watermark"] = head["last_time"] = -1
    return head


def decode_heads(
    values: Sequence[bytes | None], hidden: int, slots: int
) -> tuple[NDArray[np.void], list[bytes]]:
    """Heads (U,) of `head_dtype(hidden)`, writable, and their tails of rolling counts; None is a new user.

    A head of another hidden size keeps everything but its GRU state (zeros, model 0: to be rebuilt from the window).
    Raises UnknownSchema, or StateError for what is no head.
    """
    size = head_dtype(hidden).itemsize
    fresh = fresh_head(hidden, slots).tobytes()
    records = [fresh if value is None else value for value in values]
    _check_starts(records, b"h")
    if {record[10:12] for record in records} - {struct.pack("<H", hidden)}:
        records = [_with_hidden(record, hidden) for record in records]
    for length in set(map(len, records)):
        if length < size or (length - size) % TAIL_ENTRY.itemsize:
            raise StateError(
                f"A head record of {length} bytes is damaged: {size} bytes and 8 per rolling count expected"
            )
    heads = np.frombuffer(bytearray().join([record[:size] for record in records]), head_dtype(hidden))
    return heads, [record[size:] for record in records]


def _with_hidden(record: bytes, hidden: int) -> bytes:
    found = int.from_bytes(record[10:12], "little")
    if found == hidden:
        return record
    old_dtype = head_dtype(found)
    if len(record) < old_dtype.itemsize:
        raise StateError(
            f"A head record of {len(record)} bytes is cut off: its hidden size of {found} needs more"
        )
    old = np.frombuffer(record[: old_dtype.itemsize], old_dtype)
    new = np.zeros(1, head_dtype(hidden))
    for name in old_dtype.names or ():
        if name not in ("gru", "hidden", "model", "rebuilt"):
            new[name] = old[name]
    new["hidden"] = hidden
    return new.tobytes() + record[old_dtype.itemsize :]


def decode_segments(values: Sequence[bytes | None], spare: int) -> NDArray[np.void]:
    """SEGMENT (1 + S + spare,), writable: an empty segment, the S given ones, and room for further ones.

    Raises UnknownSchema, or StateError for a segment that is missing or damaged.
    """
    present = _present(values, "window segment")
    for length in set(map(len, present)) - {SEGMENT.itemsize}:
        _check_starts(present, b"s")
        raise StateError(f"A segment record of {length} bytes is damaged: {SEGMENT.itemsize} expected")
    joined = bytearray().join([bytes(SEGMENT.itemsize), *present, bytes(spare * SEGMENT.itemsize)])
    pool = np.frombuffer(joined, SEGMENT)
    given = pool[1 : len(present) + 1]
    if (given["schema"] != SCHEMA).any() or (given["kind"] != ord("s")).any():
        _check_starts(present, b"s")
    return pool


def place_of(dtype: np.dtype[Any], field: str) -> int:
    """Bytes before the field in a packed record."""
    fields = dtype.fields
    assert fields is not None
    return fields[field][1]


def packed(records: NDArray[np.void]) -> NDArray[np.uint8]:
    """The bytes (n, size) of contiguous records (n,), shared with them."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def encode_chunk(hashes: bytes, offset: int) -> bytes:
    """Seen chunk of the packed u8 hashes, last changed by the event at source offset `offset`."""
    return _CHUNK_HEADER.pack(SCHEMA, ord("c"), offset, len(hashes) // 8) + hashes


def decode_chunks(values: Sequence[bytes | None]) -> list[bytes]:
    """Packed u8 hashes of each chunk. Raises UnknownSchema, or StateError for one that is missing or damaged."""
    present = _present(values, "seen chunk")
    _check_starts(present, b"c")
    bodies = []
    for value in present:
        body = value[_CHUNK_HEADER.size :]
        if len(value) < _CHUNK_HEADER.size or len(body) != 8 * int.from_bytes(value[10:12], "little"):
            raise StateError(
                f"A seen chunk of {len(value)} bytes is damaged: it does not hold the hashes it announces"
            )
        bodies.append(body)
    return bodies


def _present(values: Sequence[bytes | None], name: str) -> list[bytes]:
    present = [value for value in values if value is not None]
    if len(present) != len(values):
        raise StateError(
            f"{len(values) - len(present)} of {len(values)} records of kind {name} that a head refers to are missing: "
            "the table is torn; wipe this worker's state directory and let it recover from the changelog"
        )
    return present


def _check_starts(records: Sequence[bytes], kind: bytes) -> None:
    expected = bytes([SCHEMA]) + kind
    if {record[:2] for record in records} - {expected}:
        _refuse(next(record for record in records if record[:2] != expected), _KINDS[kind[0]])


def _refuse(record: bytes, kind: str) -> None:
    if record and record[0] != SCHEMA:
        raise UnknownSchema(kind, record[0], SCHEMA)
    raise StateError(
        f"A record that starts with {record[:2]!r} is no {kind} record: the table holds something else"
    )
