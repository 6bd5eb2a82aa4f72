from __future__ import annotations

import msgspec
import numpy as np

from streamer.core.columns import EventColumns
from streamer.core.event_types import EventTypes
from streamer.core.profile import CategoryTexts, LabelTexts, profiles
from streamer.core.protocol import Label, Profile, Source
from streamer.core.stamp import Stamp
from streamer.core.user_state import UserStates

TYPES = EventTypes.DEFAULT
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
NAMES = {1: "Comedy", 2: "Drama", 3: "War"}


def states_of(events: list[tuple[int, str, list[int]]]) -> UserStates:
    """A first user with (time, type, labels) events, and a second without any."""
    states = UserStates.load([b"u", b"v"], dict[bytes, bytes]().get, 2, 100, TYPES)
    for number, (time, kind, labels) in enumerate(events):
        columns = EventColumns(
            user=np.array([0]),
            offset=np.array([number]),
            time=np.array([time]),
            type=np.array([TYPES.by_name[kind].code], np.uint8),
            value=np.zeros(1, np.float32),
            item=np.array([number], np.uint64),
            person=np.zeros(1, np.bool_),
            event=np.array([number + 1], np.uint32),
            known=np.array([True]),
            labels=np.array([labels + [0] * (6 - len(labels))], np.uint32),
        )
        states.absorb(np.array([0]), columns)
    return states


def stamp_of(states: UserStates, users: list[bytes], partitions: list[int]) -> Stamp:
    topic = np.zeros(len(users), np.int64)
    return Stamp.of(states.heads[: len(users)], users, "m1", ["events"], topic, np.array(partitions))


def decoded(values: list[bytes]) -> list[Profile]:
    return [msgspec.json.decode(value, type=Profile) for value in values]


def test_profile_of_a_user_and_of_one_without_history() -> None:
    # Half-lives: one day (short), thirty (long). A purchase weighs 1.0, a view 0.3.
    states = states_of([(NOW_MS - DAY_MS, "purchase", [1]), (NOW_MS, "view", [2]), (NOW_MS, "view", [])])
    states.heads["revision"][0] = 1
    softmax = np.array([[0.1, 0.6, 0.3], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    first, second = decoded(
        profiles(
            states,
            np.array([0, 1]),
            stamp_of(states, [b"u", b"v"], [3, 4]),
            tasks={"event_type": (LabelTexts(["view", "click", "cart"]), softmax)},
            categories=CategoryTexts(NAMES),
            types=TYPES,
        )
    )
    assert first == Profile(
        user_id="u",
        version=3,
        revision=1,
        as_of_ms=NOW_MS,
        model_version="m1",
        interests={
            "short_term": [Label("Comedy", round(0.5 / 0.8, 4)), Label("Drama", round(0.3 / 0.8, 4))],
            "long_term": [Label("Comedy", 0.7651), Label("Drama", 0.2349)],  # 2^(-1/30) / (2^(-1/30) + 0.3)
            "event_type": [Label("click", 0.6), Label("cart", 0.3), Label("view", 0.1)],
        },
        activity={"1h": {"view": 2}, "24h": {"view": 2}, "7d": {"view": 2, "purchase": 1}},
        source=Source("events", 3, 2),
    )
    assert (second.user_id, second.version, second.as_of_ms) == ("v", 0, -1)
    assert second.source == Source("events", 4, -1)
    assert second.activity == {"1h": {}, "24h": {}, "7d": {}}
    assert second.interests["short_term"] == []
    assert [label.label for label in second.interests["event_type"]] == ["view", "click", "cart"]


def test_five_named_categories_at_most() -> None:
    states = states_of([(NOW_MS, "purchase", [label]) for label in range(1, 9)])
    (found,) = decoded(
        profiles(
            states,
            np.array([0]),
            stamp_of(states, [b"u"], [0]),
            tasks={},
            categories=CategoryTexts({label: f"c{label}" for label in range(2, 9)}),
            types=TYPES,
        )
    )
    # Label 1 has lost its name; the others share equally, ties in the order in which they came.
    assert found.interests["short_term"] == [Label(f"c{label}", round(1 / 7, 4)) for label in range(2, 7)]
