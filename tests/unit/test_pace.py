"""How far apart batches start: what they cost decides at low load, the longest pause at high load."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.core.pace import Pace
from streamer.transport.paced_fetches import PacedFetches


def paced(pace: Pace, cost_s: float, batches: int, apart_s: float) -> float:
    """The last interval after `batches` that start `apart_s` apart and cost `cost_s` each."""
    for number in range(batches + 1):
        pace.start(number * apart_s, number * cost_s)
    return pace.interval_s


def test_batches_take_half_of_the_time_at_most() -> None:
    assert paced(Pace(0.02), 0.004, 100, 0.01) == pytest.approx(0.008)
    assert paced(Pace(0.02, share=0.25), 0.004, 100, 0.01) == pytest.approx(0.016)


def test_no_pause_is_longer_than_the_longest() -> None:
    assert paced(Pace(0.02), 0.09, 100, 0.09) == pytest.approx(0.02)
    assert paced(Pace(0.0), 0.09, 100, 0.09) == 0.0


def test_one_dear_batch_is_soon_forgotten() -> None:
    pace = Pace(0.02)
    paced(pace, 0.004, 50, 0.01)
    pace.start(100.0, 60.0)
    dear = pace.interval_s
    for number in range(1, 30):
        pace.start(100.0 + number, 60.0 + 0.004 * number)
    assert dear > 0.008
    assert pace.interval_s == pytest.approx(0.008, rel=0.01)


def test_the_first_batch_waits_for_nothing_and_the_next_one_for_the_rest() -> None:
    pace = Pace(0.02)
    assert pace.wait_s(5.0) == 0.0
    paced(pace, 0.004, 100, 0.01)
    assert pace.wait_s(1.003) == pytest.approx(0.005)
    assert pace.wait_s(1.009) == 0.0


def test_fetches_are_held_back_but_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("streamer.transport.paced_fetches.time.monotonic", lambda: now)
    pace, wanted = Pace(0.02), ["fetch"]

    def actions(assignment: Any) -> Any:
        return list(wanted), {1: ["reset"]}, 0.2, False, ["future"]

    fetches = PacedFetches(actions, pace)
    pace.interval_s = 0.008
    assert fetches(None) == (["fetch"], {1: ["reset"]}, 0.2, False, ["future"])
    now = 10.003
    held, resets, timeout_s, stale, others = fetches(None)
    assert (held, resets, stale, others) == ([], {1: ["reset"]}, False, ["future"])
    assert timeout_s == pytest.approx(0.005)
    now = 10.009
    assert fetches(None)[0] == ["fetch"]
    # Where nothing was to be fetched, nothing was sent: the next one need not wait.
    wanted.clear()
    now = 10.02
    fetches(None)
    wanted.append("fetch")
    now = 10.021
    assert fetches(None)[0] == ["fetch"]
