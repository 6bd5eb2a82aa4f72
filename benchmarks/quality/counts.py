"""A sparse symmetric or directed matrix of counts that grows with a stream: compact rows, and beside them what came since."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows = NDArray[np.int64]

COMPACT_AFTER = 200_000
"""Additions, at least, that wait beside the compact rows; a tenth of these where that is more."""


class SparseCounts:
    """(N, N) counts; an addition is seen at once."""

    def __init__(self, start: sparse.csr_matrix) -> None:
        self._compact = start
        self._fresh: dict[int, list[int]] = {}
        self._waiting = 0

    @classmethod
    def of(cls, rows: Rows, columns: Rows, items: int) -> SparseCounts:
        """Each (row, column) counts 1."""
        return cls(_matrix(rows, columns, items))

    def add(self, row: int, column: int) -> None:
        self._fresh.setdefault(row, []).append(column)
        self._grown(1)

    def add_both_ways(self, item: int, others: Rows) -> None:
        """Count 1 at (item, other) and (other, item) for each of `others`, which are distinct."""
        fresh, listed = self._fresh, others.tolist()
        fresh.setdefault(item, []).extend(listed)
        for other in listed:
            fresh.setdefault(other, []).append(item)
        self._grown(2 * len(listed))

    def row(self, row: int) -> tuple[Rows, NDArray[np.float32]]:
        """(m,) columns, which may come twice, and what to add there."""
        first, last = self._compact.indptr[row], self._compact.indptr[row + 1]
        columns, counts = self._compact.indices[first:last], self._compact.data[first:last]
        fresh = self._fresh.get(row)
        if fresh is None:
            return columns, counts
        distinct, times = np.unique(np.array(fresh, np.int64), return_counts=True)
        return np.concatenate([columns, distinct]), np.concatenate([counts, times.astype(np.float32)])

    def _grown(self, by: int) -> None:
        self._waiting += by
        if self._waiting > max(COMPACT_AFTER, self._compact.nnz // 10):
            rows = np.repeat(list(self._fresh), [len(each) for each in self._fresh.values()])
            columns = np.concatenate([np.array(each, np.int64) for each in self._fresh.values()])
            self._compact = (self._compact + _matrix(rows, columns, self._compact.shape[0])).tocsr()
            self._fresh.clear()
            self._waiting = 0


def _matrix(rows: Rows, columns: Rows, items: int) -> sparse.csr_matrix:
    ones = np.ones(len(rows), np.float32)
    return sparse.coo_matrix((ones, (rows, columns)), shape=(items, items)).tocsr()
