"""Exponentially decayed interests in categories: twelve per user, each with a short and a long memory.

Weights are those at `time` (U,), the newest event that named a category; an older one is added as it would have decayed by
then, so the order of two events does not change their sum. When all slots are taken, a new category replaces the one that is
weakest in the long memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.runs import Rows, Runs

DAY_MS = 86_400_000
SLOTS = 12
"""Categories of a user."""


@dataclass(frozen=True, slots=True)
class Decay:
    """Half-lives of the two memories, in ms."""

    short_ms: int = DAY_MS
    long_ms: int = 30 * DAY_MS

    def factors(self, age_ms: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What is left of a weight after `age_ms` (n,) >= 0: short and long memory, each (n, 1)."""
        age = age_ms.astype(np.float64)[:, None]
        short, long = np.exp2(age / -self.short_ms), np.exp2(age / -self.long_ms)
        return short.astype(np.float32), long.astype(np.float32)


def add(
    interests: NDArray[np.void],
    time_ms: NDArray[np.int64],
    runs: Runs,
    event_time_ms: NDArray[np.int64],
    labels: NDArray[np.uint32],
    weight: NDArray[np.float32],
    decay: Decay,
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Interests INTEREST (U, 12) after their users' events, and their times (U,).

    The events (n,) lie in the order of `runs`, whose runs belong to the rows of `interests`. `labels` (n, C): hashes of the
    event's categories, 0 = none, at least one per event; `weight` (n,) is shared among them.
    """
    before = runs.highest_before(time_ms, event_time_ms)
    kept_short, kept_long = decay.factors(np.maximum(event_time_ms - before, 0))
    new_short, new_long = decay.factors(np.maximum(before - event_time_ms, 0))
    share = (weight / (labels != 0).sum(axis=1).astype(np.float32))[:, None]
    new_short, new_long = (new_short * share)[:, 0], (new_long * share)[:, 0]
    labels = labels[:, : int(np.flatnonzero(labels.any(axis=0)).max(initial=-1)) + 1]
    result = interests.copy()
    owner = np.repeat(np.arange(len(result)), runs.lengths)
    slots, settled = _settle(result["label"], owner, labels)
    for some in (True, False):
        rows = np.flatnonzero(settled[owner] == some)
        if not rows.size:
            continue
        theirs = Runs.of(owner[rows])
        kept, new = (kept_short[rows], kept_long[rows]), (new_short[rows], new_long[rows])
        if some:
            _add_settled(result, theirs, kept, new, slots[rows])
        else:
            _add(result, theirs, kept, new, labels[rows])
    last = runs.starts + runs.lengths - 1
    return result, np.maximum(before[last], event_time_ms[last])


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of the short and the long memory."""


def _settle(
    label: NDArray[np.uint32], owner: Rows, labels: NDArray[np.uint32]
) -> tuple[Rows, NDArray[np.bool_]]:
    """The slots (n, C) of the events' labels, new ones put into free slots of `label` (U, 12), which is changed.

    Slot 12 is no label. Users (U,) whose new labels do not find room, or of whom an event has a label twice, are not settled,
    and theirs is left as it was.
    """
    same = label[owner][:, None, :] == labels[:, :, None]
    slots = np.where(labels == 0, SLOTS, same.argmax(axis=2))
    event, column = np.nonzero((labels != 0) & ~same.any(axis=2))
    settled = np.ones(len(label), np.bool_)
    ordered = np.sort(labels, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).any(axis=1)
    settled[owner[twice]] = False
    if not event.size:
        return slots, settled
    # Each user's new labels in the order in which they come; slots are taken from the lowest on, so the free ones are last.
    of = owner[event].astype(np.uint64) << np.uint64(32) | labels[event, column]
    distinct, first, which = np.unique(of, return_index=True, return_inverse=True)
    by_time = np.argsort(first)
    user = (distinct[by_time] >> np.uint64(32)).astype(np.int64)
    number = np.arange(len(user)) - np.searchsorted(user, user)
    slot = (label != 0).sum(axis=1)[user] + number
    settled[user[slot >= SLOTS]] = False
    room = settled[user]
    label[user[room], slot[room]] = (distinct[by_time] & np.uint64(0xFFFFFFFF))[room]
    slot_of = np.empty_like(slot)
    slot_of[by_time] = np.minimum(slot, SLOTS)
    slots[event, column] = slot_of[which]
    return slots, settled


def _add_settled(result: NDArray[np.void], runs: Runs, kept: Pair, new: Pair, slots: Rows) -> None:
    """Events (n,) whose labels have their slots (n, C)."""
    order = runs.users[runs.by_length()]
    each = np.arange(len(order))[:, None]
    for name, kept_of, new_of in zip(("short", "long"), kept, new, strict=True):
        memory = np.zeros((len(order), SLOTS + 1), np.float32)
        memory[:, :SLOTS] = result[name][order]
        for n, at in runs.rounds():
            memory[:n] *= kept_of[at]
            memory[each[:n], slots[at]] += new_of[at, None]
        result[name][order] = memory[:, :SLOTS]


def _add(result: NDArray[np.void], runs: Runs, kept: Pair, new: Pair, labels: NDArray[np.uint32]) -> None:
    """Events (n,) of users some of whose labels have to make room for others."""
    order = runs.users[runs.by_length()]
    label = np.ascontiguousarray(result["label"][order])
    short, long = result["short"][order], result["long"][order]
    for n, at in runs.rounds():
        short[:n] *= kept[0][at]
        long[:n] *= kept[1][at]
        for column in labels[at].T:
            rows = np.flatnonzero(column)
            if not rows.size:
                continue
            wanted = column[rows]
            same = label[rows] == wanted[:, None]
            slot = same.argmax(axis=1)
            absent = np.flatnonzero(~same[np.arange(len(rows)), slot])
            if absent.size:
                out = rows[absent]
                # Free slots first, the lowest of equals.
                slot[absent] = np.where(label[out] == 0, np.float32(-1), long[out]).argmin(axis=1)
                label[out, slot[absent]] = wanted[absent]
                short[out, slot[absent]] = long[out, slot[absent]] = 0
            short[rows, slot] += new[0][at[rows]]
            long[rows, slot] += new[1][at[rows]]
    result["label"][order], result["short"][order], result["long"][order] = label, short, long


def decayed(
    interests: NDArray[np.void], time_ms: NDArray[np.int64], now_ms: NDArray[np.int64], decay: Decay
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]:
    """Labels, short and long weights, each (n, 12), as of `now_ms` (n,)."""
    short, long = decay.factors(np.maximum(now_ms - time_ms, 0))
    return interests["label"].astype(np.uint32), interests["short"] * short, interests["long"] * long
