"""What a batch is scored against: every item that can be recommended or met in an event, as arrays bound to one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamer.core.hash_index import HashIndex
from streamer.serving.exact import F32, I64, Search, checked

U64 = npt.NDArray[np.uint64]


class RowLookup(Protocol):
    def rows(self, hashes: U64) -> I64:
        """(n,) item hashes → (n,) rows, -1 for an item that is unknown."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that are searched by themselves: all from `first` on, or of these the ones that `rows` names."""

    first: int
    size: int
    search: Search
    rows: I64 | None = None
    """Of each row of the search the row of the snapshot, in the order in which ties go."""
    order: I64 | None = None
    """What ties go by between parts, of each row of the search; row << 20 where there is none."""
    alone: bool = False
    """There is no other part."""

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64, I64]:
        """Scores, rows of the snapshot, and what ties go by, each (B, min(k, rows of the search))."""
        if len(excluded) and not self.alone:
            inside = (excluded[:, 1] >= self.first) & (excluded[:, 1] < self.first + self.size)
            excluded = excluded[inside]
            excluded[:, 1] -= self.first
        if self.rows is not None:
            own = np.full(self.size, -1, np.int64)
            own[self.rows - self.first] = np.arange(len(self.rows))
            excluded = np.stack([excluded[:, 0], own[excluded[:, 1]]], axis=1)
            excluded = excluded[excluded[:, 1] >= 0]
        scores, at = self.search.top_k(state, excluded, k)
        rows = at + self.first if self.rows is None else self.rows[at]
        order = rows << 20 if self.order is None else self.order[at]
        return scores, np.where(at >= 0, rows, -1), order


@dataclass(frozen=True, eq=False)
class CatalogueSnapshot:
    """Immutable; row r of every array is the item `ids[r]`. N items, D item vector.

    Up to EXACT_ITEMS rows are sorted by item id. Above it that holds for the rows of the index; those behind them came
    later, and a row that was replaced by one of them stays, with bias -inf, until the index is built anew.
    """

    model_version: str
    ids: list[str]
    """Where rows are appended it may grow longer than N."""
    hashes: U64
    """(N,)"""
    vectors: F32
    """(N, D); the model's `unknown` where the item has none."""
    bias: F32
    """(N,); -inf for what may not be recommended: not in the catalogue, unavailable, or without a vector."""
    has_vector: npt.NDArray[np.bool_]
    """(N,)"""
    categories: npt.NDArray[np.uint32]
    """(N, 6) hashes of the item's categories, 0 = none."""
    labels: dict[int, str]
    """Hash of a category → its name."""
    lookup: RowLookup
    parts: tuple[Part, ...]

    def rows(self, hashes: U64) -> I64:
        """(n,) item hashes → (n,) rows, -1 for an item that is unknown here."""
        return self.lookup.rows(hashes)

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """As Model.score, over all rows: scores and rows (B, K), K = min(k, N)."""
        state, excluded = checked(state, excluded, len(self.bias))
        k = min(k, len(self.bias))
        found = [part.top_k(state, excluded, k) for part in self.parts if part.size]
        if len(found) == 1:
            return found[0][0], found[0][1]
        if not found or k <= 0:
            return np.zeros((len(state), max(k, 0)), np.float32), np.zeros((len(state), max(k, 0)), np.int64)
        scores, rows, order = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        best = np.lexsort((order, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


@dataclass(frozen=True, eq=False)
class LayeredLookup:
    """The rows of an index, and over them those of later changes."""

    base: HashIndex
    changed: HashIndex
    """Of the hashes of changed items …"""
    rows_of_changed: I64
    """… to their rows, -1 for the withdrawn."""

    def rows(self, hashes: U64) -> I64:
        rows = self.base.rows(hashes)
        at = self.changed.rows(hashes)
        return np.where(at >= 0, self.rows_of_changed[at], rows) if len(self.rows_of_changed) else rows
