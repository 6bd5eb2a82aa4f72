"""Where sessions start."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.sessions import NEVER_MS, since_last


def test_since_a_users_last_event() -> None:
    user, time_ms = np.array([3, 1, 3, 3, 1, 2]), np.array([5, 6, 6, 6, 9, 9])
    assert since_last(user, time_ms).tolist() == [NEVER_MS, NEVER_MS, 1, 0, 3, NEVER_MS]
    assert since_last(user[:0], time_ms[:0]).tolist() == []
