"""What goes into lists and what comes of them: a model's word, ranked lists, judged events.

Axes: n contexts, k places of a list, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.features import Signal

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

SINGLES = (
    Signal.POPULAR_FAST,
    Signal.POPULAR,
    Signal.POPULAR_SLOW,
    Signal.POPULAR_EVER,
    Signal.NEXT,
    Signal.SOON,
    Signal.TOGETHER,
    Signal.SESSION,
    Signal.REPEAT,
    Signal.GRU,
)
"""Signals that may serve alone."""


@dataclass(frozen=True, slots=True)
class Extra:
    """What a model says, for n contexts. `candidates` (n, K): its own best items, NONE = none; `score`: place (n',), items
    (n', C) → scores (n', C), whatever their scale; items of NONE are not looked at.
    """

    candidates: Rows
    score: Callable[[Rows, Rows], F32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The lists of n contexts, best first."""

    item: Rows
    """(n, k), NONE where a list is shorter"""
    score: F32
    """(n, k), -inf there"""
    signal: NDArray[np.uint8]
    """(n, k) the `Signal` that carried each most"""
    because: Rows
    """(n, k) the past item that supports it most, itself where it is a repeat; NONE without one"""
    weights: int
    """Version of the blend's weights"""


@dataclass(frozen=True, slots=True)
class Judged:
    """Ranks (n,), 1-based, 0 = no candidate, of the items taken: by the blend, and (n, S) by each of SINGLES alone."""

    blend: Rows
    singles: Rows
    loss: float
    """Mean over the events whose item was a candidate; NaN without any"""
