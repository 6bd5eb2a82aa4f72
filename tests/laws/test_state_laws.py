"""Laws of the user state: whatever the history and however it is cut into batches."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.core.columns import CATEGORIES, EventColumns, rounds
from streamer.core.event_fields import EventFields
from streamer.core.event_types import REFRESH, EventTypes
from streamer.core.events import Event
from streamer.core.hashing import item_hash
from streamer.core.interests import Decay
from streamer.core.rolling_counts import LEVELS
from streamer.core.state_records import SCHEMA, TAIL_ENTRY, applied, head_dtype, user_of_key
from streamer.core.user_state import Outcome, UserStates
from streamer.errors import UnknownSchema
from tests.laws.reference import Reference, Source

TYPES = EventTypes.DEFAULT
HIDDEN = 5
GRACE_MS = 3_600_000
START_MS = 1_700_000_000_000
ITEMS = [f"item-{number}" for number in range(60)]
KNOWN = {item_hash(item) for item in ITEMS[:50]}
"""The others are unknown items: they have neither vector nor categories."""
LABELS = {item_hash(item): [1 + n % 11, 1 + n % 7][: n % 3] for n, item in enumerate(ITEMS[:50])}
Store = dict[bytes, bytes]


@dataclass(frozen=True)
class History:
    """Events in source order, and the window's length."""

    window: int
    sources: list[Source]

    @property
    def users(self) -> list[str]:
        return sorted({source.event.user_id for source in self.sources})


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A few users with ties in time, late, repeated and far-ahead events, holes in the offsets, events without item, and
    requests for a fresh list, whatever these say of items and times.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, users = draw(st.integers(1, 260)), draw(st.integers(1, 4))
    step_ms = draw(st.sampled_from([0, 1_000, 240_000, 7_200_000]))
    names = list(TYPES.by_name)[:: draw(st.integers(1, 4))]
    requests = draw(st.sampled_from([0.0, 0.2, 0.9]))
    clock, offset, sources = START_MS, 0, []
    for number in range(n):
        clock += int(rng.integers(0, step_ms + 1))
        offset += 1 + int(rng.random() < 0.1) * 3
        odd = rng.random()
        time_ms = clock + int(rng.integers(-GRACE_MS, 1)) * int(rng.random() < 0.3)
        if odd < 0.05:
            time_ms = clock - 3 * GRACE_MS
        elif odd < 0.1:
            time_ms = clock + 86_400_000
        event_id = f"e{int(rng.integers(0, number + 1)) if rng.random() < 0.1 else number}"
        item = None if rng.random() < 0.1 else ITEMS[int(rng.integers(0, len(ITEMS)))]
        value = float(np.float32(rng.random())) if rng.random() < 0.5 else None
        event = Event(
            event_id=event_id,
            user_id=f"user-{int(rng.integers(0, users))}",
            type=REFRESH if rng.random() < requests else names[int(rng.integers(0, len(names)))],
            timestamp_ms=time_ms,
            item_id=item,
            value=value,
        )
        sources.append(Source(offset, clock, event))
    return History(draw(st.sampled_from([1, 10, 16, 33, 100])), sources)


