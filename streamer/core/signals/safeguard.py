"""The safeguard: while the blend is provably worse than one of its signals alone, that signal serves.

Over the last `window` judged events (with their NDCG@10 gains) the blend is compared with the signal whose mean is highest.
If the 95 % interval of the paired difference lies wholly below 0, the signal takes over until it no longer does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WINDOW = 3_000
F32 = NDArray[np.float32]


def gains(ranks: NDArray[np.int64], k: int = 10) -> F32:
    """NDCG@k of events whose item stood at these 1-based ranks (0: not on the list)."""
    return np.where((ranks >= 1) & (ranks <= k), 1 / np.log2(np.maximum(ranks, 1) + 1), 0).astype(np.float32)


class Safeguard:
    """`serving`: the number of the signal that serves alone, None while the blend does. `falls` counts how often it was set."""

    def __init__(self, singles: int, window: int = WINDOW) -> None:
        self._gains = np.zeros((window, 1 + singles), np.float32)
        self.judged = 0
        self.serving: int | None = None
        self.falls = 0

    def judge(self, blend: NDArray[np.int64], singles: NDArray[np.int64]) -> None:
        """Ranks (n,) of the blend and (n, S) of each signal alone, in stream order."""
        window = len(self._gains)
        for each in np.array_split(np.arange(len(blend)), max(1, -(-len(blend) // window))):
            at = (self.judged + np.arange(len(each))) % window
            self._gains[at] = np.concatenate([gains(blend[each])[:, None], gains(singles[each])], axis=1)
            self.judged += len(each)
        if self.judged >= window:
            self._decide()

    def _decide(self) -> None:
        best = int(self._gains[:, 1:].mean(axis=0).argmax())
        difference = (self._gains[:, 0] - self._gains[:, 1 + best]).astype(np.float64)
        above = difference.mean() + 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
        if above >= 0:
            self.serving = None
        else:
            self.falls += self.serving is None
            self.serving = best
