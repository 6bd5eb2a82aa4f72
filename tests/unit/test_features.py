from __future__ import annotations

from math import log1p

import numpy as np
import pytest

from streamer.core.event_types import EventType, EventTypes
from streamer.core.features import gap_feature, value_feature


def test_gap_is_the_logarithm_of_seconds() -> None:
    found = gap_feature(np.array([5_000, 61_500, 10]), np.array([5_000, 1_500, 0]))
    assert found.dtype == np.float32
    assert found == pytest.approx([0, log1p(60) / 16, log1p(0.010) / 16], rel=1e-6)


def test_first_and_older_events_have_no_gap() -> None:
    assert gap_feature(np.array([1_700_000_000_000, 10_000]), np.array([-1, 70_000])).tolist() == [0, 0]


def test_values_are_scaled_by_the_range_of_their_type() -> None:
    types = EventTypes(
        [EventType("stars", 2, 1.0, uses_value=True, value_min=1, value_max=5), *EventTypes.DEFAULT][:2]
    )
    assert value_feature(np.array([3, 9], np.float32), np.array([2, 1], np.uint8), types).tolist() == [
        0.5,
        0.0,
    ]
    rating, dwell, view = 7, 3, 1
    found = value_feature(
        np.array([7.5, 60, 4, 0], np.float32),
        np.array([rating, dwell, view, rating], np.uint8),
        EventTypes.DEFAULT,
    )
    assert found.dtype == np.float32
    assert found == pytest.approx([0.75, log1p(60) / 8, 0, 0], rel=1e-6)
