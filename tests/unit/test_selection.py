"""The k best of many scores, as a stable sort finds them, whatever ties and exclusions there are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.serving import selection

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Hypothesis times its examples."""
    selection.warm_up()


def sorted_best(product: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]:
    scores = product + bias
    scores[excluded[:, 0], excluded[:, 1]] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, rows, 1)
    return best, np.where(np.isneginf(best), -1, rows)


def selected(product: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]:
    scores, rows = np.empty((len(product), k), np.float32), np.empty((len(product), k), np.int64)
    selection.best(product.copy(), bias, excluded, scores, rows)
    return scores, rows


def pairs(rng: np.random.Generator, m: int, users: int, n: int) -> I64:
    return np.stack([np.sort(rng.integers(0, users, m)), rng.integers(0, n, m)], axis=1)


@given(
    st.integers(0, 2**32),
    st.integers(1, 700),
    st.integers(1, 120),
    st.sampled_from(["distinct", "tied", "all equal", "far apart", "mostly out"]),
    st.integers(0, 300),
)
def test_as_a_stable_sort(seed: int, n: int, k: int, kind: str, m: int) -> None:
    rng = np.random.default_rng(seed)
    product = rng.standard_normal((4, n)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    if kind == "tied":
        product, bias = np.rint(product), np.rint(bias)
    elif kind == "all equal":
        product[:], bias[:] = -0.0, 0.0
    elif kind == "far apart":
        product *= np.float32(10) ** rng.integers(-38, 37, product.shape).astype(np.float32)
    elif kind == "mostly out":
        bias[rng.random(n) < 0.98] = -np.inf
    excluded, k = pairs(rng, m, 4, n), min(k, n)
    scores, rows = selected(product, bias, excluded, k)
    expected, expected_rows = sorted_best(product, bias, excluded, k)
    assert (scores == expected).all()
    assert (rows == expected_rows).all()


@pytest.mark.parametrize(("n", "k"), [(10_000, 10), (3_000, 1_000), (300, 300)])
def test_many_items_long_lists_and_whole_catalogues(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    product, bias = np.rint(50 * rng.standard_normal((3, n))).astype(np.float32), np.zeros(n, np.float32)
    excluded = pairs(rng, 500, 3, n)
    scores, rows = selected(product, bias, excluded, k)
    expected, expected_rows = sorted_best(product, bias, excluded, k)
    assert (scores == expected).all()
    assert (rows == expected_rows).all()


def test_a_zero_is_a_zero() -> None:
    product, bias = np.array([[-0.0, 0.0, -0.0]], np.float32), np.full(3, -0.0, np.float32)
    assert selected(product, bias, np.zeros((0, 2), np.int64), 3)[1].tolist() == [[0, 1, 2]]
