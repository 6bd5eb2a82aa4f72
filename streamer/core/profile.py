"""Profiles of many users at once, out of their states and the model's heads, as they lie on `profiles`.

Axes: n users, C labels of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import EventTypes
from streamer.core.json_rows import Column, Texts, commas, elements, where, whole, write
from streamer.core.rolling_counts import LEVELS
from streamer.core.stamp import Part, Stamp
from streamer.core.state_view import StateView
from streamer.core.user_state import UserStates

TOP = 5
"""Labels listed per kind of interest."""
_STEPS = 10_000
_SHARES = Texts([repr(step / _STEPS).encode() for step in range(_STEPS + 1)])
"""Shares and probabilities to four decimals."""


class LabelTexts:
    """Names of labels, ready encoded; C labels."""

    def __init__(self, names: Sequence[str]) -> None:
        self._texts = Texts([b'{"label":%b,"p":' % msgspec.json.encode(name) for name in names])

    def top(self, p: NDArray[np.floating], index: NDArray[np.int64] | None = None) -> Column:
        """The TOP largest of `p` (n, C') as JSON list elements (n, TOP, w); what rounds to 0 is left out.

        Column c is label c, or where there is an `index` (n, C'), label index[:, c].
        """
        order = np.argsort(-p, axis=1, kind="stable")[:, :TOP]
        steps = np.rint(np.take_along_axis(p, order, 1) * _STEPS).astype(np.int64)
        kept = steps > 0
        label = order if index is None else np.take_along_axis(index, order, 1)
        return elements(
            commas(kept),
            self._texts(np.where(kept, label, -1)),
            _SHARES(np.where(kept, steps, -1)),
            where(kept, b"}"),
        )


class CategoryTexts:
    """The categories of a catalogue, found by their hashes."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """names: from category hash to name."""
        hashes = sorted(names)
        self._hashes = np.array([0, *hashes], np.uint32)
        self.labels = LabelTexts(["", *(names[each] for each in hashes)])

    def numbers(self, hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Labels by hash, any shape; 0 for 0 and for a category without a name (gone from the catalogue)."""
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, at, 0)


def profiles(
    states: UserStates | StateView,
    users: NDArray[np.int64],
    stamp: Stamp,
    *,
    tasks: Mapping[str, tuple[LabelTexts, NDArray[np.float32]]],
    categories: CategoryTexts,
    types: EventTypes,
) -> list[bytes]:
    """Values for `profiles` of `users` (n,), rows of `states`; see protocol.Profile.

    tasks: per head of the model its labels and softmax output (n, C). Interests are shares of all the user's interests in
    categories that have a name, largest first.
    """
    interests = _category_interests(states, users, categories)
    for task, (labels, probabilities) in tasks.items():
        interests[task] = labels.top(probabilities)
    parts: list[Part] = [*stamp.first, b',"interests":{']
    for number, (kind, column) in enumerate(interests.items()):
        parts += [b"," * (number > 0) + msgspec.json.encode(kind) + b":[", column, b"]"]
    parts += [b'},"activity":{', *_activity(states.activity(users), types), b"}", *stamp.last]
    return write(stamp.n, parts)


def _category_interests(
    states: UserStates | StateView, users: NDArray[np.int64], categories: CategoryTexts
) -> dict[str, Column]:
    hashes, short, long = states.interests(users)
    index = categories.numbers(hashes)
    named = index > 0
    result = {}
    for kind, weights in (("short_term", short), ("long_term", long)):
        weights = np.where(named, weights, np.float32(0))
        total = weights.sum(axis=1, keepdims=True)
        result[kind] = categories.labels.top(weights / np.where(total > 0, total, np.float32(1)), index)
    return result


def _activity(counts: NDArray[np.int64], types: EventTypes) -> list[Part]:
    """From counts (n, 3, 32) the parts of {window: {type: n}}; a type that is no longer configured is left out."""
    some = set(np.flatnonzero(counts.any(axis=(0, 1))).tolist())
    used = [each for each in types if each.code in some]
    counts = counts[:, :, [each.code for each in used]]
    present = counts > 0
    names = Texts([msgspec.json.encode(each.name) + b":" for each in used])
    numbers = np.where(present[..., None], whole(counts), np.uint8(0))
    named = names(np.where(present, np.arange(len(used)), -1))
    parts: list[Part] = []
    for level, window in enumerate(LEVELS):
        there = present[:, level]
        entries = elements(commas(there), named[:, level], numbers[:, level])
        parts += [b"," * (level > 0) + msgspec.json.encode(window) + b":{", entries, b"}"]
    return parts
