"""The recommenders that the stream is compared with learn exactly, and are judged as their definitions say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.quality import baselines, counts
from benchmarks.quality.baselines import ItemKNN, KNNPop, Markov, Popularity, RepeatLast, counting
from benchmarks.quality.counts import SparseCounts
from benchmarks.quality.judging import rank_of, ranks_in, top
from benchmarks.quality.metrics import gains, paired_bootstrap
from benchmarks.quality.prequential import sample
from benchmarks.quality.recbole_job import rank

USERS, ITEMS, TRAINING = 12, 30, 300
RNG = np.random.default_rng(5)
USER = RNG.integers(0, USERS, 500)
ITEM = np.minimum(RNG.geometric(0.12, 500) - 1, ITEMS - 1)


def streamed() -> tuple[dict[str, baselines.Baseline], baselines.Histories]:
    """All baselines, warm with the training part and told of the rest."""
    found, histories = counting(USER[:TRAINING], ITEM[:TRAINING], USERS, ITEMS)
    for user, item in zip(USER[TRAINING:].tolist(), ITEM[TRAINING:].tolist(), strict=True):
        history = histories.of(user)
        new = histories.add(user, item)
        for baseline in found.values():
            baseline.absorb(user, item, history, new)
    return found, histories


def taken(user: int) -> list[int]:
    """Distinct items in order of their last time, from the definition."""
    return list(dict.fromkeys(ITEM[user == USER][::-1].tolist()))[::-1]


def test_histories_are_distinct_items_in_the_order_of_their_last_time() -> None:
    _, histories = streamed()
    assert [histories.of(user) for user in range(USERS)] == [taken(user) for user in range(USERS)]


@pytest.mark.parametrize("half_life", [None, 10, 300])
def test_popularity_halves_what_lies_a_half_life_back(half_life: int | None) -> None:
    popularity = Popularity(ITEMS, half_life)
    popularity.warm(ITEM[:TRAINING])
    for item in ITEM[TRAINING:].tolist():
        popularity.absorb(0, item, [], True)
    ages = np.arange(len(ITEM))[::-1]
    weights = np.ones(len(ITEM)) if half_life is None else 0.5 ** (ages / half_life)
    expected = np.bincount(ITEM, weights, ITEMS)
    np.testing.assert_allclose(popularity.share(), expected / expected.max(), rtol=1e-5)
    found = popularity.scores(0, [])
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), rtol=1e-5)


def test_decayed_popularity_survives_a_long_stream() -> None:
    popularity = Popularity(3, 10)
    for number in range(20_000):
        popularity.absorb(0, number % 2, [], True)
    assert np.isfinite(popularity.scores(0, [])).all()
    assert popularity.scores(0, []).argmax() == 1


def test_markov_counts_what_came_next() -> None:
    found, _ = streamed()
    expected = np.zeros((ITEMS, ITEMS))
    for user in range(USERS):
        for before, after in pairwise(ITEM[user == USER].tolist()):
            expected[before, after] += 1
    popular = np.bincount(ITEM, minlength=ITEMS)
    for last in range(ITEMS):
        wanted = expected[last] + 0.5 * popular / popular.max()
        np.testing.assert_allclose(found["markov"].scores(0, [3, last]), wanted, rtol=1e-5)


def test_the_knn_is_the_cosine_of_who_took_what() -> None:
    found, _ = streamed()
    took = np.zeros((USERS, ITEMS))
    took[USER, ITEM] = 1
    together = took.T @ took
    np.fill_diagonal(together, 0)
    cosine = together / (np.sqrt(np.outer(took.sum(0), took.sum(0))) + 10)
    knn = found["item_knn"]
    assert isinstance(knn, ItemKNN)
    for user in range(USERS):
        history = taken(user)
        expected = sum(0.8**age * cosine[item] for age, item in enumerate(history[::-1][:10]))
        np.testing.assert_allclose(knn.similar(history), expected, rtol=1e-4, atol=1e-6)


def test_the_knn_falls_back_on_popularity_and_its_blend_adds_it() -> None:
    found, _ = streamed()
    popular = np.bincount(ITEM, minlength=ITEMS)
    assert found["item_knn"].scores(0, []).argmax() == popular.argmax()
    knn, blend = found["item_knn"], found["knn_pop"]
    assert isinstance(knn, ItemKNN)
    assert isinstance(blend, KNNPop)
    history = taken(3)
    similar = knn.similar(history)
    wanted = similar / similar.max() + 0.3 * popular / popular.max()
    np.testing.assert_allclose(blend.scores(3, history), wanted, rtol=1e-4)


def test_long_histories_are_cut_where_pairs_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "PAIRS", 200)
    popularity = Popularity(ITEMS)
    knn = ItemKNN.warm([list(range(ITEMS)), list(range(ITEMS))], ITEMS, popularity)
    assert knn.similar([ITEMS - 1])[ITEMS - 2] > 0
    assert knn.similar([0]).max() == 0


def test_repeat_last_names_the_latest_first() -> None:
    popularity = Popularity(ITEMS)
    popularity.warm(ITEM)
    scores = RepeatLast(popularity).scores(0, [4, 9, 2])
    assert np.argsort(-scores, kind="stable")[:3].tolist() == [2, 9, 4]


def test_counts_are_the_same_before_and_after_they_are_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "COMPACT_AFTER", 20)
    found = SparseCounts.of(np.array([0, 0, 3]), np.array([1, 1, 2]), 5)
    expected = np.zeros((5, 5))
    np.add.at(expected, ([0, 0, 3], [1, 1, 2]), 1)
    rng = np.random.default_rng(0)
    for _ in range(60):
        row, others = int(rng.integers(5)), rng.permutation(5)[:2]
        found.add_both_ways(row, others)
        expected[row, others] += 1
        expected[others, row] += 1
        found.add(2, 4)
        expected[2, 4] += 1
        for each in range(5):
            scores = np.zeros(5, np.float32)
            np.add.at(scores, *found.row(each))
            np.testing.assert_allclose(scores, expected[each])


def test_markov_of_one_user_has_no_pair_across_users() -> None:
    popularity = Popularity(4)
    markov = Markov.warm(np.array([0, 1, 0]), np.array([1, 2, 3]), 4, popularity)
    assert markov.scores(0, [1]).tolist() == [0, 0, 0, 1]
    assert markov.scores(0, [2]).tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------------- ranks
def test_rank_of_is_the_place_in_the_sorted_list_without_what_is_masked() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scores = rng.integers(0, 5, 12).astype(np.float32)
        masked = rng.permutation(12)[: rng.integers(0, 6)].tolist()
        item = int(rng.integers(12))
        order = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in masked]
        expected = order.index(item) + 1 if item in order and scores[item] > 0 else 0
        assert rank_of(scores, item, masked) == expected
        assert (
            rank(scores.astype(np.float64), item)
            == np.argsort(-scores, kind="stable").tolist().index(item) + 1
        )
        wanted = {row for row in order[:10] if scores[row] > 0}
        assert len(top(scores, masked)) == len(wanted)
        assert sorted(scores[top(scores, masked)]) == sorted(scores[list(wanted)])


def test_ranks_in_lists() -> None:
    lists = np.array([[5, 2, -1], [-1, -1, -1], [1, 7, 3]], np.int32)
    assert ranks_in(lists, np.array([2, 0, 4])).tolist() == [2, 0, 0]


def test_gains_are_those_of_ndcg() -> None:
    np.testing.assert_allclose(gains(np.array([1, 3, 0, 11])), [1, 0.5, 0, 0])


def test_the_bootstrap_resamples_users() -> None:
    better = np.ones(200, np.int64)
    worse = np.where(np.arange(200) % 2, 0, 1)
    mean, low, high = paired_bootstrap(better, worse, np.arange(200) // 2)
    assert (mean, low, high) == (0.5, 0.5, 0.5)  # every user has one event of each kind
    mean, low, high = paired_bootstrap(better, worse, np.arange(200))
    assert mean == 0.5
    assert 0.4 < low < 0.5 < high < 0.6
    assert paired_bootstrap(better, better, np.arange(200)) == (0, 0, 0)


def test_a_sample_is_everything_or_blocks_over_the_whole_length() -> None:
    assert sample(5, 15, 100).tolist() == list(range(5, 15))
    rows = sample(1_000, 101_000, 20_000)
    assert len(rows) == 20_000
    assert (rows[0], rows[-1]) == (1_000, 100_999)
    assert (np.diff(rows) == 1).mean() > 0.99
