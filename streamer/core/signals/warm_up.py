"""The kernels of the signals, compiled by going once through all that they are used for."""

from __future__ import annotations

import numpy as np

from streamer.core.signals.context_kernels import products
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.lists import Extra
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.replay import STEP_EVENTS
from streamer.core.signals.signals import Signals


def warm_up() -> None:
    """Takes seconds where there is no cache yet; blocking."""
    options = SignalOptions(
        half_lives_ms=(1.0, 2.0, 3.0),
        edge_half_life_ms=1.0,
        tick_ms=1.0,
        repeats=True,
        edge_budget=2,
        neighbours=2,
        pool=4,
        replayed=STEP_EVENTS,
    )
    signals = Signals(options)
    past, item = np.full((STEP_EVENTS, 2), NONE), np.arange(STEP_EVENTS) % 3
    past[:, 0] = (item + 1) % 3
    clock = np.full(STEP_EVENTS, 1)
    contexts = Contexts(past, np.zeros_like(past), clock, clock)
    said = Extra(item[:, None], lambda at, items: np.zeros(items.shape, np.float32))
    signals.absorb(contexts, item, np.ones(len(item)), clock)
    signals.judge(contexts, item, None, {"gru": said})
    signals.rank(contexts, 1, np.zeros((1, 2), np.int64), {"gru": said})
    Signals.from_state(options, signals.state())
    query, vectors, bias = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32), np.zeros(1, np.float32)
    vectors.flags.writeable = bias.flags.writeable = False  # as a catalogue's are
    zero = np.zeros(1, np.int64)
    products(query, zero, zero[:, None], zero, vectors, bias, np.zeros((1, 1), np.float32))
