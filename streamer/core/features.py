"""What the model sees of an event besides its item and type; the worker and the trainer both take it from here."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import EventTypes

_GAP_SCALE = np.float32(1 / 16)
"""log1p of three months in seconds is about 16."""
_UNBOUNDED_SCALE = 1 / 8
"""log1p of an hour in seconds is about 8."""


def gap_feature(time_ms: NDArray[np.int64], last_time_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """log1p(seconds since the user's last applied event) / 16, f4 (n,).

    0 for a user's first event (`last_time_ms` -1) and for one that is older than the last. Ask before absorbing the event.
    """
    elapsed_s = np.where(last_time_ms < 0, 0, np.maximum(time_ms - last_time_ms, 0)) / 1000
    return np.log1p(elapsed_s).astype(np.float32) * _GAP_SCALE


def value_feature(
    value: NDArray[np.float32], type_codes: NDArray[np.uint8], types: EventTypes
) -> NDArray[np.float32]:
    """The event's value, scaled to about [0, 1], f4 (n,); 0 for types without one.

    Within its type's range where that is bounded on both sides, else log1p(value - lower bound) / 8: seconds of a dwell.
    """
    low, span, unbounded = _scales(types)
    above = np.maximum(value.astype(np.float64) - low[type_codes], 0)
    scaled = np.where(unbounded[type_codes], np.log1p(above) * _UNBOUNDED_SCALE, above / span[type_codes])
    return scaled.astype(np.float32)


@functools.lru_cache(maxsize=8)
def _scales(types: EventTypes) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    low, span, unbounded = np.zeros(32), np.full(32, np.inf), np.zeros(32, np.bool_)
    for each in types:
        if not each.uses_value:
            continue
        low[each.code] = each.value_min if math.isfinite(each.value_min) else 0.0
        if math.isfinite(each.value_max) and math.isfinite(each.value_min):
            span[each.code] = each.value_max - each.value_min
        else:
            unbounded[each.code] = True
    return low, span, unbounded
