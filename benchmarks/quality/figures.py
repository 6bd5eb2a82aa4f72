"""Judged events as the figures of the benchmark suite."""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure
from benchmarks.quality.prequential import Judged
from benchmarks.quality.statistics import METRICS, paired_bootstrap
from streamer.core.evaluation import Ranks, ndcg_at_k

K = 10
RATIO_GOAL = 1.10
COLD_GOAL = 2.0


def of_prequential(judged: Judged) -> dict[str, Figure]:
    """Keys: metric_recommender, ndcg_at_10_recommender_slice, coverage_recommender, ndcg_at_10_stream_minus_baseline(_low, _high)."""
    figures: dict[str, Figure] = {}
    for metric, measure in METRICS.items():
        for name, ranks in judged.ranks.items():
            figures[f"{metric}_{name}"] = Figure.of([measure(ranks, K)], "share")
    baselines = [name for name in judged.ranks if name != "stream"]
    best = max(baselines, key=lambda name: ndcg_at_k(judged.ranks[name], K))
    ours, theirs = (ndcg_at_k(judged.ranks[name], K) for name in ("stream", best))
    figures["ndcg_at_10_stream_over_best_baseline"] = Figure.of(
        [ours / max(theirs, 1e-9)], "ratio", RATIO_GOAL
    )
    users = judged.log.user[judged.rows]
    for name in baselines:
        found = paired_bootstrap(judged.ranks["stream"], judged.ranks[name], users)
        for key, value in zip(("", "_low", "_high"), found, strict=True):
            figures[f"ndcg_at_10_stream_minus_{name}{key}"] = Figure.of([value], "share")
    figures |= _slices(judged)
    figures |= {
        f"coverage_{name}": Figure.of([value], "share of items") for name, value in judged.coverage.items()
    }
    figures["judged_events"] = Figure.of([len(judged.rows)], "events")
    figures["history_masked"] = Figure.of([float(judged.mask)], "yes = 1")
    figures |= {f"seconds_{name}": Figure.of([value], "s") for name, value in judged.seconds.items()}
    return figures


def _slices(judged: Judged) -> dict[str, Figure]:
    """NDCG@10 of users and items that the training part knows (warm) and does not know (cold)."""
    log, rows, cut = judged.log, judged.rows, judged.cut
    known_user, known_item = np.zeros(log.users, bool), np.zeros(len(log.items), bool)
    known_user[log.user[:cut]], known_item[log.item[:cut]] = True, True
    warm_user, warm_item = known_user[log.user[rows]], known_item[log.item[rows]]
    parts = {
        "warm_users": warm_user,
        "cold_users": ~warm_user,
        "warm_items": warm_item,
        "cold_items": ~warm_item,
    }
    figures = {f"judged_events_{part}": Figure.of([int(at.sum())], "events") for part, at in parts.items()}
    for part, at in parts.items():
        if at.any():
            for name, ranks in judged.ranks.items():
                figures[f"ndcg_at_10_{name}_{part}"] = Figure.of([_ndcg(ranks[at])], "share")
    return figures


def _ndcg(ranks: Ranks) -> float:
    return ndcg_at_k(ranks, K)