def item_facts(items: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
    labels = np.zeros((len(items), CATEGORIES), np.uint32)
    for row, item in enumerate(items.tolist()):
        of_item = LABELS.get(item, [])
        labels[row, : len(of_item)] = of_item
    return np.array([item in KNOWN for item in items.tolist()], np.bool_), labels


def load(store: Store, users: list[str], window: int) -> UserStates:
    keys = [user.encode() for user in users]
    return UserStates.load(keys, store.get, HIDDEN, window, TYPES, grace_ms=GRACE_MS)


def absorb_batch(store: Store, batch: list[Source], window: int) -> list[str]:
    """One batch as a worker does it: load, absorb, write; the outcomes in source order.

    Every other batch is absorbed round by round, as with refresh=event.
    """
    users = list(dict.fromkeys(source.event.user_id for source in batch))
    states = load(store, users, window)
    columns = EventColumns.of(
        EventFields.of([source.event for source in batch], TYPES),
        np.array([users.index(source.event.user_id) for source in batch], np.int64),
        np.array([source.offset for source in batch], np.int64),
        np.array([source.record_time_ms for source in batch], np.int64),
        item_facts,
    )
    if batch[0].offset % 2:
        outcomes = states.absorb_all(columns)
    else:
        outcomes = np.empty(len(batch), np.uint8)
        for rows in rounds(columns.user):
            outcomes[rows] = states.absorb(columns.user[rows], columns.take(rows))
    touched = [users[row] for row in states.touched().tolist()]
    changes = states.changes().groups()
    for user, records in zip(touched, changes, strict=True):
        assert records[-1][0] == b"h" + user.encode()
        store.update(records)
    assert states.changes().groups() == []
    return [Outcome(outcome).name for outcome in outcomes.tolist()]


def absorb_all(history: History, cuts: list[int]) -> Store:
    store: Store = {}
    bounds = [0, *sorted({cut % len(history.sources) for cut in cuts}), len(history.sources)]
    for start, end in itertools.pairwise(bounds):
        if start < end:
            absorb_batch(store, history.sources[start:end], history.window)
    return store


def reference_of(history: History) -> tuple[Reference, list[str]]:
    reference = Reference(TYPES, history.window, GRACE_MS, LABELS, KNOWN)
    return reference, [reference.absorb(source) for source in history.sources]


@settings(max_examples=60, deadline=None)
@given(histories(), st.lists(st.integers(0, 10_000), max_size=12))
def test_batching_leaves_no_trace_in_the_records(history: History, cuts: list[int]) -> None:
    whole = absorb_all(history, [])
    assert absorb_all(history, cuts) == whole
    assert absorb_all(history, list(range(len(history.sources)))) == whole


@settings(max_examples=60, deadline=None)
@given(histories(), st.lists(st.integers(0, 10_000), max_size=12))
def test_requests_leave_no_trace_but_their_number_and_place(history: History, cuts: list[int]) -> None:
    """States without the requests are the same, but for revisions and the highest applied offset."""
    events = [source for source in history.sources if source.event.type != REFRESH]
    asked = absorb_all(history, cuts)
    plain = absorb_all(History(history.window, events), cuts) if events else {}
    behind = [{key: value for key, value in store.items() if key[:1] != b"h"} for store in (asked, plain)]
    assert behind[0] == behind[1]
    with_, without = (load(store, history.users, history.window) for store in (asked, plain))
    for name in set(with_.heads.dtype.names or ()) - {"applied", "revision"}:
        np.testing.assert_array_equal(with_.heads[name], without.heads[name], name)
    for row, user in enumerate(history.users):
        theirs = [source for source in history.sources if source.event.user_id == user]
        requests = sum(source.event.type == REFRESH for source in theirs)
        assert int(with_.heads["applied"][row]) == theirs[-1].offset
        assert (int(with_.heads["revision"][row]), int(without.heads["revision"][row])) == (requests, 0)
    everyone = np.arange(len(with_))
    np.testing.assert_array_equal(with_.activity(everyone), without.activity(everyone))


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(1, 10_000), st.lists(st.integers(0, 10_000), max_size=3))
def test_replaying_a_prefix_changes_nothing(history: History, length: int, cuts: list[int]) -> None:
    store = absorb_all(history, cuts)
    before = dict(store)
    prefix = history.sources[: length % len(history.sources) + 1]
    for _ in range(2):
        assert set(absorb_batch(store, prefix, history.window)) == {"REPLAYED"}
        assert store == before


@settings(max_examples=60, deadline=None)
@given(histories(), st.lists(st.integers(0, 10_000), max_size=5))
def test_a_replay_that_runs_into_new_events_equals_reading_once(history: History, cuts: list[int]) -> None:
    store: Store = {}
    for cut in sorted(cut % len(history.sources) + 1 for cut in cuts):
        absorb_batch(store, history.sources[:cut], history.window)
    absorb_batch(store, history.sources, history.window)
    assert store == absorb_all(history, [])


@settings(max_examples=100, deadline=None)
@given(histories())
def test_states_equal_the_plain_model(history: History) -> None:
    store: Store = {}
    reference, expected = reference_of(history)
    half = len(history.sources) // 2
    outcomes = absorb_batch(store, history.sources[:half], history.window) if half else []
    outcomes += absorb_batch(store, history.sources[half:], history.window)
    assert outcomes == expected

    states = load(store, history.users, history.window)
    for row, name in enumerate(history.users):
        user, head = reference.users[name], states.heads[row]
        counted = [
            int(head[field])
            for field in ("applied", "version", "revision", "late", "duplicates", "usable", "watermark")
        ]
        assert counted == [
            user.applied_offset, len(user.history), user.requests, user.late, user.duplicates, user.usable,
            user.watermark_ms,
        ]  # fmt: skip
        assert int(head["last_time"]) == (user.history[-1].time_ms if user.history else -1)


