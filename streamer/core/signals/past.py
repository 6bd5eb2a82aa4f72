"""What users did last, as their states remember it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.user_state import UserStates

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def with_items(item: Hashes, time_ms: Rows) -> tuple[Hashes, Rows]:
    """Items and times (n, W) of last events without those that have no item (0) between, left-aligned."""
    there = item != 0
    if (there[:, 1:] > there[:, :-1]).any():
        order = np.argsort(~there, axis=1, kind="stable")
        item, time_ms = np.take_along_axis(item, order, 1), np.take_along_axis(time_ms, order, 1)
    return item, time_ms


@dataclass(slots=True)
class Past:
    """What n users did last: item hashes and times (n, W), newest first, left-aligned, 0 = none; and the clock (n,)."""

    item: Hashes
    time_ms: Rows
    now_ms: Rows
    length: Rows

    @classmethod
    def of(cls, states: UserStates, users: Rows, last: int) -> Past:
        """Of `users` (n,) of a batch, as things stand."""
        item, when = with_items(*states.recent(users, last))
        heads = states.heads
        return cls(
            item, when, heads["watermark"][users].astype(np.int64), heads["version"][users].astype(np.int64)
        )

    @classmethod
    def join(cls, parts: list[Past]) -> Past:
        return cls(
            np.concatenate([each.item for each in parts]),
            np.concatenate([each.time_ms for each in parts]),
            np.concatenate([each.now_ms for each in parts]),
            np.concatenate([each.length for each in parts]),
        )
