from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.evaluation import (
    ItemKNN,
    Popularity,
    PrequentialJudge,
    hit_at_k,
    mrr_at_k,
    ndcg_at_k,
    rank_in,
    top_rows,
)

RANKS = np.array([1, 3, 0, 12])
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=40)
"""(user, item) of six items"""


def test_metrics_are_the_arithmetic_of_the_ranks() -> None:
    assert hit_at_k(RANKS, 10) == (1 + 1) / 4
    assert ndcg_at_k(RANKS, 10) == pytest.approx((1 / math.log2(2) + 1 / math.log2(4)) / 4)
    assert mrr_at_k(RANKS, 10) == pytest.approx((1 + 1 / 3) / 4)


def test_a_rank_beyond_k_is_a_miss() -> None:
    assert hit_at_k(RANKS, 2) == 1 / 4
    assert ndcg_at_k(RANKS, 12) == pytest.approx((1 + 1 / 2 + 1 / math.log2(13)) / 4)


def test_no_event_has_no_metric_and_no_place_has_no_list() -> None:
    assert math.isnan(ndcg_at_k(np.zeros(0, np.int64), 10))
    with pytest.raises(ValueError, match="k is 0"):
        hit_at_k(RANKS, 0)


def test_rank_in_counts_from_one() -> None:
    assert [rank_in(["a", "b"], item) for item in "abc"] == [1, 2, 0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([-math.inf, 0.0, 0.5, 1.0]), min_size=1, max_size=12), st.integers(1, 14))
def test_top_rows_is_a_stable_sort_without_what_is_masked(scores: list[float], k: int) -> None:
    expected = sorted((-score, row) for row, score in enumerate(scores) if score > -math.inf)
    assert top_rows(np.array(scores), k).tolist() == [row for _, row in expected][:k]


def test_popularity_learns_along_and_masks_the_history() -> None:
    popularity = Popularity(3)
    for user, item in (("u", 2), ("v", 2), ("v", 1)):
        popularity.absorb(user, item)
    assert popularity.recommend("new", 3).tolist() == [2, 1, 0]
    assert popularity.recommend("v", 3).tolist() == [0]


def knn_scores(histories: dict[Hashable, list[int]], user: int, recent: int | None) -> np.ndarray:
    """The definition: cosines of the columns of the binary user × item matrix, summed over the user's latest items."""
    users = np.zeros((len(histories), 6))
    for row, items in enumerate(histories.values()):
        users[row, items] = 1
    norms = np.maximum(np.sqrt((users**2).sum(axis=0)), 1e-9)
    cosine = (users.T @ users) / np.outer(norms, norms)
    history = histories[user]
    scores: np.ndarray = cosine[history if recent is None else history[-recent:]].sum(axis=0)
    scores[history] = -np.inf
    return scores


@settings(deadline=None)
@given(EVENTS, st.sampled_from([None, 1, 3]))
def test_item_knn_learning_along_equals_its_definition(
    events: list[tuple[int, int]], recent: int | None
) -> None:
    knn = ItemKNN(6, recent)
    histories: dict[Hashable, list[int]] = {}
    for user, item in events:
        knn.absorb(user, item)
        history = histories.setdefault(user, [])
        if item not in history:
            history.append(item)
        scores = knn_scores(histories, user, recent)
        rows = knn.recommend(user, 6)
        assert set(rows.tolist()) == set(np.flatnonzero(scores > -np.inf).tolist())
        assert scores[rows].tolist() == pytest.approx(sorted(scores[rows], reverse=True))


def test_item_knn_refuses_a_catalogue_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="50000 items"):
        ItemKNN(50_000)


def test_the_judge_asks_before_it_learns() -> None:
    judge = PrequentialJudge(["a", "b"], {"popularity": Popularity(2)})
    judge.judge("u", "b", None)  # popularity puts a before b: rank 2
    judge.judge("v", "b", ["b"])  # and now b before a
    assert judge.ranks("popularity").tolist() == [2, 1]
    assert judge.ranks("stream").tolist() == [0, 1]
    assert judge.report()["ndcg_at_10"]["stream"] == (0 + 1) / 2


def test_warming_keeps_what_was_learned_and_forgets_who() -> None:
    judge = PrequentialJudge(["a", "b", "c"])
    judge.warm([("u", "a"), ("u", "b"), ("v", "a")])
    judge.judge("u", "a", None)  # u's history is empty again, so a may be recommended
    assert judge.ranks("popularity").tolist() == [1]
    judge.judge("u", "b", None)  # n_ab = 1, learned in the warm-up
    assert judge.ranks("item_knn").tolist() == [1, 1]


def test_only_the_first_k_places_count_and_unknown_items_are_misses() -> None:
    judge = PrequentialJudge(["a", "b"], {"popularity": Popularity(2)}, k=1)
    judge.judge("u", "b", ["a", "b"])
    judge.judge("u", "elsewhere", ["elsewhere"])
    assert judge.ranks("stream").tolist() == [0, 1]
    assert judge.ranks("popularity").tolist() == [0, 0]
    assert judge.events == 2
