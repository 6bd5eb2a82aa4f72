"""What the champion recommends to users without a history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core import ranking
from streamer.core.event_types import EventTypes
from streamer.core.popularity import Popularity
from streamer.serving.catalogue import CatalogueSnapshot
from streamer.serving.champion import Champion
from streamer.serving.model import Model


def champion(counts: list[int], recommendable: list[bool]) -> Champion:
    """Of a catalogue in which row r was seen counts[r] times."""
    n = len(counts)
    hashes = np.arange(1, n + 1, dtype=np.uint64)
    bias = np.where(recommendable, np.float32(0), np.float32(-np.inf))
    catalogue = SimpleNamespace(hashes=hashes, bias=bias, rows=lambda sought: sought.astype(np.int64) - 1)
    model = SimpleNamespace(item_hashes=hashes[:0], popularity=np.zeros(0, np.float32))
    popularity = SimpleNamespace(scores=lambda _, at: np.array(counts, np.float32))
    return Champion(
        cast(Model, model),
        cast(CatalogueSnapshot, catalogue),
        cast(Popularity, popularity),
        cast(EventTypes, ()),
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 29)), max_size=30, unique=True),
    st.integers(1, 6),
)
def test_the_most_popular_are_those_of_the_whole_catalogue(
    items: list[tuple[int, bool]], seen: list[tuple[int, int]], k: int
) -> None:
    counts, recommendable = (list(each) for each in zip(*items, strict=True))
    pairs = [(user, row % len(items)) for user, row in seen]
    excluded = np.array(sorted(set(pairs)), np.int64).reshape(-1, 2)
    found = champion(counts, recommendable).popular(3, excluded, k, np.array([0]))
    expected = ranking.popular(np.array(counts, np.float32), np.array(recommendable), 3, excluded, k)
    assert found[1].tolist() == expected[1].tolist()
    assert found[0].tolist() == expected[0].tolist()
