from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.core.columns import EventColumns, ItemFacts, rounds
from streamer.core.event_fields import EventFields
from streamer.core.event_types import REFRESH_CODE, EventTypes
from streamer.core.events import Event
from streamer.core.hashing import event_hash, item_hash
from streamer.core.runs import Runs
from streamer.core.state_records import (
    CHUNK_RING,
    ENTRY,
    SCHEMA,
    SEGMENT,
    chunk_key,
    chunks_prefix,
    head_dtype,
    head_key,
    is_head_key,
    past_prefix,
    segment_key,
    segments_prefix,
    user_of_key,
)
from streamer.core.stored import KeyRun
from streamer.core.user_state import Outcome, UserStates, applied
from streamer.errors import StateError, UnknownSchema

TYPES = EventTypes.DEFAULT
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
FIRST = segment_key(b"u", 0)


def load(store: dict[bytes, bytes], keys: list[bytes], hidden: int = 3, window: int = 100) -> UserStates:
    return UserStates.load(keys, store.get, hidden, window, TYPES, grace_ms=HOUR_MS)


def columns(
    times: list[int], offsets: list[int], ids: list[int], kind: str = "play", item: int = 7
) -> EventColumns:
    n = len(times)
    return EventColumns(
        user=np.arange(n),
        offset=np.array(offsets, np.int64),
        time=np.array(times, np.int64),
        type=np.full(n, TYPES.by_name[kind].code, np.uint8),
        value=np.zeros(n, np.float32),
        item=np.full(n, item, np.uint64),
        person=np.zeros(n, np.bool_),
        event=np.array(ids, np.uint32),
        known=np.ones(n, np.bool_),
        labels=np.zeros((n, 6), np.uint32),
    )


def stored(events: int, hidden: int = 3) -> dict[bytes, bytes]:
    """The records of user `u` after so many events, one per minute."""
    store: dict[bytes, bytes] = {}
    states = load(store, [b"u"], hidden)
    for number in range(events):
        states.absorb(np.array([0]), columns([START_MS + 60_000 * number], [number], [number + 1]))
    states.heads["gru"], states.heads["model"], states.heads["rebuilt"] = 0.5, 9, 4
    store.update(record for records in states.changes().groups() for record in records)
    return store


def test_layouts_are_those_of_the_records_already_written() -> None:
    assert (ENTRY.itemsize, SEGMENT.itemsize) == (25, 14 + 16 * 25)
    # 72 bytes before the GRU state; the interests' time and the 12 interests; the open segment
    assert head_dtype(64).itemsize == 72 + 64 * 2 + 8 + 12 * 12 + 16 * 25


def test_a_user_without_a_record_starts_afresh() -> None:
    states = load({}, [b"u", b"v"])
    assert states.heads["applied"].tolist() == states.heads["watermark"].tolist() == [-1, -1]
    assert states.touched().size == 0
    assert states.changes().groups() == []


def test_outcomes_of_one_round() -> None:
    states = load({}, [b"a", b"b", b"c", b"d"])
    everyone = np.arange(4)
    states.absorb(everyone, columns([START_MS] * 4, [10] * 4, [1, 2, 3, 4]))
    second = columns(
        [START_MS, START_MS - HOUR_MS - 1, START_MS + 5, START_MS - HOUR_MS], [10, 11, 11, 11], [5, 2, 3, 8]
    )
    outcomes = states.absorb(everyone, second)
    assert [Outcome(each) for each in outcomes.tolist()] == [
        Outcome.REPLAYED, Outcome.LATE, Outcome.DUPLICATE, Outcome.APPLIED
    ]  # fmt: skip
    assert states.heads["applied"].tolist() == [10, 11, 11, 11]
    assert states.heads["version"].tolist() == [1, 1, 1, 2]
    # A duplicate moves no clock, and an event within the grace does not turn it back.
    assert states.heads["watermark"].tolist() == [START_MS] * 4
    assert states.heads["last_time"].tolist() == [START_MS] * 3 + [START_MS - HOUR_MS]


