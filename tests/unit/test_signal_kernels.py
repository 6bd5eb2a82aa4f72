"""Kernels of the signals against plain formulations of the same, and that nothing is compiled after the warm-up."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.signals import (
    Contexts,
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
    snapshot,
    warm_up,
)
from streamer.core.signals.blend import Blend, units
from streamer.core.signals.blend_kernels import judged, listed
from streamer.core.signals.context_kernels import products
from streamer.core.signals.feature_kernels import NOTHING, _exponentials, _logarithms
from streamer.core.signals.features import CONTEXT, FEATURES, SIGNAL_OF, features
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
    signals = used(0)
    arrays = {name: each for name, each in signals.state().items() if isinstance(each, np.ndarray)}
    values = list(snapshot.parts("00" * 8, arrays))
    numbers = {name: each for name, each in signals.state().items() if name not in arrays}
    head = snapshot.headed("00" * 8, 0, 0, {}, snapshot.Counts(arrays, numbers, {}), [])
    kept = snapshot.decode(head, {snapshot.part_key(0, at): value for at, value in enumerate(values)})
    restored = Signals.from_state(signals.options, {**kept.arrays, **kept.numbers})
    past = rows_of(restored, 1)
    restored.rank(past, 5)
    restored.absorb(past, np.arange(len(past)), np.ones(len(past)), past.now_ms)
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


def rows_of(signals: Signals, seed: int, users: int = 9, items: int = 300) -> Contexts:
    rng = np.random.default_rng(seed)
    item = np.where(rng.random((users, 30)) < 0.9, rng.integers(0, items, (users, 30)), -1)
    item[0] = -1
    time_ms = 470 - np.sort(rng.integers(0, 400, (users, 30)))
    return Contexts(item, time_ms, np.full(users, 480), rng.integers(0, 99, users))


def said_of(signals: Signals, past: Contexts, user: int) -> dict[int, dict[int, np.ndarray]]:
    """item → whose list says it → what it says in the four kinds."""
    o, edges, found = signals.options, signals.edges, {}  # type: ignore[var-annotated]
    one, session = edges.ones(past.now_ms)[user], past.session(o.session_gap_ms)[user]
    for lag, source in enumerate(past.item[user, : o.recent].tolist()):
        if source < 0 or source in past.item[user, :lag]:
            continue
        mass = edges.mass[source]
        share = 1 / (mass + 1.0 * one)
        for item, weight in list(zip(*edges.of(source), strict=True))[: o.lists[min(lag, 1)]]:
            cosine = 1 / (np.sqrt(mass * edges.mass[item]) + 10.0 * one)
            factor = [
                share * (lag == 0),
                share * 0.6**lag * (lag < 5),
                0.9**lag * cosine,
                cosine * (lag < session),
            ]
            found.setdefault(int(item), {})[source] = weight * np.array(factor)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_pool_holds_who_is_liked_most_and_what_was_said_of_it(seed: int) -> None:
    signals = used(seed)
    past, o, counts = rows_of(signals, seed), signals.options, signals.counts
    rng, pooling = np.random.default_rng(seed), signals._pooling
    session = past.session(o.session_gap_ms)
    barred, wanted = rng.random(len(counts)) < 0.1, rng.integers(-1, 300, (9, 4))
    excluded, bounds = rng.integers(0, 300, 90), np.arange(0, 91, 10)
    pool = pooling.gather(past, session, signals.edges, counts, barred, (excluded, bounds), wanted)
    popular = (counts.count / counts.top[:, None]).mean(axis=0)
    for user in range(9):
        said = said_of(signals, past, user)
        taken = [item for item in past.item[user].tolist() if item >= 0]
        score = {item: sum(each.values()) for item, each in said.items()}
        highest = np.maximum(np.array([*score.values(), np.zeros(4)]).max(axis=0), 1e-20)
        further = {item for item in wanted[user].tolist() if item >= 0}
        everyone = {*score, *taken, *further, *counts.leading().tolist()}
        liking = {}
        for item in everyone - set(excluded[10 * user : 10 * user + 10].tolist()):
            if not barred[item]:
                liking[item] = (
                    popular[item] + (score.get(item, np.zeros(4)) / highest).sum() + (item in further)
                )
                if item in taken:
                    liking[item] += 0.5 + 1 / (1 + past.item[user].tolist().index(item))
        filled = pool.filled[user]
        found = pool.item[user, :filled].tolist()
        assert filled == min(o.pool, len(liking)) == len(set(found))
        assert (pool.item[user, filled:] == -1).all()
        edge = sorted(liking.values(), reverse=True)[filled - 1]
        assert all(liking[item] >= edge - 1e-5 for item in found)
        assert pool.highest[user] == pytest.approx(highest, rel=1e-4)
        for place, item in enumerate(found):
            assert pool.neighbour[user, :, place] == pytest.approx(score.get(item, np.zeros(4)), rel=1e-4)
            assert pool.taken[user, place] == taken.count(item)
        best = np.array(found[:5])
        because = pooling.supporters(past, session, signals.edges, np.tile(best, (9, 1)))[user]
        for item, source in zip(best.tolist(), because.tolist(), strict=True):
            support = {each: value.sum() for each, value in said.get(item, {}).items() if value.sum() > 0}
            assert (source == -1) if not support else support[source] == pytest.approx(max(support.values()))


def test_exponentials_are_those_of_numpy_and_nothing_is_nothing() -> None:
    values = -np.append(np.linspace(0, 40, 20_001), [0.0, 1e9, np.inf]).astype(np.float32)
    exact, found = np.exp(values.astype(np.float64)), values.copy()
    _exponentials(found, np.empty(len(found), np.int32))
    there = exact > 1.001 * NOTHING
    np.testing.assert_allclose(found[there], exact[there], rtol=5e-6)
    assert not found[exact < 0.999 * NOTHING].any()


def test_features_are_what_their_names_say() -> None:
    signals = used(5)
    past, o, counts = rows_of(signals, 5), signals.options, signals.counts
    session, none = past.session(o.session_gap_ms), np.zeros((9, 0), np.int64)
    barred, nobody = np.zeros(len(counts), np.bool_), (none[0], np.zeros(10, np.int64))
    pool = signals._pooling.gather(past, session, signals.edges, counts, barred, nobody, none)
    scores = np.random.default_rng(0).standard_normal(pool.item.shape).astype(np.float32) * 3
    x = np.empty((9, FEATURES, pool.item.shape[1]), np.float32)
    context = features(past, session, pool, counts, signals.again, o, scores, None, x)
    share, top = counts.shares(), counts.shares().max(axis=1)

    def bounded(value: float) -> float:
        return float(np.log1p(value * 1000) / np.log1p(1000))

    def ticks(since: float) -> float:
        return float(np.log1p(since / o.tick_ms) / 12)

    for user in range(9):
        mine = scores[user, : pool.filled[user]].astype(np.float64)
        assert not x[user, :, pool.filled[user] :].any()
        for place in range(pool.filled[user]):
            item, events = pool.item[user, place], counts.count[3, pool.item[user, place]]
            row = [each for h in range(4) for each in (bounded(share[h, item] * 10), share[h, item] / top[h])]
            row.append(np.log1p(events) / 12)
            for kind in range(4):
                said = pool.neighbour[user, kind, place]
                row += [bounded(said), said / max(pool.highest[user, kind], 1e-20)]
            lag = past.item[user].tolist().index(item) if item in past.item[user] else None
            if lag is None:
                row += [0.0] * 5
            else:
                since, often = ticks(480 - past.time_ms[user, lag]), np.log1p(pool.taken[user, place]) / 5
                row += [1.0, 1 / (1 + lag), since, often, (signals.again[item] + 0.1) / (events + 1)]
            seen = events > 0
            row += [
                ticks(480 - counts.first_ms[item]) if seen else 1.0,
                ticks(480 - counts.last_ms[item]) if seen else 1.0,
                bounded(share[1, item] * 10) - bounded(share[2, item] * 10),
            ]
            standard = np.clip((mine[place] - mine.mean()) / (mine.std() + 1e-6), -4, 4) / 4
            row += [standard, np.exp(mine[place] - mine.max()), 0.0, 0.0]
            assert x[user, :, place] == pytest.approx(row, rel=1e-4, abs=1e-5)
        recent = [item for item in past.item[user, : o.recent].tolist() if item >= 0]
        first = past.item[user, 0] >= 0
        assert context[user] == pytest.approx(
            [
                np.log1p(past.length[user]) / 6,
                np.log1p(session[user]) / 4,
                ticks(480 - past.time_ms[user, 0]) if first else 0,
                np.log1p(counts.count[3, past.item[user, 0]]) / 12 if first else 0,
                np.mean([bounded(share[3, item] * 10) for item in recent]) if recent else 0,
                float(pool.taken[user, : pool.filled[user]].any()),
            ],
            rel=1e-4,
            abs=1e-5,
        )


def test_lists_hold_the_best_and_what_carried_them() -> None:
    rng = np.random.default_rng(1)
    blend = Blend(5, 0.01, 0)
    blend.weights["outer"] = rng.standard_normal(5).astype(np.float32)
    x, context = rng.random((4, FEATURES, 30)).astype(np.float32), rng.random((4, CONTEXT)).astype(np.float32)
    x[:, :, 1] = x[:, :, 0]
    item = np.stack([rng.permutation(99)[:30] for _ in range(4)])
    filled, w, of_signal = np.array([30, 12, 3, 0]), blend.weights, np.array(SIGNAL_OF, np.int64)
    found, score = np.full((4, 6), -1), np.full((4, 6), -np.inf, np.float32)
    signal = np.zeros((4, 6), np.uint8)
    alone = blend_kernels.NONE
    weights = linear, inner, *_ = blend.ordered(w)

    def brought() -> np.ndarray:
        return units(x, linear, inner, np.empty((4, 6, 30), np.float32))

    listed(x, brought(), context, item, filled, *weights, alone, 7, of_signal, found, score, signal)
    scores, hidden = blend._forward(w, x, context)
    for user in range(4):
        m = filled[user]
        order = sorted(range(m), key=lambda at: (-score_of(scores, user, at), item[user, at]))[:6]
        assert found[user].tolist() == item[user, order].tolist() + [-1] * (6 - len(order))
        for place, at in enumerate(order):
            slope = w["linear"] + ((hidden[user, :, at] > 0) * w["outer"]) @ w["inner"]
            lift = slope * (x[user, :, at] - x[user, :, :m].mean(axis=1))
            assert score[user, place] == pytest.approx(scores[user, at], abs=1e-4)
            assert signal[user, place] == np.bincount(of_signal, lift).argmax()
    taken = item[:, 2].copy()
    target, ranks, singles = np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros((4, 2), np.int64)
    rest, columns = weights[2:], np.array([1, 3])
    judged(x, brought(), context, item, filled, taken, *rest, columns, 7, target, ranks, singles)
    assert target.tolist() == [2, 2, 2, -1]
    for user in range(3):
        m = filled[user]
        assert ranks[user] == 1 + (scores[user, :m] > scores[user, 2]).sum()
        alone_3 = x[user, 3, :m] + 1e-4 * x[user, 7, :m]
        assert singles[user, 1] == 1 + (alone_3 > alone_3[2]).sum()
    assert (ranks[3], singles[3].tolist()) == (0, [0, 0])


def score_of(scores: np.ndarray, user: int, at: int) -> float:
    """Twins (places 0 and 1) are alike, whatever rounding says."""
    return float(scores[user, 0 if at == 1 else at])
