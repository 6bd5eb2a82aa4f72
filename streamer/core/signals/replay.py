"""Judged events kept for further steps of the blend: what was computed once is learned from several times.

Experience replay (Lin 1992): a random event of the last few thousand is closer to what comes next than the last one alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.blend import Blend
from streamer.core.signals.features import CONTEXT, FEATURES
from streamer.core.signals.half_kernels import narrow, widen

F32 = NDArray[np.float32]
STEP_EVENTS = 32


class Replay:
    """The last `kept` judged events, as half-precision features of at most C candidates each."""

    def __init__(self, kept: int, candidates: int, seed: int) -> None:
        self._kept = kept
        # Zeros take no memory until something is written to them.
        self._x = np.zeros((kept, FEATURES, candidates), np.float16)
        self._context = np.zeros((kept, CONTEXT), np.float32)
        self._there = np.zeros((kept, candidates), np.bool_)
        self._target = np.zeros(kept, np.int64)
        self._rng = np.random.default_rng(seed)
        self.seen = 0

    def add(self, x: F32, context: F32, there: NDArray[np.bool_], target: NDArray[np.int64]) -> None:
        """Features (B, F, C), context (B, D), candidates that are there (B, C), place of the taken one (B,)."""
        at = (self.seen + np.arange(len(target))) % self._kept
        wide = x.shape[2]
        self._there[at] = False
        narrow(x, at, self._x.view(np.int16))
        self._context[at] = context
        self._there[at, :wide], self._target[at] = there, target
        self.seen += len(target)

    def step(self, blend: Blend) -> float:
        """One step on random events that are kept; the mean loss, NaN where there are none."""
        filled = min(self.seen, self._kept)
        if not filled:
            return float("nan")
        at = self._rng.integers(0, filled, STEP_EVENTS)
        x = np.empty((STEP_EVENTS, *self._x.shape[1:]), np.float32)
        widen(self._x.view(np.int16), at, x)
        return blend.learn(x, self._context[at], self._there[at], self._target[at])
