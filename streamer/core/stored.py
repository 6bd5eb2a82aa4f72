"""Reading what is stored of a batch's users: look-ups of single records, and runs of records that lie side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from streamer.core.state_records import past_keys

Read = Callable[[bytes], bytes | None]
"""The value of a key, None where there is none."""


class Stored(Protocol):
    """One partition's records."""

    @property
    def get(self) -> Read: ...

    def runs(self, runs: Sequence[Sequence[bytes]]) -> list[list[bytes | None]]:
        """The values of each run of keys. Faster than as many look-ups where a run's keys are ascending neighbours."""
        ...


class LookedUp:
    """Records of which there is only a look-up."""

    def __init__(self, get: Read) -> None:
        self.get = get

    def runs(self, runs: Sequence[Sequence[bytes]]) -> list[list[bytes | None]]:
        return [list(map(self.get, keys)) for keys in runs]


def read_past(
    stored: Sequence[Stored], users: Sequence[bytes], chunks: Sequence[int], segments: Sequence[int]
) -> tuple[list[bytes | None], list[bytes | None]]:
    """The first `chunks` (U,) seen chunks and `segments` (U,) window segments of each of `users` (U,), one user's after the
    other's; their records are in `stored` (U,).
    """
    rows = [row for row, numbers in enumerate(zip(chunks, segments, strict=True)) if any(numbers)]
    found_chunks: list[bytes | None] = []
    found_segments: list[bytes | None] = []
    for _, group in itertools.groupby(rows, lambda row: id(stored[row])):
        mine = list(group)
        runs = [past_keys(users[row], chunks[row], segments[row]) for row in mine]
        for row, values in zip(mine, stored[mine[0]].runs(runs), strict=True):
            n = chunks[row]
            found_chunks += values[:n]
            found_segments += values[n:]
    return found_chunks, found_segments
