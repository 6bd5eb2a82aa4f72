"""A controlled exposure for items that nobody has taken yet: without it no count could ever speak for them.

In a fixed share of the lists the last place goes to such an item, the one whose text suits the user best where that is known.
Which lists, is drawn by a hash of what identifies the list, so a replay draws the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
NONE = -1


def drawn(numbers: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """(n,) → (n,): the same for the same number, true for about `share` of them. SplitMix64 (Steele et al. 2014)."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


def explored(
    numbers: NDArray[np.uint64], share: float, fresh: Rows, suits: NDArray[np.float32] | None = None
) -> Rows:
    """The item without interactions for the last place of each list (n,), NONE for lists that are not drawn.

    fresh (E,): item rows without an interaction; suits (n, E): how well the text of each suits, -inf to bar it; without it one
    is drawn by the list's number.
    """
    out = np.full(len(numbers), NONE, np.int64)
    if not len(fresh):
        return out
    lists = np.flatnonzero(drawn(numbers, share))
    if suits is None:
        out[lists] = fresh[(numbers[lists] % np.uint64(len(fresh))).astype(np.int64)]
    elif len(lists):
        best = suits[lists].argmax(axis=1)
        out[lists] = np.where(suits[lists, best] > -np.inf, fresh[best], NONE)
    return out
