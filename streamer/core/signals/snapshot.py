"""A snapshot of the shared counts as records of a compacted topic.

Snapshots go into two slots by turns, so that the one before stays whole while the next is written. The arrays are cut into
parts, each a record under `slot/number`: the snapshot's id, then rows of one array, their bytes ordered by place in the row and
compressed by zstd. Ordered so, the bytes that are alike lie together. The head `slot/head` is sent when all parts are
acknowledged: what the arrays are, and the checksum of every part, so that parts of two writers are never taken for one snapshot.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cramjam
import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.count_kernels import NOBODY

SLOTS = 2
PART_BYTES = 512 * 1024
"""Of a part before compression: below the broker's limit of a record even if nothing can be made smaller."""
LEVEL = 1
"""Of zstd."""
ID_BYTES = 8
FORGOTTEN_HALF_LIVES = 4.0
"""An item without an edge that nobody took for so many half-lives of the edges is left out."""

Number = float | int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything that is counted, at one moment."""

    arrays: dict[str, NDArray[Any]]
    numbers: dict[str, Number]
    applied: dict[int, int]
    """By partition of `events`, the highest offset that is counted"""


class ArraySpec(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of a row; 1 where rows are empty."""
        return max(1, np.dtype(self.dtype).itemsize * int(np.prod(self.shape[1:], dtype=np.int64)))

    @property
    def part_rows(self) -> int:
        return max(1, PART_BYTES // self.width)

    @property
    def parts(self) -> int:
        return -(-self.shape[0] // self.part_rows)


class Head(msgspec.Struct, frozen=True):
    """What makes parts a snapshot."""

    id: str
    """16 hex digits, drawn for each snapshot."""
    slot: int
    as_of_ms: int
    """When the counts were copied."""
    reached: dict[int, int]
    """By partition of `signal-events`, the offset from which on its records are not counted."""
    applied: dict[int, int]
    numbers: dict[str, Number]
    arrays: list[ArraySpec]
    checksums: list[int]
    """CRC-32 of each part."""
    schema: Literal[1] = 1

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def headed(
    id_: str, slot: int, as_of_ms: int, reached: Mapping[int, int], counts: Counts, checksums: list[int]
) -> Head:
    """The head of parts that are acknowledged."""
    return Head(
        id_,
        slot,
        as_of_ms,
        dict(reached),
        dict(counts.applied),
        dict(counts.numbers),
        _specs(counts.arrays),
        checksums,
    )


def checksum(part: bytes) -> int:
    return zlib.crc32(part)


def _specs(arrays: Mapping[str, NDArray[Any]]) -> list[ArraySpec]:
    return [ArraySpec(name, each.dtype.str, each.shape) for name, each in arrays.items()]


def part_key(slot: int, number: int) -> bytes:
    return f"{slot}/{number}".encode()


def head_key(slot: int) -> bytes:
    return f"{slot}/head".encode()


def place(key: bytes) -> tuple[int, int] | None:
    """Slot and number of the part under a key, None for any other key."""
    slot, _, number = key.decode(errors="replace").partition("/")
    found = slot.isdecimal() and number.isdecimal() and int(slot) < SLOTS
    return (int(slot), int(number)) if found else None


def parts(id_: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """Values of the parts, made one by one."""
    for spec, array in zip(_specs(arrays), arrays.values(), strict=True):
        for start in range(0, len(array), spec.part_rows):
            rows = np.ascontiguousarray(array[start : start + spec.part_rows])
            planes = np.ascontiguousarray(rows.view(np.uint8).reshape(-1, spec.width).T)
            yield bytes.fromhex(id_) + bytes(cramjam.zstd.compress(planes.data, level=LEVEL))


def whole(records: Mapping[bytes, bytes]) -> tuple[list[Head], list[str]]:
    """The heads of whole snapshots among the topic's newest records, youngest first, and what is wrong with younger ones.

    By when the counts were copied, not by place in the log: a writer that was frozen may end its snapshot much later.
    """
    heads, faults = [], []
    for slot in range(SLOTS):
        value = records.get(head_key(slot))
        if value is None:
            continue
        try:
            heads.append(_decode_head(value))
        except msgspec.MsgspecError as exc:
            faults.append(f"the snapshot in slot {slot} cannot be read: {exc}")
    found: list[Head] = []
    for head in sorted(heads, key=lambda head: head.as_of_ms, reverse=True):
        fault = _fault(head, records)
        if fault is None:
            found.append(head)
        elif not found:
            faults.append(f"the snapshot {head.id} in slot {head.slot} is not whole: {fault}")
    return found, faults


def size(head: Head, records: Mapping[bytes, bytes]) -> int:
    """Bytes of a whole snapshot's parts."""
    return sum(len(records[part_key(head.slot, number)]) for number in range(len(head.checksums)))


def _fault(head: Head, records: Mapping[bytes, bytes]) -> str | None:
    wanted = sum(spec.parts for spec in head.arrays)
    if wanted != len(head.checksums):
        return f"its arrays make {wanted} parts, the head names {len(head.checksums)}"
    id_ = bytes.fromhex(head.id)
    for number, wanted_checksum in enumerate(head.checksums):
        value = records.get(part_key(head.slot, number))
        if value is None:
            return f"part {number} of {wanted} is missing"
        if value[:ID_BYTES] != id_:
            return f"part {number} of {wanted} is of the snapshot {value[:ID_BYTES].hex()}"
        if checksum(value) != wanted_checksum:
            return f"part {number} of {wanted} has another checksum"
    return None


def decode(head: Head, records: Mapping[bytes, bytes]) -> Counts:
    """What a whole snapshot holds, in arrays of its own. Raises ValueError when it was written wrongly."""
    arrays: dict[str, NDArray[Any]] = {}
    number = 0
    for spec in head.arrays:
        arrays[spec.name] = array = np.empty(spec.shape, spec.dtype)
        for start in range(0, spec.shape[0], spec.part_rows):
            rows = array[start : start + spec.part_rows]
            value = records[part_key(head.slot, number)]
            planes = np.empty(rows.nbytes, np.uint8)
            try:
                cramjam.zstd.decompress_into(value[ID_BYTES:], planes.data)
            except cramjam.DecompressionError as exc:
                raise ValueError(f"part {number} cannot be decompressed: {exc}") from exc
            rows.view(np.uint8).reshape(-1, spec.width)[:] = planes.reshape(spec.width, -1).T
            number += 1
    return Counts(arrays, dict(head.numbers), dict(head.applied))


def without_forgotten(counts: Counts, edge_half_life_ms: float) -> Counts:
    """Without the items that no list can be made of: no edge, nothing taken for long, or never. The others keep their order.

    Otherwise every item that ever was would be handed on for ever.
    """
    arrays = dict(counts.arrays)
    last, size = arrays["counts/last_ms"], arrays["edges/size"]
    clock_ms = counts.numbers["clock_ms"] or 0
    kept = np.zeros(len(arrays["items"]), np.bool_)
    kept[: len(last)] = last >= clock_ms - FORGOTTEN_HALF_LIVES * edge_half_life_ms
    kept[: len(size)] |= size > 0
    led = ("counts/leaders", "counts/newest")
    for each in (arrays["edges/target"], *(arrays[name][arrays[name] != NOBODY] for name in led)):
        kept[each] = True
    new = np.cumsum(kept, dtype=np.int32) - np.int32(1)
    for name in _BY_ITEM:
        arrays[name] = arrays[name][kept[: len(arrays[name])]]
    arrays["edges/target"] = new[arrays["edges/target"]]
    for name in led:
        arrays[name] = np.where(arrays[name] == NOBODY, np.int64(NOBODY), new[arrays[name]])
    return Counts(arrays, counts.numbers, counts.applied)


_decode_head = msgspec.json.Decoder(Head).decode
_BY_ITEM = (
    "items",
    "again",
    "counts/count",
    "counts/first_ms",
    "counts/last_ms",
    "edges/mass",
    "edges/size",
)
