from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.core.popularity import Popularity
from streamer.core.protocol import Recommendation, Recommendations, Source
from streamer.core.ranking import ItemTexts, because, exclusions, popular, rank, recommendations
from streamer.core.stamp import Stamp
from streamer.core.state_records import fresh_head

INF = float("inf")


def test_unknown_items_exclude_nothing() -> None:
    def rows_of(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.array([{50: 0, 60: 1, 70: 2}.get(each, -1) for each in hashes.tolist()], np.int64)

    pairs = exclusions(np.array([0, 0, 1]), np.array([70, 55, 50], np.uint64), rows_of)
    assert pairs.tolist() == [[0, 2], [1, 0]]
    assert exclusions(np.zeros(0, np.int64), np.zeros(0, np.uint64), rows_of).shape == (0, 2)


def test_ties_rank_by_row_and_minus_infinity_is_dropped() -> None:
    scores = np.array([[1, 3, 3, -INF], [-INF, -INF, 0, -INF]], np.float32)
    found, rows, lengths = rank(scores, np.array([[5, 9, 2, 1], [1, 2, 3, 4]]))
    assert found.tolist() == [[3, 3, 1, -INF], [0, -INF, -INF, -INF]]
    assert rows.tolist() == [[2, 9, 5, -1], [3, -1, -1, -1]]
    assert lengths.tolist() == [3, 1]


def test_because_is_the_past_item_with_the_highest_dot_product() -> None:
    vectors = np.array([[1, 0], [0, 1], [2, 0], [1, 1]], np.float32)
    recent = np.array([[1, 0, -1], [0, 2, 1], [-1, -1, -1], [3, -1, -1]])
    recommended = np.array([[3, 2], [0, -1], [0, 1], [3, 1]])
    # First user: items 1 and 0 support item 3 equally (1 = 1), the newer one wins; 0 supports 2 (2 > 0).
    # Second: 2 supports 0 (2), and 0 not itself. Third: nothing known. Fourth: 3 is no reason for itself.
    assert because(recent, recommended, vectors).tolist() == [[1, 0], [2, -1], [-1, -1], [-1, 3]]
    assert because(recent[:, :0], recommended, vectors).tolist() == [[-1, -1]] * 4


def test_because_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (30, 4)).astype(np.float32)
    recent, recommended = rng.integers(-1, 30, (150, 9)), rng.integers(0, 30, (150, 5))
    found = because(recent, recommended, vectors)
    for user in range(150):
        for place, row in enumerate(recommended[user]):
            past = [each for each in recent[user] if each >= 0 and each != row]
            expected = max(past, key=lambda each: float(vectors[each] @ vectors[row]), default=-1)
            assert found[user, place] == expected


def test_popular_items_are_topped_up_after_exclusions() -> None:
    popularity = np.array([1, 5, 3, 5, 9], np.float32)
    recommendable = np.array([True, True, True, True, False])
    scores, rows = popular(popularity, recommendable, 3, np.array([[1, 1], [1, 3], [2, 4]]), 3)
    assert rows.tolist() == [[1, 3, 2], [2, 0, -1], [1, 3, 2]]
    assert scores.tolist() == [[5, 5, 3], [3, 1, -INF], [5, 5, 3]]
    none = popular(popularity, np.zeros(5, np.bool_), 1, np.zeros((0, 2), np.int64), 2)
    assert none[1].tolist() == [[-1, -1]]


def test_popularity_halves_and_forgets_the_least() -> None:
    counts = Popularity(half_life_ms=1_000, capacity=4)
    counts.add(np.array([7, 7, 0, 9], np.uint64), np.array([1, 1, 5, 1], np.float32), 0)
    counts.add(np.array([9], np.uint64), np.array([1], np.float32), 1_000)
    asked = np.array([9, 7, 8, 0], np.uint64)
    assert counts.scores(asked, 1_000).tolist() == [1.5, 1.0, 0, 0]
    assert counts.scores(asked, 2_000).tolist() == [0.75, 0.5, 0, 0]
    counts.add(np.array([1, 2, 3], np.uint64), np.array([0.1, 0.2, 0.3], np.float32), 2_000)
    assert len(counts) == 3
    assert counts.scores(np.array([9, 7, 3, 2], np.uint64), 2_000) == pytest.approx([0.75, 0.5, 0.3, 0])


def test_popularity_survives_any_span_of_time() -> None:
    counts = Popularity(half_life_ms=1_000)
    one, item = np.ones(1, np.float32), np.array([5], np.uint64)
    assert counts.scores(item, 0).tolist() == [0]
    for now in (0, 10**6, 10**12, 10**15):
        counts.add(item, one, now)
        assert counts.scores(item, now).tolist() == [1.0]
    # Back from a time that never was: that count is gone, not worth 2^1,000,000.
    counts.add(np.array([6], np.uint64), one, 10**12)
    assert counts.scores(np.array([5, 6], np.uint64), 10**12).tolist() == [0.0, 1.0]


def test_asking_for_popularity_with_an_old_clock_changes_nothing() -> None:
    counts = Popularity(half_life_ms=1_000)
    item = np.array([5], np.uint64)
    counts.add(item, np.ones(1, np.float32), 10**12)
    for clock in (-1, 0, 10**12 - 10**9, 10**12):
        assert counts.scores(item, clock).tolist() == [1.0]
    assert counts.scores(item, 10**12 + 10**9).tolist() == [0.0]
    assert counts.scores(item, 10**12).tolist() == [1.0]


def test_recommendations_name_items() -> None:
    heads = np.concatenate([fresh_head(2, 7), fresh_head(2, 7)])
    heads["version"], heads["revision"], heads["watermark"], heads["applied"] = (
        [3, 12345],
        [0, 1],
        10**12,
        [7, 8],
    )
    values = recommendations(
        np.array([[0.5, -0.25], [1 / 3, -INF]], np.float32),
        np.array([[1, 0], [2, -1]]),
        np.array([[2, -1], [0, -1]]),
        np.array([True, False]),
        Stamp.of(
            heads, [b"u", 'ü"'.encode()], "m1", ["other", "events"], np.array([1, 1]), np.array([0, 63])
        ),
        ItemTexts(["a", "b", 'c"']),
    )
    assert [msgspec.json.decode(value, type=Recommendations) for value in values] == [
        Recommendations(
            "u",
            3,
            0,
            10**12,
            "m1",
            "model",
            [Recommendation("b", 0.5, 'c"'), Recommendation("a", -0.25)],
            Source("events", 0, 7),
        ),
        Recommendations(
            'ü"',
            12345,
            1,
            10**12,
            "m1",
            "popularity",
            [Recommendation('c"', 0.333333, "a")],
            Source("events", 63, 8),
        ),
    ]
