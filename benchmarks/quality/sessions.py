"""Where a user's sessions start: there a service asks for a fresh list."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEVER_MS = 1 << 62
"""Since an event that there was not."""


def since_last(user: NDArray[np.int64], time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) ms between each event and the same user's one before it; NEVER_MS for the first. Events come in time order."""
    order = np.argsort(user, kind="stable")
    since = np.full(len(user), NEVER_MS, np.int64)
    again = np.flatnonzero(np.diff(user[order]) == 0) + 1
    since[order[again]] = time_ms[order[again]] - time_ms[order[again - 1]]
    return since
