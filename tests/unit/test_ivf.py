"""Inverted lists: what the measured recall means, who has seen nearly everything, and what an artefact's lists are for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from streamer.core.manifest import IndexSpec
from streamer.serving import ivf

F32 = npt.NDArray[np.float32]

NOBODY = np.zeros((0, 2), np.int64)


def same(state: F32) -> F32:
    return state


@pytest.fixture(scope="module")
def items() -> tuple[F32, F32]:
    """3,000 vectors in 30 clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 8), dtype=np.float32)
    vectors = centres[rng.integers(0, 30, 3000)] + 0.3 * rng.standard_normal((3000, 8), dtype=np.float32)
    return vectors, 0.2 * rng.standard_normal(3000, dtype=np.float32)


@pytest.fixture(scope="module")
def lists(items: tuple[F32, F32]) -> ivf.Lists:
    return ivf.train(*items)


def states(users: int) -> F32:
    return np.random.default_rng(7).standard_normal((users, 8), dtype=np.float32)


def test_the_number_of_lists_is_a_power_of_two_near_twice_the_root() -> None:
    assert [ivf.lists_for(n) for n in (1, 100, 50_000, 1_000_000)] == [2, 16, 512, 2048]


def test_the_measured_recall_holds_for_other_users(items: tuple[F32, F32], lists: ivf.Lists) -> None:
    spec = ivf.measured(same, states(200), *items, lists, k=10)
    assert (spec.kind, spec.nlist, spec.k) == ("ivf", len(lists.centroids), 10)
    assert spec.recall >= ivf.TARGET_RECALL
    assert spec.nprobe < spec.nlist, "or else these lists are good for nothing"
    others = -states(200)
    _, found = ivf.IvfSearch(same, *items, lists, spec.nprobe).top_k(others, NOBODY, 10)
    assert ivf.overlap(ivf.brute_force(others, *items, 10), found) > spec.recall - 0.05


def test_scores_and_rows_are_exact_where_every_list_is_probed(
    items: tuple[F32, F32], lists: ivf.Lists
) -> None:
    vectors, bias = items
    scores, rows = ivf.IvfSearch(same, vectors, bias, lists, len(lists.centroids)).top_k(
        states(20), NOBODY, 10
    )
    assert (rows == ivf.brute_force(states(20), vectors, bias, 10)).all()
    expected = np.einsum("ud,ukd->uk", states(20), vectors[rows]) + bias[rows]
    assert np.allclose(scores, expected, atol=1e-5)


def test_who_has_seen_nearly_everything_still_gets_what_is_left(
    items: tuple[F32, F32], lists: ivf.Lists
) -> None:
    vectors, bias = items
    left = np.array([5, 77, 1234, 2999])
    seen = np.setdiff1d(np.arange(3000), left)
    excluded = np.stack([np.ones_like(seen), seen], axis=1)  # user 1 of three
    scores, rows = ivf.IvfSearch(same, vectors, bias, lists, 1).top_k(states(3), excluded, 6)
    assert sorted(rows[1].tolist()) == [-1, -1, 5, 77, 1234, 2999]
    assert np.isneginf(scores[1, 4:]).all()
    assert (rows[[0, 2]] >= 0).all()


def test_what_may_no_longer_be_recommended_is_not_returned(items: tuple[F32, F32], lists: ivf.Lists) -> None:
    vectors, bias = items
    search = ivf.IvfSearch(same, vectors, bias, lists, len(lists.centroids))
    _, before = search.top_k(states(5), NOBODY, 10)
    fewer = bias.copy()
    fewer[before.ravel()] = -np.inf
    _, after = search.with_bias(fewer).top_k(states(5), NOBODY, 10)
    assert not set(after.ravel().tolist()) & set(before.ravel().tolist())
    assert (search.top_k(states(5), NOBODY, 10)[1] == before).all(), "the older one stays as it was"
    assert (after == ivf.brute_force(states(5), vectors, fewer, 10)).all()


def test_nothing_to_recommend(items: tuple[F32, F32]) -> None:
    vectors, bias = items[0][:7], np.full(7, -np.inf, np.float32)
    scores, rows = ivf.IvfSearch(same, vectors, bias, ivf.train(vectors, bias), 1).top_k(states(2), NOBODY, 3)
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


def test_overlap_counts_what_there_is() -> None:
    assert ivf.overlap(np.array([[1, 2, -1]]), np.array([[2, 9, -1]])) == 0.5
    assert ivf.overlap(np.array([[-1]]), np.array([[-1]])) == 1.0


def test_an_exact_artefact_says_so() -> None:
    assert IndexSpec() == IndexSpec(kind="exact", nlist=0, nprobe=0, k=0, recall=1.0)
