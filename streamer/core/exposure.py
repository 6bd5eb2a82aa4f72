"""Lists that give less of their places to what everybody is shown anyway: a discount for the exposure that an item has had.

Popular items are shown more often than users would take them, and what is shown is taken and so grows more popular
(Abdollahpouri, Burke & Mobasher 2019, arXiv:1901.07555, re-rank against it by groups of items; here the discount is gradual).

Axes: n users, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]


def discounted(scores: F32, rows: Rows, exposure: F32, strength: float) -> tuple[F32, Rows]:
    """Values (n, C), falling, and the places (n, C) of the candidates in that order.

    scores (n, C), falling, of catalogue rows (n, C), -1 = no candidate, at the end; exposure (n, C): how often each was taken.
    A value is (1 - strength) · relevance - strength · exposure, both as places between the lowest and the highest of the
    user's candidates (1 = highest), exposure by its logarithm. Ties go to the earlier candidate; `strength` 0 keeps the order.
    """
    there = rows >= 0
    relevance = _place(scores, there)
    shown = _place(np.log1p(exposure), there)
    value = np.where(there, (1 - np.float32(strength)) * relevance - np.float32(strength) * shown, -np.inf)
    order = np.argsort(-value, axis=1, kind="stable")
    return np.take_along_axis(value, order, 1).astype(np.float32), order


def _place(values: F32, there: NDArray[np.bool_]) -> F32:
    """(n, C) between 0, the lowest of those that are there, and 1, the highest."""
    lowest = np.where(there, values, np.float32(np.inf)).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(there, values, np.float32(-np.inf)).max(axis=1, keepdims=True, initial=-np.inf)
    span = np.where(highest > lowest, highest - lowest, np.float32(1))
    return np.where(there, (values - np.where(np.isfinite(lowest), lowest, 0)) / span, 0).astype(np.float32)
