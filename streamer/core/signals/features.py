"""What the blend sees of a candidate: of each signal a bounded log score and its share of the maximum, and the context.

Axes: B users, C candidates, N items, F features, D context features.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.feature_kernels import HALF_LIVES, described
from streamer.core.signals.history import Contexts
from streamer.core.signals.item_counts import ItemCounts
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.pool import KINDS, Pool

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Signal(IntEnum):
    """What can carry a recommendation."""

    POPULAR_FAST = 0
    POPULAR = 1
    POPULAR_SLOW = 2
    POPULAR_EVER = 3
    NEXT = 4
    SOON = 5
    TOGETHER = 6
    SESSION = 7
    REPEAT = 8
    AGE = 9
    GRU = 10
    TEXT = 11


SIGNAL_OF = (
    *(Signal(h) for h in range(HALF_LIVES) for _ in range(2)),
    Signal.POPULAR_EVER,
    *(Signal(Signal.NEXT + kind) for kind in range(KINDS) for _ in range(2)),
    *(Signal.REPEAT,) * 5,
    *(Signal.AGE,) * 3,
    *(Signal.GRU,) * 2,
    *(Signal.TEXT,) * 2,
)
"""(F,) which signal a feature belongs to: of each popularity log score and share, log count; of each neighbour signal log score
and share; taken, how lately, since when, how often, how often others take it again; age, idle time, trend; of each model the
standardised score and its share as a softmax."""
FEATURES = len(SIGNAL_OF)
CONTEXT = 6
_UNSAID = np.zeros((0, 0), np.float32)


def features(
    past: Contexts,
    session: Rows,
    pool: Pool,
    counts: ItemCounts,
    again: F64,
    options: SignalOptions,
    gru: F32 | None,
    text: F32 | None,
    x: F32,
) -> F32:
    """Fill x (B, F, C), of the candidates, 0 where there are none; (B, CONTEXT) of the users.

    session (B,); again (N,): how often each item was taken by somebody who remembered it; gru, text (B, C): scores.
    """
    users, wide = pool.item.shape
    context = np.empty((users, CONTEXT), np.float32)
    described(
        pool.item,
        pool.filled,
        pool.neighbour,
        pool.highest,
        pool.lag,
        pool.taken,
        past.now_ms,
        past.item,
        past.time_ms,
        past.length,
        session,
        counts.by_item,
        counts.total,
        counts.top,
        counts.times,
        again,
        options.tick_ms,
        options.repeats,
        options.recent,
        _UNSAID if gru is None else np.ascontiguousarray(gru, np.float32),
        _UNSAID if text is None else np.ascontiguousarray(text, np.float32),
        np.empty(wide, np.int32),
        x,
        context,
    )
    return context
