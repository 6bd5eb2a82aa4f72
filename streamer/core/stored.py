"""Reading what is stored of a batch's users: look-ups of single records, and runs of records that lie side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from streamer.core.state_records import chunks_prefix, segments_prefix

Read = Callable[[bytes], bytes | None]
"""The value of a key, None where there is none."""


class KeyRun(NamedTuple):
    """n neighbours (1 to 256): the keys `prefix` + one byte, which counts from 0."""

    prefix: bytes
    n: int

    @property
    def keys(self) -> list[bytes]:
        return [self.prefix + bytes([number]) for number in range(self.n)]


class Stored(Protocol):
    """One partition's records."""

    @property
    def get(self) -> Read: ...

    def runs(self, runs: Sequence[KeyRun]) -> list[list[bytes | None]]:
        """The values of each run; faster than as many look-ups."""
        ...


class LookedUp:
    """Records of which there is only a look-up."""

    def __init__(self, get: Read) -> None:
        self.get = get

    def runs(self, runs: Sequence[KeyRun]) -> list[list[bytes | None]]:
        return [list(map(self.get, run.keys)) for run in runs]


def read_chunks(stored: Sequence[Stored], users: Sequence[bytes], n: Sequence[int]) -> list[bytes | None]:
    """The first n (U,) seen chunks of each of `users` (U,), whose records are in `stored` (U,)."""
    return _read(stored, users, n, chunks_prefix)


def read_segments(stored: Sequence[Stored], users: Sequence[bytes], n: Sequence[int]) -> list[bytes | None]:
    """The first n (U,) window segments of each of `users` (U,), whose records are in `stored` (U,)."""
    return _read(stored, users, n, segments_prefix)


def _read(
    stored: Sequence[Stored],
    users: Sequence[bytes],
    n: Sequence[int],
    prefix: Callable[[bytes], bytes],
) -> list[bytes | None]:
    rows = [row for row, number in enumerate(n) if number]
    values: list[bytes | None] = []
    for _, group in itertools.groupby(rows, lambda row: id(stored[row])):
        mine = list(group)
        for found in stored[mine[0]].runs([KeyRun(prefix(users[row]), n[row]) for row in mine]):
            values += found
    return values
