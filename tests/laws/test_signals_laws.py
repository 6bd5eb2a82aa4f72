"""Laws of the shared counts: however a stream is cut into batches, whatever the order, and never above the budget."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.signals import Contexts, Histories, SignalOptions, Signals
from streamer.core.signals.edges import Column, Edges
from streamer.core.signals.item_counts import ItemCounts

Event = tuple[int, int, int]
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 400)), min_size=1, max_size=120
)
OPTIONS = SignalOptions(
    half_lives_ms=(5.0, 50.0, 500.0),
    edge_half_life_ms=40.0,
    tick_ms=1.0,
    repeats=True,
    recent=6,
    remembered=8,
)


def absorbed(events: list[Event], cuts: list[int], options: SignalOptions = OPTIONS) -> Signals:
    signals, histories = Signals(options), Histories(options.remembered)
    bounds = sorted({0, len(events), *(cut % len(events) for cut in cuts)})
    for first, last in itertools.pairwise(bounds):
        user, item, time = (np.array(each, np.int64) for each in zip(*events[first:last], strict=True))
        past = histories.before(user, time, item)
        signals.absorb(past, item, np.ones(len(item)), time)
        histories.add(user, item, time)
    return signals


def edges_of(signals: Signals) -> dict[int, Any]:
    state = signals.edges.state()
    source = np.repeat(np.arange(len(state["size"])), state["size"])
    landmark = state["landmark_ms"]  # scaled to a common one
    weight = state["weight"] * 2.0 ** (landmark / OPTIONS.edge_half_life_ms)
    return dict(zip(((source << 32) | state["target"]).tolist(), weight.tolist(), strict=True))


@given(
    EVENTS.map(lambda events: sorted(events, key=lambda e: e[2])), st.lists(st.integers(0, 119), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_any_cut_into_batches_gives_the_same_counts(events: list[Event], cuts: list[int]) -> None:
    whole, cut = absorbed(events, []), absorbed(events, cuts)
    assert whole.counts.shares() == pytest.approx(cut.counts.shares(), rel=1e-9, abs=1e-12)
    assert (whole.counts.first_ms == cut.counts.first_ms).all()
    assert (whole.counts.last_ms == cut.counts.last_ms).all()
    assert (whole.again == cut.again).all()
    mine, theirs = edges_of(whole), edges_of(cut)
    assert mine.keys() == theirs.keys()
    for key, each in mine.items():
        assert each == pytest.approx(theirs[key], rel=1e-4)
    past = Contexts(np.arange(12).reshape(4, 3), np.full((4, 3), 390), np.full(4, 400), np.full(4, 3))
    lists, others = whole.rank(past, 6), cut.rank(past, 6)
    assert (lists.item == others.item).all()
    assert (lists.score == others.score).all()


@given(EVENTS.map(lambda events: sorted(events, key=lambda e: e[2])))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_a_plain_recomputation(events: list[Event]) -> None:
    signals = absorbed(events, [17, 40])
    now = events[-1][2]
    histories: dict[int, list[int]] = {}
    together: dict[tuple[int, int], float] = {}
    for user, item, time in events:
        past = histories.setdefault(user, [])
        for other in past[-OPTIONS.recent :]:
            if other != item:
                for pair in ((other, item), (item, other)):
                    together[pair] = together.get(pair, 0.0) + 2.0 ** ((time - now) / 40)
        past.append(item)
    state = edges_of(signals)
    found = {
        (key >> 32, key & 0xFFFFFFFF): each[2] * 2.0 ** (-now / 40)
        for key, each in state.items()
        if each[2] > 0
    }
    assert found == pytest.approx(together, rel=1e-4)


@given(EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_forgetting_does_not_depend_on_the_order_of_arrival(events: list[Event], random: Any) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)
    mine, theirs = ItemCounts([30.0, np.inf]), ItemCounts([30.0, np.inf])
    for counts, order in ((mine, events), (theirs, shuffled)):
        for _, item, time in order:
            counts.add(np.array([item]), np.ones(1), np.array([time]))
        counts.grow(13)
    assert mine.shares() == pytest.approx(theirs.shares(), rel=1e-9, abs=1e-12)
    assert (mine.first_ms == theirs.first_ms).all()
    assert (mine.last_ms == theirs.last_ms).all()


@given(
    EVENTS.map(lambda events: sorted(events, key=lambda e: e[2])), st.floats(1.0, 500.0), st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_other_clocks_forget_from_now_on_only(events: list[Event], half_life: float, later: int) -> None:
    signals, now = absorbed(events, []), events[-1][2]
    shares, edges = signals.counts.shares(), edges_of(signals)
    other = replace(OPTIONS, half_lives_ms=(half_life,) * 3, edge_half_life_ms=half_life)
    signals.set_clocks(other, now)
    assert signals.counts.shares() == pytest.approx(shares, rel=1e-9, abs=1e-12)
    state = signals.edges.state()
    assert state["mass"] == pytest.approx(np.square(signals.edges.root[: len(state["mass"])]), rel=1e-5)
    kept = dict(zip(edges, state["weight"].tolist(), strict=True))
    for key, each in edges.items():
        assert kept[key] == pytest.approx(
            [w * 2.0 ** (-now / OPTIONS.edge_half_life_ms) for w in each], rel=1e-4
        )
    before = signals.counts.total.copy()
    item = np.array([0])
    signals.absorb(
        Contexts(item[:, None] + 1, item[:, None], item, item), item, np.ones(1), item + now + later
    )
    halves = signals.counts.total / np.exp2(
        (now + later - signals.counts.landmark_ms) / signals.counts.half_lives_ms
    )
    expected = before * np.exp2(-later / signals.counts.half_lives_ms) + 1
    assert halves == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_budget_is_never_exceeded_and_the_strongest_stay(budget: int, neighbours: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = Edges(1e12, budget, neighbours)
    for _ in range(4):
        n = int(rng.integers(1, 80))
        past, item = rng.integers(0, 6, (n, 2)), rng.integers(6, 40, n)
        edges.add(past, item, np.ones(n), np.zeros(n, np.int64))
        edges.add(np.array([[2]]), np.array([99]), np.full(1, 1e6), np.zeros(1, np.int64))
        assert len(edges) <= budget
        assert len(edges) == sum(len(edges.of(item)[0]) for item in range(100))
        assert all(len(edges.of(item)[0]) <= neighbours for item in range(100))
        assert 99 in edges.of(2)[0] or 2 in edges.of(99)[0]


@given(st.integers(2, 40), st.lists(st.integers(1, 50), max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_beginning_of_a_list_holds_its_strongest(neighbours: int, bounds: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = Edges(1e12, 10**6, neighbours, bounds)
    for _ in range(3):
        n = int(rng.integers(1, 200))
        edges.add(rng.integers(-1, 30, (n, 3)), rng.integers(0, 30, n), rng.random(n), np.full(n, 1))
        for item in range(30):
            _, weight = edges.of(item)
            strength = weight[:, Column.TOGETHER] + weight[:, Column.NEXT]
            for bound in bounds:
                if bound < neighbours:
                    assert strength[:bound].min(initial=np.inf) >= strength[bound:].max(initial=0)


@given(EVENTS.map(lambda events: sorted(events, key=lambda e: e[2])), st.integers(1, 118))
@settings(max_examples=30, deadline=None)
def test_a_restored_state_goes_on_as_if_nothing_had_happened(events: list[Event], cut: int) -> None:
    signals, histories = Signals(OPTIONS), Histories(OPTIONS.remembered)
    twin: Signals | None = None
    for number, (user, item, time) in enumerate(events):
        if number == cut % len(events):
            twin = Signals.from_state(OPTIONS, signals.state())
        one = np.array([user]), np.array([item]), np.array([time])
        past = histories.before(one[0], one[2], one[1])
        for each in (signals, *([twin] if twin else [])):
            each.absorb(past, one[1], np.ones(1), one[2])
        histories.add(*one)
    assert twin is not None
    past = histories.of(np.arange(6), np.full(6, 400))
    mine, theirs = signals.rank(past, 5), twin.rank(past, 5)
    assert mine.score == pytest.approx(theirs.score, rel=1e-5)
    assert (mine.because == theirs.because).all()
    assert (signals.counts.shares() == twin.counts.shares()).all()
