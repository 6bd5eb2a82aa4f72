from __future__ import annotations

import numpy as np
import pytest

from streamer.core.interests import Decay, add, decayed
from streamer.core.runs import Runs
from streamer.core.state_records import INTEREST, INTEREST_SLOTS

DECAY = Decay(short_ms=1_000, long_ms=10_000)
Interests = dict[int, tuple[float, float]]


def after(events: list[tuple[int, list[int], float]], now: int) -> Interests:
    """Interests of one user after (time, labels, weight) events, by label."""
    state, time = np.zeros((1, INTEREST_SLOTS), INTEREST), np.zeros(1, np.int64)
    for at, labels, weight in events:
        padded = np.array([labels + [0] * (6 - len(labels))], np.uint32)
        state, time = add(
            state,
            time,
            Runs.of(np.zeros(1, np.int64)),
            np.array([at]),
            padded,
            np.array([weight], np.float32),
            DECAY,
        )
    labels_, short, long = decayed(state, time, np.array([now]), DECAY)
    rows = zip(labels_[0].tolist(), short[0].tolist(), long[0].tolist(), strict=True)
    return {label: (s, g) for label, s, g in rows if label}


def test_a_half_life_halves() -> None:
    assert after([(0, [4], 1.0)], 1_000)[4] == pytest.approx((1 / 2, 2 ** (-1 / 10)))
    assert after([(0, [4], 1.0), (2_000, [4], 1.0)], 2_000)[4] == pytest.approx(
        (1 + 1 / 4, 1 + 2 ** (-2 / 10))
    )


def test_the_weight_is_shared_among_the_categories() -> None:
    assert after([(0, [4, 5, 6], 0.6)], 0) == {n: pytest.approx((0.2, 0.2)) for n in (4, 5, 6)}


def test_an_older_event_counts_as_decayed_as_it_would_have() -> None:
    events = [(0, [4], 1.0), (3_000, [4, 5], 0.5)]
    forwards, backwards = after(events, 3_000), after(events[::-1], 3_000)
    assert backwards[4] == pytest.approx(forwards[4])
    assert backwards[5] == pytest.approx(forwards[5])


def test_the_weakest_long_memory_makes_room() -> None:
    full = [(0, [n], 1.0 if n != 7 else 0.25) for n in range(1, INTEREST_SLOTS + 1)]
    found = after([*full, (0, [99], 0.5)], 0)
    assert set(found) == set(range(1, INTEREST_SLOTS + 1)) - {7} | {99}
    # It starts anew: nothing of label 7 is left in it.
    assert found[99] == pytest.approx((0.5, 0.5))
    # Of equals the first slot goes.
    assert set(after([(0, [n], 1.0) for n in range(1, 14)], 0)) == set(range(2, 14))
