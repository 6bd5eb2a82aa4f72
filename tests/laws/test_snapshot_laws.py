"""Laws of the snapshots: counting on from one gives what counting everything gives, and no mixture of two is taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.signals import Contexts, snapshot
from streamer.core.signals.blend import Blend
from streamer.core.signals.count_kernels import NOBODY
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.snapshot import Counts
from streamer.core.signals.weights import Shipped

SHIPPED = Shipped.of(Blend(HIDDEN, 0.003, 0), 50.0, rows=40)
ITEMS = 30
Batch = tuple[int, SignalRows]


def batches(seed: int, n: int, spread_ms: int) -> list[Batch]:
    """Records of three partitions, some of them with rows that came before, items whose hashes say nothing of their order."""
    rng = np.random.default_rng(seed)
    hashes = rng.permutation(np.arange(1, ITEMS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    offset, now, made = [0, 0, 0], 1_700_000_000_000, []
    for _ in range(n):
        partition, size = int(rng.integers(3)), int(rng.integers(1, 9))
        begin = max(0, offset[partition] - int(rng.integers(0, 4)) * int(rng.random() < 0.2))
        past = np.zeros((size, PAST), np.uint64)
        for row, length in enumerate(rng.integers(0, PAST + 1, size)):
            past[row, :length] = rng.choice(hashes, length)
        time_ms = now + rng.integers(-spread_ms, spread_ms + 1, size)
        now += spread_ms
        weight = rng.choice([0.5, 1.0, 3.0], size).astype(np.float32)
        made.append(
            (
                partition,
                SignalRows(
                    np.arange(begin, begin + size),
                    time_ms,
                    rng.choice(hashes, size),
                    weight,
                    rng.integers(0, PAST, size),
                    past,
                ),
            )
        )
        offset[partition] = begin + size
    return made


def absorbed(shared: SharedSignals, parts: list[Batch]) -> SharedSignals:
    for partition, rows in parts:
        shared.absorb(partition, rows)
    return shared


def begun(budget: int) -> SharedSignals:
    shared = SharedSignals(edge_budget=budget)
    shared.meet("m", SHIPPED)
    return shared


def handed_on(shared: SharedSignals, budget: int) -> SharedSignals:
    """What another worker has that begins with a snapshot, through the records and back."""
    counts = shared.state()
    assert counts is not None
    assert shared.signals is not None
    counts = snapshot.without_forgotten(counts, shared.signals.options.edge_half_life_ms)
    other = begun(budget)
    other.restore(through_records(counts))
    return other


def through_records(counts: Counts) -> Counts:
    values = list(snapshot.parts("0123456789abcdef", counts.arrays))
    checksums = [snapshot.checksum(each) for each in values]
    head = snapshot.headed("0123456789abcdef", 1, 7, {}, counts, checksums)
    records = {snapshot.part_key(1, number): value for number, value in enumerate(values)}
    found = snapshot.whole({**records, snapshot.head_key(1): head.encode()})
    assert found == ([head], [])
    return snapshot.decode(head, records)


def by_hash(shared: SharedSignals) -> dict[str, Any]:
    """Everything that is counted, by item hash; lists in their order."""
    signals, hashes = shared.signals, shared.numbers.hashes.tolist()
    assert signals is not None
    counts, edges = signals.counts, signals.edges
    taken = np.flatnonzero(counts.last_ms != np.iinfo(np.int64).min).tolist()
    led = {"leaders": counts._leaders, "newest": counts._newest}
    return {
        "applied": shared.applied,
        "clock": shared.clock_ms,
        "ready": shared.ready,
        "options": signals.options,
        "events": counts.events,
        "landmarks": (counts.landmark_ms.tolist(), edges.landmark_ms),
        "totals": (counts.total.tolist(), counts.top.tolist()),
        "order": [hashes[row] for row in taken],
        "counts": {hashes[row]: counts.by_item[row].tolist() for row in taken},
        "times": {hashes[row]: counts.times[:, row].tolist() for row in taken},
        "again": {hashes[row]: signals.again[row] for row in taken},
        "mass": {hashes[row]: edges.mass[row] for row in taken if row < len(edges.mass)},
        "root": {hashes[row]: edges.root[row] for row in taken if row < len(edges.root)},
        "edges": {
            hashes[row]: [(hashes[to], w) for to, w in zip(*map(np.ndarray.tolist, edges.of(row)), strict=True)]
            for row in range(len(hashes))
            if len(edges.of(row)[0])
        },
        "evicted": edges.evicted,
        **{
            name: [[None if row == NOBODY else hashes[row] for row in each] for each in np.atleast_2d(rows)]
            for name, rows in led.items()
        },
    }  # fmt: skip


def lists(shared: SharedSignals, seed: int) -> Any:
    """Ranked lists by item hash."""
    assert shared.signals is not None
    rng = np.random.default_rng(seed)
    known = np.sort(np.array(list(by_hash(shared)["counts"]), np.uint64))
    past = shared.numbers.rows(rng.choice(known, (6, 5)))
    clock = np.full(6, shared.clock_ms)
    ranked = shared.signals.rank(Contexts(past, np.full((6, 5), shared.clock_ms), clock, np.full(6, 5)), 8)
    hashes = np.append(shared.numbers.hashes, np.uint64(0))
    return hashes[ranked.item].tolist(), ranked.score.tolist(), hashes[ranked.because].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.data(), st.sampled_from([10, 60, 100_000]))
@settings(max_examples=40, deadline=None)
def test_counting_on_from_a_snapshot_is_counting_everything(
    seed: int, n: int, data: st.DataObject, budget: int
) -> None:
    parts = batches(seed, n, data.draw(st.sampled_from([1, 50, 100_000, 30_000_000]), "spread_ms"))
    cuts = data.draw(st.lists(st.integers(1, n), min_size=1, max_size=3).map(sorted), "cuts")
    whole, other = absorbed(begun(budget), parts[: cuts[0]]), begun(budget)
    catalogue = np.arange(5, dtype=np.uint64) + np.uint64(1 << 40)
    whole.numbers.add(catalogue)  # items that nobody takes come between
    other = handed_on(whole, budget)
    assert by_hash(other) == by_hash(whole)
    for begin, end in zip(cuts, [*cuts[1:], n], strict=True):
        absorbed(whole, parts[begin:end])
        absorbed(other, parts[max(begin - 1, 0) : end])  # the last record comes again
        assert by_hash(other) == by_hash(whole)
        other = handed_on(other, budget)
    assert by_hash(other) == by_hash(whole)
    assert lists(other, seed) == lists(whole, seed)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_what_nobody_took_for_long_is_not_handed_on(seed: int) -> None:
    """And nothing changes for the others."""
    whole = absorbed(begun(10_000), batches(seed, 20, 50))
    assert whole.signals is not None
    alone = np.array([1 << 50], np.uint64)
    first = SignalRows(
        np.arange(1), np.array([1_000]), alone, np.ones(1, np.float32), np.zeros(1, np.int64), np.zeros((1, PAST), np.uint64)
    )  # fmt: skip
    whole.absorb(7, first)
    for leaders in (whole.signals.counts._leaders, whole.signals.counts._newest):
        leaders[leaders == whole.numbers.rows(alone)[0]] = NOBODY  # as if a hundred others led
    other = handed_on(whole, 10_000)
    assert other.numbers.rows(alone).tolist() == [-1]
    mine, theirs = by_hash(whole), by_hash(other)
    assert mine["edges"] == theirs["edges"]
    assert mine["totals"] == theirs["totals"]
    left = {
        name: {key: each for key, each in mine[name].items() if key != 1 << 50} for name in ("counts", "mass")
    }
    assert left == {name: theirs[name] for name in ("counts", "mass")}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_mixture_of_two_snapshots_is_never_taken_for_one(data: st.DataObject) -> None:
    """Two writers, each of its own counts, send to one slot; of every key the record that came last is left."""
    sent: list[list[tuple[bytes, bytes]]] = []
    for writer in range(2):
        arrays: dict[str, Any] = {"items": np.arange(3 + writer), "again": np.arange(4.0)}
        values = list(snapshot.parts(f"{writer:016x}", arrays))
        counts = Counts(arrays, {}, {})
        checksums = [snapshot.checksum(each) for each in values]
        head = snapshot.headed(f"{writer:016x}", 0, writer, {}, counts, checksums)
        records = [(snapshot.part_key(0, number), value) for number, value in enumerate(values)]
        sent.append([*records, (snapshot.head_key(0), head.encode())])
    log: dict[bytes, bytes] = {}
    order = data.draw(st.permutations([0] * len(sent[0]) + [1] * len(sent[1])))
    for writer in order[: data.draw(st.integers(0, len(order)))]:
        key, value = sent[writer].pop(0)
        log[key] = value
    heads, faults = snapshot.whole(log)
    if not heads:
        assert faults or snapshot.head_key(0) not in log
        return
    found = heads[0]
    counts = snapshot.decode(found, log)
    assert counts.arrays["items"].tolist() == list(range(3 + int(found.id, 16)))
    assert counts.arrays["again"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("shape", [(0,), (1,), (70_001,), (5, 0), (3, 100), (65_537, 4)])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i4", "<u8", "|u1"])
def test_arrays_of_any_size_come_back(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    found = through_records(Counts({"a": array, "b": array[:1]}, {"x": 0.1, "y": 2**60, "z": None}, {3: 9}))
    assert (found.arrays["a"] == array).all()
    assert (found.arrays["b"] == array[:1]).all()
    assert found.arrays["a"].dtype == array.dtype
    assert found.arrays["a"].shape == shape
    assert found.numbers == {"x": 0.1, "y": 2**60, "z": None}
    assert found.applied == {3: 9}
