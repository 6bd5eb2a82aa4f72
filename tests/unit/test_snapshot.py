"""Snapshots of the counts: which one a reader takes, and what it says of the others."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streamer.core.signals import SignalOptions, Signals, snapshot
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.snapshot import PART_BYTES, Counts, Head
from streamer.core.signals.weights import Shipped

ARRAYS: dict[str, Any] = {"a": np.arange(200_000), "b": np.ones((3, 2), np.float32)}


def written(id_: str, slot: int, as_of_ms: int) -> dict[bytes, bytes]:
    values = list(snapshot.parts(id_, ARRAYS))
    checksums = [snapshot.checksum(each) for each in values]
    head = snapshot.headed(id_, slot, as_of_ms, {0: 5}, Counts(ARRAYS, {"n": 1}, {2: 9}), checksums)
    records = {snapshot.part_key(slot, number): value for number, value in enumerate(values)}
    return records | {snapshot.head_key(slot): head.encode()}


OLD, NEW = written("aa" * 8, 0, 1_000), written("bb" * 8, 1, 2_000)


def found(records: dict[bytes, bytes]) -> tuple[str | None, str]:
    heads, faults = snapshot.whole(records)
    return heads[0].id if heads else None, "; ".join(faults)


def test_the_youngest_is_taken_whatever_came_last() -> None:
    assert found(OLD | NEW) == ("bb" * 8, "")
    assert found(NEW | OLD) == ("bb" * 8, "")
    assert found({}) == (None, "")


def test_a_part_is_never_larger_than_a_record_may_be() -> None:
    noise = {"a": np.random.default_rng(0).integers(0, 2**63, 300_000)}
    assert max(map(len, snapshot.parts("cc" * 8, noise))) < PART_BYTES + 1_000


def test_a_missing_part_is_said_and_the_other_slot_is_taken() -> None:
    records = OLD | NEW
    del records[b"1/2"]
    taken, said = found(records)
    assert taken == "aa" * 8
    assert "slot 1 is not whole: part 2 of 5 is missing" in said


def test_a_part_of_another_snapshot_is_said() -> None:
    records = NEW | {b"1/1": written("cc" * 8, 1, 3_000)[b"1/1"]}
    taken, said = found(records)
    assert taken is None
    assert f"part 1 of 5 is of the snapshot {'cc' * 8}" in said


def test_a_part_of_the_same_id_with_other_bytes_is_said() -> None:
    taken, said = found(NEW | {b"1/3": NEW[b"1/3"] + b"\0"})
    assert taken is None
    assert "part 3 of 5 has another checksum" in said


@pytest.mark.parametrize("head", [b"", b"{}", b"\xff", msgspec.json.encode({"schema": 2})])
def test_a_head_that_cannot_be_read_is_said_and_the_other_slot_is_taken(head: bytes) -> None:
    taken, said = found(OLD | NEW | {b"1/head": head})
    assert taken == "aa" * 8
    assert "slot 1 cannot be read" in said


def test_a_head_that_names_too_few_parts_is_said() -> None:
    head = msgspec.json.decode(NEW[b"1/head"], type=Head)
    short = msgspec.structs.replace(head, checksums=head.checksums[:-1])
    assert "its arrays make 5 parts, the head names 4" in found({**NEW, b"1/head": short.encode()})[1]


def test_keys_of_parts_are_told_from_others() -> None:
    assert snapshot.place(snapshot.part_key(1, 17)) == (1, 17)
    assert [snapshot.place(key) for key in (b"1/head", b"7/1", b"1", b"", b"\xff/1")] == [None] * 5


def test_counts_of_another_shape_are_refused_and_change_nothing() -> None:
    signals = Signals(SignalOptions.of_tick(1.0, repeats=True))
    signals.counts.add(np.arange(3), np.ones(3), np.arange(3))
    state = signals.state()
    arrays = {name: each for name, each in state.items() if isinstance(each, np.ndarray)}
    numbers = {name: each for name, each in state.items() if name not in arrays}
    clocks = {"tick_ms": 1.0, "clock_ms": 3}
    good = Counts(arrays | {"items": np.arange(1, 4, dtype=np.uint64)}, numbers | clocks, {0: 2})
    for wrong in (
        Counts(good.arrays | {"counts/leaders": np.zeros((5, 3), np.int64)}, good.numbers, {}),
        Counts(good.arrays | {"edges/weight": np.zeros((0, 3), np.float32)}, good.numbers, {}),
        Counts({name: each for name, each in good.arrays.items() if name != "again"}, good.numbers, {}),
        Counts(good.arrays, numbers, {}),
    ):
        shared = SharedSignals()
        with pytest.raises(ValueError, match=r"counts|edges"):
            shared.restore(wrong)
        assert shared.signals is None
        assert not shared.applied
    shared.restore(good)
    assert shared.applied == {0: 2}
    assert shared.clock_ms == 3


def test_a_model_brings_its_clocks_to_restored_counts() -> None:
    shared = SharedSignals()
    shared.meet("a", Shipped.of(Blend(HIDDEN, 0.003, 0), 50.0))
    one, none = np.ones(1, np.float32), np.zeros((1, PAST), np.uint64)
    rows = SignalRows(
        np.arange(1), np.array([1_000]), np.ones(1, np.uint64), one, np.zeros(1, np.int64), none
    )
    shared.absorb(0, rows)
    counts = shared.state()
    assert counts is not None
    other = SharedSignals()
    other.restore(counts)
    assert other.signals is not None
    assert other.signals.options.tick_ms == 50.0
    other.meet("b", Shipped.of(Blend(HIDDEN, 0.003, 0), 20.0))
    assert other.signals.options.tick_ms == 20.0
    assert other.signals.counts.half_lives_ms[0] == 200.0
    assert other.signals.edges.half_life_ms == other.signals.options.edge_half_life_ms
