"""Metrics of ranks, and how sure a difference is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.evaluation import Ranks, hit_at_k, mrr_at_k, ndcg_at_k

K = 10
RESAMPLES = 1_000
METRICS = {"ndcg_at_10": ndcg_at_k, "hit_rate_at_10": hit_at_k, "mrr_at_10": mrr_at_k}


def gains(ranks: Ranks) -> NDArray[np.float64]:
    """(n,) NDCG@10 of each event."""
    return np.where((ranks >= 1) & (ranks <= K), 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0)


def paired_bootstrap(
    ours: Ranks, theirs: Ranks, user: NDArray[np.int64], seed: int = 0
) -> tuple[float, float, float]:
    """Difference of the mean NDCG@10, and the 95 % interval of it (Efron's percentiles).

    Users are resampled, not events: the events of one user are no independent evidence.
    """
    difference = gains(ours) - gains(theirs)
    _, row = np.unique(user, return_inverse=True)
    sums, sizes = np.bincount(row, difference), np.bincount(row).astype(np.float64)
    rng, n = np.random.default_rng(seed), len(sums)
    means = np.empty(RESAMPLES)
    for each in range(RESAMPLES):
        drawn = rng.integers(0, n, n)
        means[each] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
