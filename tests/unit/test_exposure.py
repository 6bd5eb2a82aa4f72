"""What everybody takes anyway gives way to what fewer take, as far as is wanted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.exposure import discounted
from streamer.errors import SettingsError
from streamer.settings import Settings


def place(value: float, among: list[float]) -> float:
    low, high = min(among), max(among)
    return (value - low) / (high - low) if high > low else 0.0


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_it_is_relevance_less_exposure(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.standard_normal((3, 8)).astype(np.float32), axis=1)
    rows = np.stack([rng.permutation(20)[:8] for _ in range(3)])
    rows[1, 5:], scores[1, 5:] = -1, -np.inf
    rows[2], scores[2] = -1, -np.inf
    exposure = rng.integers(0, 50, (3, 8)).astype(np.float32)
    values, order = discounted(scores, rows, exposure, strength)
    assert (np.sort(order, axis=1) == np.arange(8)).all()
    for user, there in ((0, 8), (1, 5)):
        logs = [math.log1p(each) for each in exposure[user, :there].tolist()]
        of_user = scores[user, :there].tolist()
        expected = [
            (1 - strength) * place(score, of_user) - strength * place(shown, logs)
            for score, shown in zip(of_user, logs, strict=True)
        ]
        assert values[user, :there].tolist() == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
        assert [expected[at] for at in order[user, :there].tolist()] == pytest.approx(
            values[user, :there].tolist(), abs=1e-5
        )
        assert (rows[user, order[user, there:]] == -1).all()
    assert (order[2] == np.arange(8)).all()


def test_no_strength_keeps_the_order_and_full_strength_forgets_relevance() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0]], np.float32)
    rows, exposure = np.arange(4)[None], np.array([[9.0, 4.0, 1.0, 0.0]], np.float32)
    assert discounted(scores, rows, exposure, 0.0)[1].tolist() == [[0, 1, 2, 3]]
    assert discounted(scores, rows, exposure, 1.0)[1].tolist() == [[3, 2, 1, 0]]


def test_the_setting_is_a_share() -> None:
    assert Settings().exposure_discount == 0
    assert Settings.load({"HEADWATER_EXPOSURE_DISCOUNT": "0.3"}).exposure_discount == 0.3
    with pytest.raises(SettingsError, match="HEADWATER_EXPOSURE_DISCOUNT"):
        Settings.load({"HEADWATER_EXPOSURE_DISCOUNT": "1.5"})
