from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.diversity import diverse, intra_list_similarity
from streamer.errors import SettingsError
from streamer.settings import Settings


def plain(scores: list[float], rows: list[int], vectors: np.ndarray, strength: float, k: int) -> list[int]:
    """The definition, one candidate after the other."""
    there = [place for place, row in enumerate(rows) if row >= 0]
    if not there:
        return list(range(k))
    low, high = min(scores[place] for place in there), max(scores[place] for place in there)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen: list[int] = []
    for _ in range(min(k, len(there))):

        def value(place: int) -> float:
            relevance = (scores[place] - low) / (high - low or 1)
            alike = [float(units[rows[place]] @ units[rows[other]]) for other in chosen]
            return (1 - strength) * relevance - (strength * max(alike) if alike else 0)

        left = [place for place in there if place not in chosen]
        chosen.append(max(left, key=lambda place: (round(value(place), 5), -place)))
    return chosen


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(1, 6))
def test_it_is_maximal_marginal_relevance(seed: int, strength: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((20, 4)).astype(np.float32)
    scores = -np.sort(-rng.standard_normal((3, 9)).astype(np.float32), axis=1)
    rows = np.stack([rng.permutation(20)[:9] for _ in range(3)])
    rows[1, 4:], scores[1, 4:] = -1, -np.inf
    rows[2], scores[2] = -1, -np.inf
    places = diverse(scores, rows, vectors, strength, k)
    assert places.shape == (3, k)
    for user in range(2):
        expected = plain(scores[user].tolist(), rows[user].tolist(), vectors, strength, k)
        assert places[user, : len(expected)].tolist() == expected
        assert len(set(places[user].tolist())) == k
        assert (rows[user, places[user, len(expected) :]] == -1).all()
    assert (rows[2, places[2]] == -1).all()


def test_no_strength_keeps_the_order_and_more_makes_lists_less_alike() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((200, 8)).astype(np.float32)
    vectors[:60] += 2  # a crowd of alike items, all on top
    scores = -np.sort(-rng.random((70, 30)).astype(np.float32), axis=1)
    rows = np.stack(
        [np.concatenate([rng.permutation(60)[:20], 60 + rng.permutation(140)[:10]]) for _ in scores]
    )
    assert (diverse(scores, rows, vectors, 0.0, 10) == np.arange(10)).all()
    alike = [
        intra_list_similarity(
            np.take_along_axis(rows, diverse(scores, rows, vectors, strength, 10), 1), vectors
        )
        for strength in (0.0, 0.3, 0.6, 1.0)
    ]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > alike[-1] + 0.3


def test_similarity_of_a_list_is_the_mean_of_its_pairs() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 3]], np.float32)
    assert intra_list_similarity(np.array([[0, 1, -1], [0, 2, 1], [0, -1, -1]]), vectors) == pytest.approx(
        (1 + 1 / 3) / 2
    )
    assert intra_list_similarity(np.array([[0, -1]]), vectors) == 0


def test_an_empty_catalogue_has_no_places() -> None:
    nothing = np.zeros((2, 0), np.float32)
    assert diverse(nothing, nothing.astype(np.int64), np.zeros((0, 4), np.float32), 0.5, 10).shape == (2, 0)


def test_the_setting_must_lie_between_0_and_1() -> None:
    assert Settings().diversity == 0
    assert Settings.load({"HEADWATER_DIVERSITY": "0.3"}).diversity == 0.3
    with pytest.raises(SettingsError, match=r"HEADWATER_DIVERSITY is '1.5': it must lie between 0 and 1"):
        Settings.load({"HEADWATER_DIVERSITY": "1.5"})
