"""No record is longer than the room that is made for it: kernels do not look where a buffer ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from streamer.core import json_texts, profile, ranking
from streamer.core.event_types import EventTypes
from streamer.core.profile import CategoryTexts, LabelTexts, profiles
from streamer.core.protocol import Profile, Recommendations
from streamer.core.ranking import ItemTexts, recommendations
from streamer.core.stamp import Stamp
from streamer.core.state_records import fresh_head

ID = "\x01" * 256
"""Six bytes a character, once it is escaped."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the room of records, and has it that each fits."""
    rooms: list[int] = []

    def written(n: int, longest: int, write: Callable[..., None]) -> list[bytes]:
        texts = json_texts.written(n, 2 * longest, write)
        assert all(len(text) <= longest for text in texts)
        rooms.append(longest)
        return texts

    monkeypatch.setattr(ranking, "written", written)
    monkeypatch.setattr(profile, "written", written)
    return rooms


def stamp() -> Stamp:
    heads = fresh_head(2, 7)
    for name in ("version", "revision", "watermark", "applied"):
        heads[name] = np.iinfo(heads.dtype[name]).max
    most = np.array([2**62])
    return Stamp.of(heads, [ID.encode()], ID, [ID], np.array([0]), most)


def test_lists(watched: list[int]) -> None:
    rows = np.arange(10)[None]
    scores, everyone = np.full((1, 10), -3e38, np.float32), np.ones(1, np.bool_)
    for signals, weights in ((None, None), (np.full((1, 10), 3), ID)):
        items = ItemTexts([ID[:-1] + chr(2 + i) for i in range(10)])
        (value,) = recommendations(scores, rows, rows, everyone, stamp(), items, signals, weights)
        assert len(msgspec.json.decode(value, type=Recommendations).items) == 10
    assert len(watched) == 2


class Everything:
    """Of every event type, window and category as much as there can be."""

    def activity(self, users: np.ndarray) -> np.ndarray:
        return np.full((1, 3, 32), 2**62)

    def interests(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights = np.ones((1, 12), np.float32)
        return np.arange(1, 13, dtype=np.uint32)[None], weights, weights


def test_profiles(watched: list[int]) -> None:
    labels = [ID[:-1] + chr(2 + i) for i in range(12)]
    tasks = {ID + str(i): (LabelTexts(labels), np.full((1, 12), 0.1234, np.float32)) for i in range(3)}
    categories = CategoryTexts(dict(enumerate(labels, 1)))
    states: Any = Everything()
    for some in (tasks, {}):
        (value,) = profiles(
            states, np.array([0]), stamp(), tasks=some, categories=categories, types=EventTypes.DEFAULT
        )
        assert len(msgspec.json.decode(value, type=Profile).interests) == 2 + len(some)
    assert len(watched) == 2
