"""Profiles of many users at once, out of their states and the model's heads, as they lie on `profiles`.

Axes: n users, C labels of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import EventTypes
from streamer.core.json_kernels import STEPS, TOP, write_profiles
from streamer.core.json_texts import Texts, written
from streamer.core.rolling_counts import LEVELS
from streamer.core.stamp import Stamp
from streamer.core.state_view import StateView
from streamer.core.user_state import UserStates

_STEPS = Texts([repr(step / STEPS).encode() for step in range(STEPS + 1)])
"""Shares and probabilities to four decimals."""
_CONSTANTS, _COUNT = 120, 24
"""Bytes of a profile's constants, and of a count with its comma, at most."""


class LabelTexts:
    """Names of labels, ready encoded; C labels."""

    def __init__(self, names: Sequence[str]) -> None:
        self.encoded = [b'{"label":%b,"p":' % msgspec.json.encode(name) for name in names]
        self.texts = Texts(self.encoded)


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
    shares, category = _shares(states, users, categories)
    labels = Texts([text for names, _ in tasks.values() for text in names.encoded])
    openings = Texts([b"]," + msgspec.json.encode(task) + b":[" for task in tasks])
    names = Texts([msgspec.json.encode(each.name) + b":" for each in types])
    widths = [p.shape[1] for _, p in tasks.values()]
    longest = TOP * (2 * categories.labels.texts.longest + len(tasks) * labels.longest)
    longest += TOP * (2 + len(tasks)) * (_STEPS.longest + 2) + len(tasks) * openings.longest
    longest += len(LEVELS) * len(names) * (names.longest + _COUNT) + _CONSTANTS
    p = np.concatenate([np.empty((stamp.n, 0), np.float32), *(p for _, p in tasks.values())], axis=1)
    counts, codes = states.activity(users), np.array([each.code for each in types], np.int64)
    numbers = (shares, category, p, np.cumsum([0, *widths]), counts, codes)
    tables = (categories.labels.texts.table, openings.table, labels.table, names.table, _STEPS.table)
    return written(
        stamp.n,
        stamp.longest + longest,
        lambda out, ends, first: write_profiles(out, ends, first, stamp.arrays, *numbers, *tables),
    )


def _shares(
    states: UserStates | StateView, users: NDArray[np.int64], categories: CategoryTexts
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Shares (n, 2, 12) of the short and the long memory, in categories (n, 12)."""
    hashes, short, long = states.interests(users)
    category = categories.numbers(hashes)
    weights = np.where((category > 0)[:, None], np.stack([short, long], axis=1), np.float32(0))
    total = weights.sum(axis=2, keepdims=True)
    weights /= np.where(total > 0, total, np.float32(1))
    return weights, category
