"""The collaborative signals: what is counted, who is ranked, what is learned, when a single signal takes over."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.signals import SINGLES, Contexts, Extra, Histories, SignalOptions, Signals
from streamer.core.signals.blend import Blend
from streamer.core.signals.exploration import drawn, explored
from streamer.core.signals.features import CONTEXT, FEATURES, SIGNAL_OF, Signal
from streamer.core.signals.item_counts import ItemCounts
from streamer.core.signals.safeguard import Safeguard

NONE = -1
MINUTE = 60_000


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def stream(
    signals: Signals, histories: Histories, events: list[tuple[int, int, int]], batch: int = 7
) -> None:
    """Absorb (user, item, minute) events."""
    for first in range(0, len(events), batch):
        user, item, minute = (rows(*each) for each in zip(*events[first : first + batch], strict=True))
        past = histories.before(user, minute * MINUTE, item)
        signals.absorb(past, item, np.ones(len(item)), minute * MINUTE)
        histories.add(user, item, minute * MINUTE)


def options(**changes: object) -> SignalOptions:
    fields: dict[str, object] = {
        "half_lives_ms": (10.0 * MINUTE, 300.0 * MINUTE, 10_000.0 * MINUTE),
        "edge_half_life_ms": 1e12,
        "tick_ms": float(MINUTE),
        "repeats": False,
    }
    return SignalOptions(**{**fields, **changes})  # type: ignore[arg-type]


def pairs_of_items(n: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Every user takes an even item and then the odd one above it: 2i → 2i + 1."""
    first = np.random.default_rng(seed).integers(0, 20, n) * 2
    return [
        event
        for user, item in enumerate(first.tolist())
        for event in ((user, item, 2 * user), (user, item + 1, 2 * user + 1))
    ]


def test_context_holds_what_came_before_also_in_the_same_batch() -> None:
    histories = Histories(remembered=3)
    histories.add(rows(0, 1, 0), rows(5, 6, 7), rows(1, 2, 3))
    past = histories.before(rows(0, 1, 0), rows(4, 5, 6), rows(8, 9, 10))
    assert past.item.tolist() == [[7, 5, NONE], [6, NONE, NONE], [8, 7, 5]]
    assert past.length.tolist() == [2, 1, 3]
    histories.add(rows(0, 1, 0), rows(8, 9, 10), rows(4, 5, 6))
    assert histories.of(rows(0, 2), rows(9, 9)).item.tolist() == [[10, 8, 7], [NONE, NONE, NONE]]


def test_session_ends_at_the_first_long_pause() -> None:
    past = Contexts(rows(3, 2, 1, NONE)[None], rows(100, 90, 10, 0)[None], rows(105), rows(3))
    assert past.session(gap_ms=20).tolist() == [2]
    assert past.session(gap_ms=4).tolist() == [0]
    assert past.session(gap_ms=80).tolist() == [3]


def test_popularity_halves_in_event_time() -> None:
    counts = ItemCounts([100.0, np.inf])
    counts.add(rows(0), np.ones(1), rows(0))
    counts.add(rows(1), np.ones(1), rows(100))
    assert counts.shares().tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3)], [0.5, 0.5]]
    assert (counts.first_ms.tolist(), counts.last_ms.tolist()) == ([0, 100], [0, 100])


def test_an_item_is_recommended_to_who_took_its_partner_and_the_list_says_so() -> None:
    signals, histories = Signals(options()), Histories(100)
    stream(signals, histories, pairs_of_items(400))
    past = Contexts(
        np.pad(rows(4)[:, None], ((0, 0), (0, 99)), constant_values=NONE),
        np.full((1, 100), 800 * MINUTE),
        rows(800 * MINUTE),
        rows(1),
    )
    ranked = signals.rank(past, 5, excluded=np.array([[0, 4]]))
    assert ranked.item[0, 0] == 5
    assert ranked.because[0, 0] == 4
    assert Signal(ranked.signal[0, 0]) in (Signal.NEXT, Signal.SOON, Signal.TOGETHER, Signal.SESSION)
    assert 4 not in ranked.item
    assert (np.diff(ranked.score[0]) <= 0).all()


def test_who_has_no_history_gets_what_is_popular() -> None:
    signals, histories = Signals(options()), Histories(100)
    stream(signals, histories, [(user, 3 if user % 2 else user % 11, user) for user in range(200)])
    ranked = signals.rank(histories.of(rows(999), rows(200 * MINUTE)), 3)
    assert ranked.item[0, 0] == 3
    assert (ranked.because == NONE).all()


def test_lists_are_shorter_where_nothing_is_left() -> None:
    signals, histories = Signals(options()), Histories(100)
    stream(signals, histories, [(0, 0, 0), (1, 1, 1)])
    ranked = signals.rank(histories.of(rows(0), rows(MINUTE)), 4, excluded=np.array([[0, 0]]))
    assert ranked.item.tolist() == [[1, NONE, NONE, NONE]]
    assert np.isneginf(ranked.score[0, 1:]).all()


def test_repeats_are_candidates_only_where_they_may_be() -> None:
    for repeats in (True, False):
        signals, histories = Signals(options(repeats=repeats, shared=0)), Histories(100)
        stream(signals, histories, [(0, 1, 0), (1, 2, 1), (2, 3, 2)])
        found = signals.rank(histories.of(rows(0), rows(3 * MINUTE)), 3).item
        assert (1 in found) is repeats


