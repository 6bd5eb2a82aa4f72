"""What came before each event of a batch, against one event after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.signals.told import before_each

USERS, WIDTH = 3, 4
events = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(1, 9)), min_size=1, max_size=20)
pasts = st.lists(st.lists(st.integers(1, 9), max_size=WIDTH), min_size=USERS, max_size=USERS)


@given(events, pasts)
def test_it_is_what_telling_one_by_one_would_find(
    batch: list[tuple[int, int]], stored: list[list[int]]
) -> None:
    user = np.array([each for each, _ in batch])
    item = np.array([each for _, each in batch], np.uint64)
    time_ms = 1_000 + np.arange(len(batch))
    past_item, past_ms = np.zeros((USERS, WIDTH), np.uint64), np.zeros((USERS, WIDTH), np.int64)
    histories = []
    for row, mine in enumerate(stored):  # newest first
        past_item[row, : len(mine)] = mine
        past_ms[row, : len(mine)] = np.arange(100, 100 - len(mine), -1)
        histories.append([(each, 100 - at) for at, each in enumerate(mine)])
    items, times = before_each(user, item, time_ms, past_item, past_ms)
    for at, (who, what) in enumerate(batch):
        expected = histories[who][:WIDTH]
        n = len(expected)
        assert items[at, :n].tolist() == [each for each, _ in expected]
        assert times[at, :n].tolist() == [each for _, each in expected]
        assert not items[at, n:].any()
        histories[who].insert(0, (what, int(time_ms[at])))
