"""Approximate top-k for large catalogues: faiss's inverted lists over vectors that carry their bias.

A score is query · vector + bias, so with a bias as one more dimension, and 1 as the query's, it is an inner product: only
the choice of the probed lists is approximate, scores and exclusions are exact. Inverted file: Sivic & Zisserman 2003;
faiss: Douze et al. 2024, arXiv:2401.08281.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from streamer.core.manifest import IndexSpec
from streamer.serving.exact import F32, I64

SPARE = 22
"""Candidates fetched beyond k at first: most users have seen few of their best items."""
TARGET_RECALL = 0.95
_SAMPLE_PER_LIST = 64
_SEED = 1


@dataclass(frozen=True, eq=False)
class Lists:
    """What training an index is for."""

    centroids: F32
    """(nlist, D + 1)"""
    of_rows: I64
    """(N,) the list of each row."""


class IvfSearch:
    """A `Search` over rows of which only those with a finite bias are in the index."""

    def __init__(
        self, query: Callable[[F32], F32], vectors: F32, bias: F32, lists: Lists, nprobe: int
    ) -> None:
        """`query`: states (B, H) → (B, D). vectors (N, D), bias (N,)."""
        self._query, self._n, self.nprobe, self.lists = query, len(bias), nprobe, lists
        self._bias = bias
        self._index = _filled(vectors, bias, lists)

    def with_bias(self, bias: F32) -> IvfSearch:
        """The same rows of which some may no longer be recommended: (N,), the old bias or -inf."""
        other = copy.copy(self)
        other._bias = bias
        return other

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """As Search says; recall is that of nprobe.

        Candidates are fetched until k are left that the user has not seen. Who does not get them out of the probed lists is
        searched in all.
        """
        k = min(k, self._n)
        scores, rows = np.full((len(state), k), -np.inf, np.float32), np.full((len(state), k), -1, np.int64)
        if k <= 0 or self._index.ntotal == 0:
            return scores, rows
        query = np.concatenate([self._query(state), np.ones((len(state), 1), np.float32)], axis=1)
        taken = np.sort(excluded[:, 0] * self._n + excluded[:, 1])
        pending, nprobe, fetch = np.arange(len(state)), self.nprobe, k + SPARE
        while pending.size:
            found, at = self._search(query[pending], min(fetch, self._index.ntotal), nprobe)
            free = self._free(pending, at, taken)
            ended = (at[:, -1] < 0) | (fetch >= self._index.ntotal)  # no more candidates in the probed lists
            everywhere = nprobe >= len(self.lists.centroids)
            last = found[:, -1]
            found = np.where(free, found, -np.inf)
            best = np.lexsort((at, -found), axis=1)[:, :k]
            enough = free.sum(axis=1) >= k
            if best.shape[1] == k:  # among equals of the last one fetched there may be a lower row behind it
                enough &= ended | (np.take_along_axis(found, best[:, -1:], 1)[:, 0] > last)
            done = enough | (ended & everywhere)
            width = best.shape[1]
            scores[pending[done], :width] = np.take_along_axis(found, best, 1)[done]
            rows[pending[done], :width] = np.take_along_axis(at, best, 1)[done]
            if ended[~done].any():
                nprobe = len(self.lists.centroids)
            if not ended[~done].all():
                fetch *= 4
            pending = pending[~done]
        rows[np.isneginf(scores)] = -1
        return scores, rows

    def _free(self, users: I64, at: I64, taken: I64) -> np.ndarray:
        """Which candidates (n, fetch) may be recommended to their user."""
        free: np.ndarray = at >= 0
        free &= np.isfinite(self._bias[at])
        if len(taken):
            pair = users[:, None] * self._n + at
            free &= taken[np.minimum(np.searchsorted(taken, pair), len(taken) - 1)] != pair
        return free

    def _search(self, query: F32, fetch: int, nprobe: int) -> tuple[F32, I64]:
        faiss = load_faiss()
        parameters = faiss.SearchParametersIVF(nprobe=nprobe)
        scores, rows = self._index.search(query, fetch, params=parameters)
        return scores, rows


def load_faiss() -> ModuleType:
    """faiss, on one thread; raises ImportError where it is not installed. Imported late: few need it."""
    import faiss

    faiss.omp_set_num_threads(1)  # per calling thread
    return faiss


def lists_for(items: int) -> int:
    """nlist: the power of two next to 2 √N."""
    return int(2 ** round(np.log2(2.0 * max(items, 1) ** 0.5)))


def train(vectors: F32, bias: F32, nlist: int | None = None) -> Lists:
    """Cluster the rows with a finite bias: vectors (N, D), bias (N,). nlist is at most a row each."""
    faiss = load_faiss()
    points = _augmented(vectors, bias)
    chosen = np.flatnonzero(np.isfinite(bias))
    nlist = max(1, min(nlist or lists_for(len(chosen)), len(chosen)))
    rng = np.random.default_rng(_SEED)
    if len(chosen) > _SAMPLE_PER_LIST * nlist:
        chosen = np.sort(rng.choice(chosen, _SAMPLE_PER_LIST * nlist, replace=False))
    if len(chosen) == 0:
        return Lists(np.zeros((1, points.shape[1]), np.float32), np.zeros(len(bias), np.int64))
    clusters = faiss.Kmeans(
        points.shape[1],
        nlist,
        niter=10,
        spherical=True,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLE_PER_LIST,
    )
    clusters.train(points[chosen])
    centroids = np.ascontiguousarray(clusters.centroids, np.float32)
    return Lists(centroids, assign(centroids, points))


def assigned(centroids: F32, vectors: F32, bias: F32) -> I64:
    """(n,) the list of each of vectors (n, D), bias (n,)."""
    return assign(centroids, _augmented(vectors, bias))


def assign(centroids: F32, points: F32) -> I64:
    """(n, D + 1) → (n,)"""
    _, at = _quantizer(centroids).search(points, 1)
    return np.ascontiguousarray(at[:, 0], np.int64)


def measured(
    query: Callable[[F32], F32], state: F32, vectors: F32, bias: F32, lists: Lists, k: int = 20
) -> IndexSpec:
    """The least nprobe (a power of two) that finds TARGET_RECALL of the exact top k of `state` (B, H), and what it finds."""
    nlist = len(lists.centroids)
    search = IvfSearch(query, vectors, bias, lists, nlist)
    nobody = np.zeros((0, 2), np.int64)
    _, exact = search.top_k(state, nobody, k)
    nprobe = min(4, nlist)
    while True:
        search.nprobe = nprobe
        _, found = search.top_k(state, nobody, k)
        recall = overlap(exact, found)
        if recall >= TARGET_RECALL or nprobe >= nlist:
            return IndexSpec(kind="ivf", nlist=nlist, nprobe=nprobe, k=k, recall=round(recall, 4))
        nprobe = min(2 * nprobe, nlist)


def brute_force(query: F32, vectors: F32, bias: F32, k: int) -> I64:
    """Rows (B, k) of the best, of query (B, D), by numpy."""
    best = np.full((len(query), 0), 0, np.int64)
    found = np.zeros((len(query), 0), np.float32)
    step = 1 << 16
    for start in range(0, len(bias), step):
        scores = query @ vectors[start : start + step].T + bias[start : start + step]
        rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        found, best = np.concatenate([found, scores], axis=1), np.concatenate([best, rows], axis=1)
        kept = np.argsort(-found, axis=1, kind="stable")[:, :k]
        found, best = np.take_along_axis(found, kept, 1), np.take_along_axis(best, kept, 1)
    return np.where(np.isneginf(found), -1, best)


def overlap(expected: I64, found: I64) -> float:
    """Mean share of each row's entries of `expected` (n, k) that are in that row of `found`; -1 is none. 1 if there are none."""
    same = (expected[:, :, None] == found[:, None, :]).any(axis=2) & (expected >= 0)
    return float(same.sum() / max((expected >= 0).sum(), 1)) if (expected >= 0).any() else 1.0


def _augmented(vectors: F32, bias: F32) -> F32:
    return np.concatenate(
        [vectors, np.where(np.isfinite(bias), bias, 0.0)[:, None]], axis=1, dtype=np.float32
    )


def _quantizer(centroids: F32) -> Any:
    flat = load_faiss().IndexFlatIP(centroids.shape[1])
    flat.add(centroids)
    return flat


def _filled(vectors: F32, bias: F32, lists: Lists) -> Any:
    faiss = load_faiss()
    quantizer = _quantizer(lists.centroids)
    index = faiss.IndexIVFFlat(
        quantizer, lists.centroids.shape[1], len(lists.centroids), faiss.METRIC_INNER_PRODUCT
    )
    index.is_trained = True
    chosen = np.flatnonzero(np.isfinite(bias))
    step = 1 << 18  # rows at a time: the copies stay small
    for start in range(0, len(chosen), step):
        rows = chosen[start : start + step]
        points, where = _augmented(vectors[rows], bias[rows]), np.ascontiguousarray(lists.of_rows[rows])
        index.add_core(len(rows), faiss.swig_ptr(points), faiss.swig_ptr(rows), faiss.swig_ptr(where))
    return index
