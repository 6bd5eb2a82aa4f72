"""Replaying a partition's changelog in runs: of the records of a key, the one with the highest applied source offset wins.

The order of the log is not enough: a worker that was frozen may have written older states behind newer ones. To ask the
store for every key, however, would cost more than all the rest. Applied offsets rise along a partition's log, apart from
such zombies and from refreshes without an event; so a record whose offset reaches that of everything stored cannot lose,
and needs no look. Where an output batch was cut by a run, its second half lies below the first: hence the memory of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.core.state_records import SCHEMA, applied

EMPTY = -(1 << 63)
"""Ceiling of a partition that stores nothing."""
UNKNOWN = (1 << 63) - 1
"""Ceiling of a partition of which it is not known: every key is looked up."""
REMEMBERED_KEYS = 8192
"""Keys of the latest runs whose applied offsets are remembered, at least; at most twice as many and a run."""

_START = np.dtype([("schema", "u1"), ("kind", "u1"), ("applied", "<i8")])
_KINDS = np.frombuffer(b"hsc", np.uint8)


class Replayed(NamedTuple):
    """What a run does to the table: values to store (None: to delete), and keys whose last record is not their newest."""

    changes: dict[bytes, bytes | None]
    regressed: set[bytes]


class Replay:
    """One partition's table as far as replaying must know it; nobody else may write meanwhile.

    ceiling: no stored record has a higher applied offset (EMPTY, UNKNOWN).
    """

    def __init__(self, ceiling: int) -> None:
        self._settled = self.ceiling = ceiling
        self._latest: dict[bytes, int] = {}
        self._before: dict[bytes, int] = {}
        self._latest_ceiling = self._before_ceiling = EMPTY

    def absorb(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        read: Callable[[bytes], bytes | None],
    ) -> Replayed:
        """Records in the order of the log; `read`: what is stored now. What it returns must be stored before the next call.

        A tombstone carries no offset, so it always wins. Raises StateError or UnknownSchema for a value that is no record.
        """
        offsets = applied_offsets(values)
        replayed = self._absorb_new(keys, values, offsets) or self._absorb_each(keys, values, offsets, read)
        if len(offsets):
            self._latest_ceiling = max(self._latest_ceiling, int(offsets.max()))
            self.ceiling = max(self.ceiling, self._latest_ceiling)
        if len(self._latest) > REMEMBERED_KEYS:
            self._settled = max(self._settled, self._before_ceiling)
            self._before, self._before_ceiling = self._latest, self._latest_ceiling
            self._latest, self._latest_ceiling = {}, EMPTY
        return replayed

    def _absorb_new(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], offsets: NDArray[np.int64]
    ) -> Replayed | None:
        """The usual run, without a loop: keys that are remembered of no run, each once, and nothing older than what is stored."""
        changes = dict(zip(keys, values, strict=True))
        if (
            len(changes) == len(keys)
            and len(offsets)
            and offsets.min() >= self._settled
            and self._latest.keys().isdisjoint(keys)
            and self._before.keys().isdisjoint(keys)
        ):
            self._latest.update(zip(keys, offsets.tolist(), strict=True))
            return Replayed(changes, set())
        return None

    def _absorb_each(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        offsets: NDArray[np.int64],
        read: Callable[[bytes], bytes | None],
    ) -> Replayed:
        changes: dict[bytes, bytes | None] = {}
        regressed: set[bytes] = set()
        latest, before, settled = self._latest, self._before, self._settled
        for key, value, offset in zip(keys, values, offsets.tolist(), strict=True):
            have = latest.get(key)
            if have is None:
                have = before.get(key)
                if have is None:
                    have = EMPTY if offset >= settled else _applied_or_empty(read(key))
            if offset < have and value is not None:
                latest[key] = have
                regressed.add(key)
            else:
                latest[key] = offset
                changes[key] = value
                regressed.discard(key)
        return Replayed(changes, regressed)


_FEW = 32
"""Up to so many records are looked at one by one: array operations would cost more."""


def applied_offsets(values: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Applied source offsets (n,) of state records; EMPTY for None. Raises StateError or UnknownSchema."""
    if len(values) <= _FEW:
        return np.array([_applied_or_empty(value) for value in values], np.int64)
    if None in values:
        found = np.full(len(values), EMPTY, np.int64)
        rows = [row for row, value in enumerate(values) if value is not None]
        found[rows] = applied_offsets([value for value in values if value is not None])
        return found
    size = _START.itemsize
    joined = b"".join([value[:size] for value in values])  # type: ignore[index]
    if len(joined) == size * len(values):
        starts = np.frombuffer(joined, _START)
        if (starts["schema"] == SCHEMA).all() and np.isin(starts["kind"], _KINDS).all():
            return starts["applied"].astype(np.int64)
    return np.array([applied(value) for value in values if value is not None], np.int64)


def _applied_or_empty(record: bytes | None) -> int:
    return EMPTY if record is None else applied(record)
