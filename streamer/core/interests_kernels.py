"""Interests moved by events one after the other: each decays all weights of its user and adds to its labels'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled
from streamer.core.state_records import INTEREST, INTEREST_SLOTS

F4 = np.float32


@compiled
def _left(age_ms: int, half_life_ms: int) -> np.float32:
    """What is left of a weight of 1."""
    return F4(np.exp2(age_ms / -half_life_ms)) if age_ms > 0 else F4(1)


@compiled
def _slot_of(interests: NDArray[np.void], user: int, label: int) -> int:
    """The label's slot; else the lowest free one, else the weakest in the long memory (the lowest of equals), emptied for it."""
    weakest, least = 0, np.inf
    for slot in range(INTEREST_SLOTS):
        each = interests[user, slot]
        if each.label == label:
            return slot
        weight = each.long if each.label else -1.0
        if weight < least:
            weakest, least = slot, weight
    found = interests[user, weakest]
    found.label, found.short, found.long = label, 0, 0
    return weakest


@compiled
def add(
    interests: NDArray[np.void],
    time_ms: NDArray[np.int64],
    starts: NDArray[np.int64],
    event_time_ms: NDArray[np.int64],
    labels: NDArray[np.uint32],
    weight: NDArray[np.float32],
    short_ms: int,
    long_ms: int,
) -> None:
    """Runs of events, starts (U + 1,), onto INTEREST (U, 12) and their times (U,), both changed in place.

    labels (n, C), 0 = none; weight (n,) is shared among an event's labels. An event without a label changes nothing.
    """
    for user in range(len(time_ms)):
        for event in range(starts[user], starts[user + 1]):
            named = 0
            for label in labels[event]:
                named += label != 0
            if named == 0:
                continue
            passed = event_time_ms[event] - max(time_ms[user], 0)
            time_ms[user] = max(time_ms[user], event_time_ms[event])
            share = weight[event] / F4(named)
            short, long = share * _left(-passed, short_ms), share * _left(-passed, long_ms)
            if passed > 0:
                kept_short, kept_long = _left(passed, short_ms), _left(passed, long_ms)
                for slot in range(INTEREST_SLOTS):
                    interests[user, slot].short *= kept_short
                    interests[user, slot].long *= kept_long
            for label in labels[event]:
                if label != 0:
                    found = interests[user, _slot_of(interests, user, label)]
                    found.short += short
                    found.long += long


def warm_up() -> None:
    """Compile for the types that are in use."""
    add(
        np.zeros((1, INTEREST_SLOTS), INTEREST),
        np.zeros(1, np.int64),
        np.array([0, 1]),
        np.ones(1, np.int64),
        np.ones((1, 1), np.uint32),
        np.ones(1, np.float32),
        1,
        1,
    )