def test_head_is_the_last_of_a_users_records() -> None:
    states = load({}, [b"u"], window=16)
    for number in range(32):
        states.absorb(np.array([0]), columns([START_MS], [number], [number + 1], item=number + 1))
    (records,) = states.changes().groups()
    # A window of 16 has one slot: the second segment pushed the first into a seen chunk.
    assert [key for key, _ in records] == [segment_key(b"u", 0), chunk_key(b"u", 0), b"hu"]
    assert [applied(value) for _, value in records] == [31, 31, 31]
    assert sorted(states.seen(np.array([0]))[1].tolist()) == list(range(1, 33))


def test_a_request_raises_the_revision_once_whatever_is_replayed() -> None:
    states = load(stored(3), [b"u", b"v", b"w"])
    before = states.heads.copy()
    asked = replace(columns([START_MS] * 2, [3, 9], [1, 2]), type=np.full(2, REFRESH_CODE, np.uint8))
    for outcome in (Outcome.REFRESH, Outcome.REPLAYED):
        assert states.absorb_all(asked).tolist() == [outcome, outcome]
        assert states.touched().tolist() == ([0, 1] if outcome == Outcome.REFRESH else [])
        assert [key for records in states.changes().groups() for key, _ in records] == (
            [b"hu", b"hv"] if outcome == Outcome.REFRESH else []
        )
    assert states.heads["version"].tolist() == [3, 0, 0]
    assert states.heads["revision"].tolist() == [1, 1, 0]
    assert states.heads["applied"].tolist() == [3, 9, -1]
    for name in set(before.dtype.names or ()) - {"applied", "revision"}:
        np.testing.assert_array_equal(states.heads[name], before[name], name)


def test_another_hidden_size_loses_the_gru_state_and_nothing_else() -> None:
    store = stored(20)
    before, after = load(store, [b"u"]), load(store, [b"u"], hidden=5)
    assert after.heads["gru"].tolist() == [[0.0] * 5]
    assert (int(after.heads["model"][0]), int(after.heads["rebuilt"][0])) == (0, 0)
    for name in set(head_dtype(3).names or ()) - {"gru", "hidden", "model", "rebuilt"}:
        assert before.heads[name].tobytes() == after.heads[name].tobytes()
    assert before.activity(np.array([0])).tolist() == after.activity(np.array([0])).tolist()


def test_without_seen_chunks_none_is_read_or_written() -> None:
    states = UserStates.load([b"u"], dict[bytes, bytes]().get, 3, 16, TYPES, with_seen=False)
    for number in range(40):
        states.absorb(np.array([0]), columns([START_MS], [number], [number + 1], item=number + 1))
    (records,) = states.changes().groups()
    assert {record[1:2] for _, record in records} == {b"s", b"h"}
    # 40 events in segments of 16: the window's, and what is open
    assert len(states.seen(np.array([0]))[1]) == 16 + 8


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda store: store.pop(FIRST), "missing"),
        (lambda store: store.update({FIRST: store[segment_key(b"u", 1)]}), "segment 1 lies where segment 0"),
        (lambda store: store.update({FIRST: store[FIRST][:-1]}), "413 bytes"),
        (lambda store: store.update({b"hu": store[b"hu"][:-1]}), "damaged"),
        (lambda store: store.update({b"hu": b""}), "is no head record"),
        (lambda store: store.update({b"hu": store[FIRST]}), "is no head record"),
    ],
)
def test_damaged_records_are_named(damage: object, says: str) -> None:
    store = stored(40)
    damage(store)  # type: ignore[operator]
    with pytest.raises(StateError, match=says):
        load(store, [b"u"])


def test_a_newer_schema_is_refused_whatever_its_length() -> None:
    store = stored(40)
    for key in (b"hu", FIRST):
        with pytest.raises(UnknownSchema, match=f"schema version {SCHEMA + 1}, this release reads {SCHEMA}"):
            load({**store, key: bytes([SCHEMA + 1]) + store[key][1:] + b"more"}, [b"u"])
    with pytest.raises(StateError, match="cut off"):
        applied(bytes([SCHEMA]) + b"h")


