"""Baselines asked at the moment of each judged event, and then told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.baselines import Baseline, Histories, Rows, Scores
from streamer.core.evaluation import Ranks

if TYPE_CHECKING:
    from benchmarks.quality.prequential import Judged

K = 10
NONE = -1
MOST_LISTS = 2_000
"""Lists that coverage rests on, those of the same events for every recommender."""


def judge(baselines: Mapping[str, Baseline], histories: Histories, judged: Judged) -> None:
    """Fill `judged.ranks` and `judged.coverage`. histories: those of the training part; they go on with the stream."""
    log, mask, cut = judged.log, judged.mask, judged.cut
    places = {row: place for place, row in enumerate(judged.rows.tolist())}
    looked_at = set(some(len(places)).tolist())
    ranks = {name: np.zeros(len(places), np.int64) for name in baselines}
    shown = {name: np.zeros(len(log.items), bool) for name in baselines}
    events = zip(log.user[cut:].tolist(), log.item[cut:].tolist(), strict=True)
    for row, (user, item) in enumerate(events, cut):
        history = histories.of(user)
        masked = history if mask else []
        if (place := places.get(row)) is not None:
            for name, baseline in baselines.items():
                scores = baseline.scores(user, history)
                ranks[name][place] = rank_of(scores, item, masked)
                if place in looked_at:
                    shown[name][top(scores, masked)] = True
        new = histories.add(user, item)
        for baseline in baselines.values():
            baseline.absorb(user, item, history, new)
    judged.ranks |= ranks
    judged.coverage |= {name: float(each.sum()) / judged.items for name, each in shown.items()}


def some(n: int) -> Rows:
    """Places of the lists that coverage is measured on, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_LISTS)).astype(np.int64))


def rank_of(scores: Scores, item: int, masked: list[int]) -> int:
    """1-based place of `item` by scores (N,), without what is masked; ties go to the lower row.

    0 where nothing speaks for it (score 0 or less) or it is masked itself.
    """
    own = scores[item]
    if own <= 0 or item in masked:
        return 0
    rank = 1 + int(np.count_nonzero(scores > own)) + int(np.count_nonzero(scores[:item] == own))
    if masked:
        theirs, rows = scores[masked], np.array(masked)
        rank -= int(np.count_nonzero((theirs > own) | ((theirs == own) & (rows < item))))
    return rank


def top(scores: Scores, masked: list[int]) -> Rows:
    """Rows of the ten best, in no order."""
    if masked:
        scores = scores.copy()
        scores[masked] = 0
    k = min(K, len(scores))
    best = np.argpartition(-scores, k - 1)[:k]
    return best[scores[best] > 0].astype(np.int64)


def ranks_in(lists: NDArray[np.int32], item: Rows) -> Ranks:
    """(n,) 1-based place of each item in its list (n, k), 0 where it is not there."""
    hit = lists == item[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0).astype(np.int64)
