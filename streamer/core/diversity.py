"""Lists whose items are less alike: maximal marginal relevance (Carbonell & Goldstein 1998, doi:10.1145/290941.291025).

Axes: n users, C candidates, k places of a list, N rows of the catalogue, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

CANDIDATES = 3
"""Times as many candidates as places are looked at."""
_BLOCK = 64
"""Users whose vectors are gathered at a time."""


def diverse(scores: F32, rows: Rows, vectors: F32, strength: float, k: int) -> Rows:
    """Places (n, min(k, C)) of the candidates to list, in the order of the list.

    scores (n, C), falling, of catalogue rows (n, C), -1 = no candidate, at the end; `vectors` (N, D). The first candidate comes
    first; then always the one with the highest (1 - strength) · relevance - strength · likeness: its score's place between
    the lowest and the highest of the candidates (1 = highest), and its highest cosine with what is listed already. Ties go to
    the earlier candidate; `strength` 0 keeps the order.
    """
    n, wide = rows.shape
    k = min(k, wide)
    chosen = np.zeros((n, k), np.int64)
    if not k or not len(vectors):
        return np.broadcast_to(np.arange(k), (n, k))
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        chosen[block] = _chosen(scores[block], rows[block], vectors, np.float32(strength), k)
    return chosen


def _chosen(scores: F32, rows: Rows, vectors: F32, strength: np.float32, k: int) -> Rows:
    there, users = rows >= 0, np.arange(len(rows))
    gathered = vectors[np.maximum(rows, 0)]  # (n, C, D)
    gathered /= np.maximum(np.linalg.norm(gathered, axis=2, keepdims=True), np.float32(1e-12))
    highest = np.where(there[:, :1], scores[:, :1], np.float32(0))
    known = np.where(there, scores, highest)
    lowest = known.min(axis=1, keepdims=True)
    span = np.where(highest > lowest, highest - lowest, np.float32(1))
    relevance = (known - lowest) / span
    marginal = np.where(there, (1 - strength) * relevance, -np.inf).astype(np.float32)
    likeness = np.full(rows.shape, -1, np.float32)
    chosen = np.zeros((len(rows), k), np.int64)
    left = np.ones(rows.shape, np.bool_)
    for place in range(k):
        value = marginal if place == 0 else marginal - strength * likeness
        # What is no candidate comes last, but is never taken twice either.
        value = np.where(left, np.maximum(value, np.float32(-1e30)), -np.inf)
        best = value.argmax(axis=1)
        chosen[:, place] = best
        left[users, best] = False
        cosine = np.einsum("ncd,nd->nc", gathered, gathered[users, best])
        np.maximum(likeness, cosine, out=likeness)
    return chosen


def intra_list_similarity(rows: Rows, vectors: F32) -> float:
    """Mean cosine of the pairs of a list (n, k), -1 = none, over lists with two items at least; `vectors` (N, D)."""
    there = rows >= 0
    units = vectors[np.maximum(rows, 0)]
    units = units / np.maximum(np.linalg.norm(units, axis=2, keepdims=True), 1e-12) * there[..., None]
    length = there.sum(axis=1)
    total = (units.sum(axis=1) ** 2).sum(axis=1) - (units**2).sum(axis=(1, 2))
    pairs = length * (length - 1)
    return float((total[pairs > 0] / pairs[pairs > 0]).mean()) if (pairs > 0).any() else 0.0