def test_columns_of_events() -> None:
    events = [
        Event(event_id="e1", user_id="u", type="rating", timestamp_ms=500, item_id="i", value=7.5),
        Event(event_id="e2", user_id="v", type="search", timestamp_ms=2_000, text="words"),
        Event(event_id="e3", user_id="u", type="dwell", timestamp_ms=900, item_id="j", value=1e300),
    ]
    asked: list[list[int]] = []

    def facts(items: NDArray[np.uint64]) -> ItemFacts:
        asked.append(items.tolist())
        return np.array([True, False, False]), np.zeros((3, 6), np.uint32)

    found = EventColumns.of(
        EventFields.of(events, TYPES),
        np.array([0, 1, 0]),
        np.array([5, 6, 7]),
        np.array([1_000, 1_500, -1]),
        facts,
    )
    assert asked == [[item_hash("i"), 0, item_hash("j")]]
    # The second event is ahead of its record; the third record has no time.
    assert found.time.tolist() == [500, 1_500, 900]
    assert found.type.tolist() == [7, 4, 3]
    assert found.value.tolist() == [7.5, 0.0, float(np.finfo(np.float32).max)]
    assert found.event.tolist() == [event_hash("e1"), event_hash("e2"), event_hash("e3")]
    assert found.take(np.array([2])).offset.tolist() == [7]
    assert [rows.tolist() for rows in rounds(found.user)] == [[0, 1], [2]]


def test_rounds_keep_the_order_of_each_user() -> None:
    assert rounds(np.zeros(0, np.int64)) == []
    assert [rows.tolist() for rows in rounds(np.array([2, 0, 1]))] == [[0, 1, 2]]
    assert [rows.tolist() for rows in rounds(np.array([1, 1, 0, 1, 0]))] == [[0, 2], [1, 4], [3]]


def test_blocks_hold_every_event_of_every_run_in_its_order() -> None:
    user = np.array([3, 1, 3, 3, 0, 1, 3, 5, 3])
    runs = Runs.of(user)
    found: dict[int, list[int]] = {}
    for n, at in runs.blocks():
        for position, who in enumerate(runs.users[runs.by_length()][:n].tolist()):
            found.setdefault(who, []).extend(runs.order[at[:, position]].tolist())
    assert found == {who: np.flatnonzero(user == who).tolist() for who in (0, 1, 3, 5)}
    assert [at.shape for _, at in runs.blocks()] == [(1, 4), (1, 2), (3, 1)]
    assert list(Runs.of(np.zeros(0, np.int64)).blocks()) == []


def test_keys_belong_to_one_user_whose_past_lies_side_by_side() -> None:
    users = [
        "u",
        "u\0",
        "u\x01",
        "us",
        "us\0",
        "uc",
        "\0",
        "p",
        "h",
        "ps\0",
        "é",
        "u\U0010ffff",
        "",
        "s",
        "c",
    ]
    keys: dict[bytes, bytes] = {}
    for user in [name.encode() for name in users]:
        mine = KeyRun(chunks_prefix(user), CHUNK_RING).keys + KeyRun(segments_prefix(user), 255).keys
        assert mine == sorted(mine)
        assert mine == [chunk_key(user, n) for n in range(CHUNK_RING)] + [
            segment_key(user, n) for n in range(255)
        ]
        assert all(key.startswith(past_prefix(user)) for key in mine)
        for key in [head_key(user), *mine]:
            assert keys.setdefault(key, user) == user_of_key(key) == user
    past = [user for key, user in sorted(keys.items()) if not is_head_key(key)]
    assert len([user for user, _ in itertools.groupby(past)]) == len(users)


def test_keys_name_their_user() -> None:
    store = stored(20)
    states = UserStates.load([b"h"], dict[bytes, bytes]().get, 3, 16, TYPES)
    for number in range(32):
        states.absorb(np.array([0]), columns([START_MS], [number], [number + 1], item=number + 1))
    (records,) = states.changes().groups()
    assert {user_of_key(key) for key in store} == {b"u"}
    assert [(user_of_key(key), is_head_key(key)) for key, _ in records] == [(b"h", False)] * 2 + [
        (b"h", True)
    ]
