"""Exact top-k over a catalogue on the CPU: the product as a graph, the selection as a kernel, a block of users at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamer.errors import StateError
from streamer.serving import selection
from streamer.serving.session import Session

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

SCORES_PER_BLOCK = 224 * 1024
"""Scores (users × items) that are computed at a time: they stay in the processor's cache between product and selection."""
LEAST_USERS = 64
"""… but as many users as this: onnxruntime packs the items anew in every run."""


class Search(Protocol):
    """Top-k over the rows of one immutable catalogue."""

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """state (B, H) finite, excluded (M, 2) within state and rows, sorted by user → scores and rows (B, K), K = min(k, N).

        Best first, ties by the lowest row; -inf and -1 where fewer than K items are left.
        """


class ExactSearch:
    """Holds the items as the graph reads them: transposed, so that no run has to."""

    def __init__(self, product: Session, items: F32, bias: F32) -> None:
        """`items` (N, D), `bias` (N,)."""
        self._product = product
        self._items = np.ascontiguousarray(items.T, np.float32)
        self._bias = np.ascontiguousarray(bias, np.float32)

    def with_bias(self, bias: F32) -> ExactSearch:
        """The same items with other biases (N,)."""
        other = copy.copy(self)
        other._bias = np.ascontiguousarray(bias, np.float32)
        return other

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """As Search says."""
        users, n = len(state), len(self._bias)
        k = min(k, n)
        scores, rows = np.empty((users, k), np.float32), np.empty((users, k), np.int64)
        if users == 0 or k <= 0:
            return scores, rows
        excluded = np.ascontiguousarray(excluded)
        for start, stop, part in blocks(excluded, users, max(LEAST_USERS, SCORES_PER_BLOCK // n)):
            (product,) = self._product.run({"state": state[start:stop], "items": self._items})
            selection.best(product, self._bias, part, scores[start:stop], rows[start:stop])
        return scores, rows


def checked(state: F32, excluded: I64, n: int) -> tuple[F32, I64]:
    """Both contiguous, `excluded` (M, 2) sorted by user.

    Raises StateError for a state that is not finite (a top-k would return arbitrary rows) and ValueError for an exclusion
    outside of the states or of n items (ScatterND would take a negative row as one from the end).
    """
    state = np.ascontiguousarray(state, np.float32)
    if not np.isfinite(state).all():
        bad = int(np.argmin(np.isfinite(state).all(axis=1)))
        raise StateError(
            f"the user state in row {bad} of {len(state)} holds NaN or infinity: rebuild it from its window"
        )
    excluded = np.ascontiguousarray(excluded, np.int64).reshape(-1, 2)
    if len(excluded) == 0:
        return state, excluded
    user, row = excluded[:, 0].copy(), excluded[:, 1].copy()  # contiguous: these passes are most of the cost
    if user.min() < 0 or user.max() >= len(state) or row.min() < 0 or row.max() >= n:
        raise ValueError(
            f"excluded names users {user.min()} to {user.max()} of {len(state)} and items {row.min()} to {row.max()} of {n}"
        )
    if not (user[1:] >= user[:-1]).all():
        excluded = excluded[np.argsort(user, kind="stable")]
    return state, excluded


def blocks(excluded: I64, users: int, size: int) -> Iterator[tuple[int, int, I64]]:
    """Cut users into blocks: (first user, end, the block's exclusions, users counted from its first)."""
    edges = [*range(0, users, size), users]
    cuts = np.searchsorted(np.ascontiguousarray(excluded[:, 0]), edges).tolist()
    for (start, stop), (first, last) in zip(pairwise(edges), pairwise(cuts), strict=True):
        part = excluded[first:last]
        if start and len(part):
            part = part.copy()
            part[:, 0] -= start
        yield start, stop, part
