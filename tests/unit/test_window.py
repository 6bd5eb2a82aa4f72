from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.core.absorb_kernels import APPLIED, CURSOR, DUPLICATE, EVENT
from streamer.core.runs import Runs
from streamer.core.seen import SeenChunks, stored_chunks
from streamer.core.state_records import (
    CHUNK_HASHES,
    CHUNK_RING,
    ENTRY,
    applied,
    chunks_prefix,
    fresh_head,
    segment_slots,
    segments_prefix,
)
from streamer.core.stored import KeyRun
from streamer.core.window import BehaviourWindows, stored_segments
from streamer.errors import StateError

ME = np.array([0])


def push(windows: BehaviourWindows, heads: NDArray[np.void], number: int, offset: int) -> int:
    """The event of this number, at this offset: what became of it."""
    cursors, events, entries = np.zeros(1, CURSOR), np.zeros(1, EVENT), np.zeros(1, ENTRY)
    for name in CURSOR.names or ():
        cursors[name] = heads[name]
    events["event"] = entries["event"] = entries["item"] = number
    events["offset"], events["type"], entries["type"] = offset, 1, 1
    outcome = windows.absorb(Runs.of(ME), cursors, events, entries, 0)
    for name in CURSOR.names or ():
        heads[name] = cursors[name]
    return int(outcome[0])


def filled(events: int, window: int, heads: NDArray[np.void] | None = None) -> BehaviourWindows:
    """Window of one user after events 1..n; item and event id are the event's number."""
    heads = fresh_head(2, segment_slots(window)) if heads is None else heads
    windows = BehaviourWindows(heads, [b"u"], [], window)
    for number in range(1, events + 1):
        assert push(windows, heads, number, number) == APPLIED
    return windows


def stored(heads: NDArray[np.void], store: dict[bytes, bytes]) -> list[bytes | None]:
    return list(map(store.get, KeyRun(segments_prefix(b"u"), int(stored_segments(heads)[0])).keys))


def numbers(windows: BehaviourWindows) -> list[int]:
    entries, lengths = windows.entries(ME)
    return list(entries["event"][0, : lengths[0]].tolist())


@pytest.mark.parametrize("window", [5, 16, 20, 100])
@pytest.mark.parametrize("events", [0, 1, 15, 16, 17, 32, 47, 48, 200])
def test_the_last_events_are_kept_in_order(events: int, window: int) -> None:
    windows = filled(events, window)
    last = list(range(1, events + 1))[-window:]
    assert numbers(windows) == last
    assert windows.recent(ME, 4)[0][0].tolist()[: len(last)] == last[::-1][:4]


@pytest.mark.parametrize("window", [5, 16, 20, 100])
@pytest.mark.parametrize("events", [1, 15, 16, 17, 32, 48, 200])
def test_an_event_comes_twice_if_its_id_is_among_the_last_events(events: int, window: int) -> None:
    for number in range(1, events + 1):
        heads = fresh_head(2, segment_slots(window))
        windows = filled(events, window, heads=heads)
        again = push(windows, heads, number, events + 1)
        assert (again == DUPLICATE) == (number > events - window)


def test_many_segments_of_one_batch_find_room() -> None:
    assert numbers(filled(16 * 150 + 3, 40)) == list(range(16 * 150 + 3 - 39, 16 * 150 + 4))


def test_what_falls_out_is_handed_over_oldest_first() -> None:
    windows = filled(16 * 5, 32)
    assert [(user, entries["event"].tolist(), offset) for user, entries, offset in windows.fallen] == [
        (0, list(range(1, 17)), 48), (0, list(range(17, 33)), 64), (0, list(range(33, 49)), 80)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "old", "new"), [(70, 100, 32), (70, 32, 100), (150, 48, 64), (5, 100, 16)]
)
def test_a_window_of_another_length_is_fitted(events: int, old: int, new: int) -> None:
    heads = fresh_head(2, segment_slots(old))
    store: dict[bytes, bytes] = {}
    before = BehaviourWindows(heads, [b"u"], stored(heads, store), old)
    for number in range(1, events + 1):
        push(before, heads, number, number)
    store.update(before.take_changes(ME).get(0, []))
    held = numbers(before)
    fitted = BehaviourWindows(heads, [b"u"], stored(heads, store), new)
    # The ring may hold up to 15 events more than the old window.
    assert numbers(fitted)[-len(held) :] == held[-new:][-len(numbers(fitted)) :]
    moved = fitted.take_changes(ME).get(0, [])
    assert {applied(value) for _, value in moved} <= {events}
    store.update(moved)
    assert numbers(BehaviourWindows(heads, [b"u"], stored(heads, store), new)) == numbers(fitted)
    # Nothing is forgotten: it is still in the ring, or handed over.
    lost = [number for _, entries, _ in fitted.fallen for number in entries["event"].tolist()]
    assert sorted(lost + fitted.items(ME, np.ones(32, np.bool_))[1].tolist())[-len(held) :] == held


def test_a_window_must_fit_the_ring() -> None:
    with pytest.raises(StateError, match="window of 0 events"):
        segment_slots(0)
    assert [segment_slots(each) for each in (1, 16, 17, 100, 255 * 16)] == [1, 1, 2, 7, 255]


def chunks_of(counts: NDArray[np.uint16], store: dict[bytes, bytes]) -> SeenChunks:
    run = KeyRun(chunks_prefix(b"u"), int(stored_chunks(counts)[0]))
    return SeenChunks(counts, [b"u"], list(map(store.get, run.keys)))


def test_seen_items_are_kept_once_and_in_chunks() -> None:
    counts, store = np.zeros(1, np.uint16), dict[bytes, bytes]()
    chunks = chunks_of(counts, store)
    chunks.add(0, [5, 6, 5], 10)
    chunks.add(0, range(6, CHUNK_HASHES + 10), 11)
    store.update(chunks.take_changes()[0])
    assert {key: applied(value) for key, value in store.items()} == {b"pu\xffc\0": 11, b"pu\xffc\1": 11}
    assert chunks.take_changes() == {}
    again = chunks_of(counts, store)
    again.add(0, [5, 1_000], 12)
    assert again.items(ME)[1].tolist() == [*range(5, CHUNK_HASHES + 10), 1_000]
    assert [key for key, _ in again.take_changes()[0]] == [b"pu\xffc\1"]


def test_the_oldest_chunk_makes_room() -> None:
    counts, store = np.zeros(1, np.uint16), dict[bytes, bytes]()
    limit = CHUNK_HASHES * CHUNK_RING
    chunks = chunks_of(counts, store)
    chunks.add(0, range(1, limit + 2), 1)
    store.update(chunks.take_changes()[0])
    assert (len(store), int(counts[0])) == (CHUNK_RING, CHUNK_RING + 1)
    reloaded = chunks_of(counts, store)
    assert set(reloaded.items(ME)[1].tolist()) == set(range(CHUNK_HASHES + 1, limit + 2))
    # The counter has 16 bits; the place in the ring goes on as if it had more.
    counts[0] = 2**16 - 1
    full = chunks_of(counts, store)
    full.add(0, range(10**6, 10**6 + 2 * CHUNK_HASHES), 2)
    assert b"pu\xffc\x3f" in dict(full.take_changes()[0])
    assert int(counts[0]) >= CHUNK_RING