@settings(max_examples=100, deadline=None)
@given(histories())
def test_windows_hold_the_last_applied_events(history: History) -> None:
    store = absorb_all(history, [len(history.sources) // 3])
    reference, _ = reference_of(history)
    states = load(store, history.users, history.window)
    everyone = np.arange(len(states))
    entries, lengths = states.window_entries(everyone)
    recent = states.recent(everyone, 8)[0]
    for row, name in enumerate(history.users):
        expected = reference.users[name].window(history.window)
        found = entries[row, : lengths[row]]
        assert found.tolist() == [(e.item, e.time_ms, e.code, e.value, e.event) for e in expected]
        assert not entries[row, lengths[row] :].tobytes().strip(b"\0")
        newest_first = [e.item for e in reversed(expected)][:8]
        assert recent[row].tolist() == newest_first + [0] * (recent.shape[1] - len(newest_first))


@settings(max_examples=100, deadline=None)
@given(histories())
def test_rolling_counts_equal_a_recount(history: History) -> None:
    store = absorb_all(history, [len(history.sources) // 2])
    reference, _ = reference_of(history)
    states = load(store, history.users, history.window)
    counts = states.activity(np.arange(len(states)))
    for row, name in enumerate(history.users):
        found = {
            level: {each.name: int(n) for each in TYPES if (n := counts[row, at, each.code])}
            for at, level in enumerate(LEVELS)
        }
        assert found == reference.users[name].activity(TYPES)
        # Nothing else is stored: what fell out of the windows is gone.
        tail = store[b"h" + name.encode()][head_dtype(HIDDEN).itemsize :]
        stored = int(np.frombuffer(tail, TAIL_ENTRY)["n"].sum())
        assert stored == sum(sum(window.values()) for window in found.values())


@settings(max_examples=60, deadline=None)
@given(histories())
def test_everything_consumed_is_seen_beyond_the_window_too(history: History) -> None:
    store = absorb_all(history, [len(history.sources) // 2])
    reference, _ = reference_of(history)
    states = load(store, history.users, history.window)
    positions, hashes = states.seen(np.arange(len(states)))
    for row, name in enumerate(history.users):
        assert set(hashes[positions == row].tolist()) == reference.users[name].consumed(TYPES)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_interests_are_the_decayed_sums(history: History) -> None:
    store = absorb_all(history, [len(history.sources) // 2])
    reference, _ = reference_of(history)
    states = load(store, history.users, history.window)
    labels, short, long = states.interests(np.arange(len(states)))
    decay = Decay()
    for row, name in enumerate(history.users):
        user = reference.users[name]
        assert set(labels[row][labels[row] != 0].tolist()) == {
            label for e in user.history for label in e.labels
        }
        for slot, label in enumerate(labels[row].tolist()):
            if label:
                assert short[row, slot] == pytest.approx(
                    user.interest(label, decay.short_ms, TYPES), rel=1e-4, abs=1e-30
                )
                assert long[row, slot] == pytest.approx(user.interest(label, decay.long_ms, TYPES), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_records_survive_a_round_trip(history: History) -> None:
    store = absorb_all(history, [])
    states = load(store, history.users, history.window)
    states.touch(np.arange(len(states)))
    written = dict(record for records in states.changes().groups() for record in records)
    assert written == {key: value for key, value in store.items() if key[:1] == b"h"}
    newest = {name: reference.applied_offset for name, reference in reference_of(history)[0].users.items()}
    for key, value in store.items():
        user = user_of_key(key).decode()
        assert 0 < applied(value) <= newest[user]


@settings(max_examples=30, deadline=None)
@given(histories(), st.integers(0, 255).filter(lambda schema: schema != SCHEMA), st.data())
def test_records_of_another_schema_are_refused(history: History, schema: int, data: st.DataObject) -> None:
    store = absorb_all(history, [])
    key = data.draw(st.sampled_from(sorted(store)))
    store[key] = bytes([schema]) + store[key][1:]
    with pytest.raises(UnknownSchema) as caught:
        load(store, history.users, history.window)
    assert caught.value.found == schema
    with pytest.raises(UnknownSchema):
        applied(store[key])
