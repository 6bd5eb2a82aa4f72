"""What a worker tells all workers of the events it applied: one compact record per partition and batch.

Little-endian: schema u1, rows n u4, n fixed rows, then the past items of all rows one after the other. Each row has its source
offset: a run that is replayed has other boundaries than the first time, so repeats are told by offset and not by record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.errors import UnknownSchema

SCHEMA = 1
PAST = 20
"""Past items of a row at most."""
_HEAD = np.dtype([("schema", "u1"), ("rows", "<u4")])
_ROW = np.dtype(
    [
        ("offset", "<i8"),
        ("time", "<i8"),
        ("item", "<u8"),
        ("weight", "<f4"),
        ("session", "u1"),
        ("past", "u1"),
    ]
)


@dataclass(frozen=True, slots=True)
class SignalRows:
    """n applied events with an item, in source order."""

    offset: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    item: NDArray[np.uint64]
    """(n,) hashes"""
    weight: NDArray[np.float32]
    """(n,) of the events' types"""
    session: NDArray[np.int64]
    """(n,) how many of the past items belong to the session"""
    past: NDArray[np.uint64]
    """(n, PAST) hashes of the user's items before the event, newest first, left-aligned, 0 = none"""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, at: NDArray[np.int64] | slice) -> SignalRows:
        return SignalRows(
            self.offset[at], self.time_ms[at], self.item[at], self.weight[at], self.session[at], self.past[at]
        )

    @classmethod
    def join(cls, parts: list[SignalRows]) -> SignalRows:
        return cls(
            np.concatenate([each.offset for each in parts]),
            np.concatenate([each.time_ms for each in parts]),
            np.concatenate([each.item for each in parts]),
            np.concatenate([each.weight for each in parts]),
            np.concatenate([each.session for each in parts]),
            np.concatenate([each.past for each in parts]),
        )

    def encode(self) -> bytes:
        there = self.past != 0
        rows = np.empty(len(self), _ROW)
        rows["offset"], rows["time"], rows["item"] = self.offset, self.time_ms, self.item
        rows["weight"], rows["past"] = self.weight, there.sum(axis=1)
        rows["session"] = np.minimum(self.session, PAST)
        head = np.array((SCHEMA, len(self)), _HEAD)
        parts: list[bytes] = [head.tobytes(), rows.tobytes(), self.past[there].astype("<u8").tobytes()]
        return b"".join(parts)

    @classmethod
    def decode(cls, value: bytes) -> SignalRows:
        """Raises UnknownSchema for a record of another version, ValueError for a damaged one."""
        if not value or value[0] != SCHEMA:
            raise UnknownSchema("signals", value[0] if value else 0, SCHEMA)
        n = int(np.frombuffer(value, _HEAD, 1)["rows"][0])
        rows = np.frombuffer(value, _ROW, n, _HEAD.itemsize)
        flat = np.frombuffer(value, "<u8", offset=_HEAD.itemsize + rows.nbytes)
        sizes = rows["past"].astype(np.int64)
        if int(sizes.sum()) != len(flat) or sizes.max(initial=0) > PAST:
            raise ValueError(
                f"a record of signals with {n} rows has {len(flat)} past items, {sizes.sum()} were named"
            )
        past = np.zeros((n, PAST), np.uint64)
        past[np.arange(PAST) < sizes[:, None]] = flat
        return cls(
            rows["offset"].astype(np.int64),
            rows["time"].astype(np.int64),
            rows["item"].astype(np.uint64),
            rows["weight"].astype(np.float32),
            rows["session"].astype(np.int64),
            past,
        )