def test_the_blend_learns_which_signal_to_trust() -> None:
    events = pairs_of_items(900)
    signals, histories = Signals(options(steps_per_event=0.5)), Histories(100)
    stream(signals, histories, events[:600])
    losses = []
    for first in range(600, len(events), 60):
        user, item, minute = (rows(*each) for each in zip(*events[first : first + 60], strict=True))
        past = histories.before(user, minute * MINUTE, item)
        second = past.length == 1
        judged = signals.judge(past.take(np.flatnonzero(second)), item[second])
        losses.append(judged.loss)
        signals.absorb(past, item, np.ones(len(item)), minute * MINUTE)
        histories.add(user, item, minute * MINUTE)
    assert losses[-1] < 0.5 * losses[1]  # too few events for a step in the first
    assert (judged.blend == 1).mean() > 0.9
    assert signals.blend.version > 100


def test_gradients_are_those_of_the_loss() -> None:
    rng = np.random.default_rng(3)
    blend = Blend(4, 0.01, 1)
    blend.weights["outer"] = rng.standard_normal(4).astype(np.float32)
    x, context = rng.random((3, FEATURES, 5)).astype(np.float32), rng.random((3, CONTEXT)).astype(np.float32)
    there, target = np.ones((3, 5), bool), rows(0, 4, 2)

    def loss() -> float:
        score = blend._forward(blend.weights, x, context)[0].astype(np.float64)
        return float((np.log(np.exp(score).sum(axis=1)) - score[np.arange(3), target]).mean())

    score, hidden = blend._forward(blend.weights, x, context)
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(3), target] -= 1
    gradients = blend._gradients(x, context, p / 3, hidden)
    for name, gradient in gradients.items():
        at = tuple(int(rng.integers(0, size)) for size in gradient.shape)
        before = loss()
        blend.weights[name][at] += 1e-2
        assert (loss() - before) / 1e-2 == pytest.approx(float(gradient[at]), abs=2e-2), name
        blend.weights[name][at] -= 1e-2
    assert blend.learn(x, context, there, target) == pytest.approx(loss_before := loss(), rel=0.2)
    assert loss_before > 0


def test_a_model_that_is_right_is_followed() -> None:
    """The GRU's slot: its candidates are taken in, its score is learned to count."""
    rng = np.random.default_rng(0)
    signals, histories = Signals(options(steps_per_event=1.0)), Histories(100)
    stream(
        signals, histories, [(int(u), int(i), n) for n, (u, i) in enumerate(rng.integers(0, 300, (600, 2)))]
    )
    past = histories.of(rng.integers(0, 300, 200), np.full(200, 600 * MINUTE))
    wanted = rng.integers(300, 400, 200)
    extra = {
        "gru": Extra(wanted[:, None], lambda at, items: (items == wanted[at][:, None]).astype(np.float32) * 5)
    }
    for _ in range(3):
        signals.learn(past, wanted, None, extra)
    ranked = signals.rank(past, 3, None, extra)
    assert (ranked.item[:, 0] == wanted).mean() > 0.95
    assert (ranked.signal[:, 0] == Signal.GRU).mean() > 0.9


def test_safeguard_lets_a_better_single_signal_serve_and_takes_it_back() -> None:
    rng = np.random.default_rng(0)
    guard = Safeguard(singles=2, window=300)
    bad = np.where(rng.random(300) < 0.05, 1, 0)
    good = np.where(rng.random((300, 2)) < np.array([0.4, 0.2]), 1, 0)
    guard.judge(bad, good)
    assert (guard.serving, guard.falls) == (0, 1)
    guard.judge(bad, good)
    assert guard.falls == 1
    guard.judge(good[:, 0], good)
    assert guard.serving is None


def test_safeguard_waits_for_its_whole_window() -> None:
    guard = Safeguard(singles=1, window=300)
    guard.judge(np.zeros(299, np.int64), np.ones((299, 1), np.int64))
    assert guard.serving is None
    guard.judge(np.zeros(1, np.int64), np.ones((1, 1), np.int64))
    assert guard.serving == 0


def test_serving_signal_orders_the_list_alone() -> None:
    signals, histories = Signals(options()), Histories(100)
    stream(signals, histories, pairs_of_items(300))
    signals.safeguard.serving = SINGLES.index(Signal.POPULAR_EVER)
    ranked = signals.rank(histories.of(rows(0, 1), rows(900 * MINUTE, 900 * MINUTE)), 10)
    shown = signals.counts.count[-1][ranked.item]
    assert (np.diff(shown, axis=1) <= 0).all()


def test_exploration_draws_its_share_and_the_same_again() -> None:
    numbers = np.arange(20_000, dtype=np.uint64)
    share = drawn(numbers, 0.05)
    assert 0.045 < share.mean() < 0.055
    assert (drawn(numbers, 0.05) == share).all()
    suits = np.array([[0.1, 0.9, -np.inf]], np.float32).repeat(len(numbers), axis=0)
    found = explored(numbers, 0.05, rows(7, 8, 9), suits)
    assert (found[share] == 8).all()
    assert (found[~share] == NONE).all()
    assert set(explored(numbers, 0.05, rows(7, 8, 9))) == {NONE, 7, 8, 9}
    assert (explored(numbers, 1.0, rows()) == NONE).all()


def test_options_need_a_log() -> None:
    with pytest.raises(ValueError, match="no event"):
        SignalOptions.for_log(rows(), repeats=True)
    assert SignalOptions.for_log(rows(5), repeats=True).tick_ms == 1.0


def test_every_feature_belongs_to_a_signal() -> None:
    assert set(SIGNAL_OF) == set(Signal)
