"""Kernels of the signals against plain formulations of the same, and that nothing is compiled after the warm-up."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.signals import (
    Extra,
    Histories,
    SignalOptions,
    Signals,
    blend_kernels,
    context_kernels,
    count_kernels,
    edge_kernels,
    feature_kernels,
    half_kernels,
    pool_kernels,
    warm_up,
)
from streamer.core.signals.context_kernels import products
from streamer.core.signals.feature_kernels import _logarithms
from streamer.core.signals.half_kernels import narrow, widen

KERNELS = (
    blend_kernels,
    context_kernels,
    count_kernels,
    edge_kernels,
    feature_kernels,
    half_kernels,
    pool_kernels,
)


def specialisations() -> dict[str, int]:
    """Of every kernel that Python calls."""
    return {
        f"{module.__name__}.{name}": len(kernel.signatures)
        for module in KERNELS
        for name, kernel in vars(module).items()
        if hasattr(kernel, "signatures") and not name.startswith("_")
    }


def used(seed: int, users: int = 70, items: int = 300) -> Signals:
    """Every kind of call, as a worker makes it."""
    rng = np.random.default_rng(seed)
    options = SignalOptions(
        half_lives_ms=(10.0, 50.0, 100.0),
        edge_half_life_ms=100.0,
        tick_ms=1.0,
        repeats=True,
        edge_budget=500,
        neighbours=20,
        lists=(20, 8),
        pool=40,
        shared=10,
    )
    signals, histories = Signals(options), Histories(options.remembered)
    for batch in range(12):
        user, item = rng.integers(0, users, 40), rng.integers(0, items, 40)
        time = np.arange(batch * 40, batch * 40 + 40)
        past = histories.before(user, time, item)
        best = rng.integers(0, items, (len(user), 5))
        said = Extra(best, lambda at, items: np.sin(items).astype(np.float32))
        excluded = np.stack([np.arange(40), rng.integers(0, items, 40)], axis=1)
        signals.judge(past, item, excluded, {"gru": said}, barred=rng.random(items) < 0.1)
        signals.rank(past, 5, excluded, {"gru": said}, barred=rng.random(items) < 0.1)
        signals.rank(past, 5)
        signals.absorb(past, item, np.ones(40), time)
        histories.add(user, item, time)
    return signals


def test_nothing_is_compiled_after_the_warm_up() -> None:
    warm_up.warm_up()
    before = specialisations()
    assert set(before.values()) == {1}, before
    used(0)
    assert specialisations() == before


def test_logarithms_are_logarithms() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.exp(rng.uniform(-80, 80, 5_000)), [1.0, 0.70710677, 0.7071068, 2.0]])
    values = values.astype(np.float32)
    expected = np.log(values.astype(np.float64)) * 0.5
    _logarithms(values, np.float32(0.5), np.zeros(len(values), np.int32))
    assert values == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_halves_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(-18, 11, (3, 4, 500))) * rng.choice([-1, 0, 1], (3, 4, 500))
    values, at = sizes.astype(np.float32), np.array([4, 0, 2])
    halves = np.zeros((5, 4, 510), np.float16)
    narrow(values, at, halves.view(np.int16))
    assert (halves[at, :, :500] == values.astype(np.float16)).all()
    back = np.empty((3, 4, 510), np.float32)
    widen(halves.view(np.int16), at, back)
    assert (back == halves[at].astype(np.float32)).all()


def test_products_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    query, vectors = rng.random((4, 21)).astype(np.float32), rng.random((6, 21)).astype(np.float32)
    bias = np.array([0.5, -np.inf, 1, 0, 2, 3], np.float32)
    row, at = np.array([3, -1, 5, 0, 1]), np.array([2, 0])
    item = np.array([[0, 4, -1], [1, 2, 3]])
    out = np.full((2, 3), 9, np.float32)
    products(query, at, item, row, vectors, bias, out)
    expected = [
        [query[2] @ vectors[3], query[2] @ vectors[1], 0],
        [0, query[0] @ vectors[5] + 3, query[0] @ vectors[0] + 0.5],
    ]
    assert out == pytest.approx(np.array(expected), rel=1e-5)
