"""Laws of the numbers of items: as a dictionary that only grows."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.core.signals.history import NONE
from streamer.core.signals.shared import ItemNumbers

MOST = 2**64 - 1
hashes = (
    st.integers(0, 8)
    | st.integers(0, MOST)
    | st.integers(0, 8).map(lambda low: (low << 40) | 5)
    | st.just(MOST)
)


@settings(deadline=None)
@given(st.lists(st.lists(hashes, max_size=12), max_size=8), st.lists(hashes, max_size=4))
@example([[5, MOST, 5 | 1 << 40, 5 | 2 << 40]], [])
def test_rows_come_in_order_and_stay(batches: list[list[int]], first: list[int]) -> None:
    begun = [each for each in dict.fromkeys(first) if each]
    numbers, expected = ItemNumbers(np.array(begun, np.uint64)), {each: row for row, each in enumerate(begun)}
    for batch in batches:
        numbers.add(np.array(batch, np.uint64))
        for each in sorted(set(batch) - {0}):
            expected.setdefault(each, len(expected))
        assert numbers.hashes.tolist() == list(expected)
        asked = np.array([*batch, *expected, 0, 7, 1 << 63], np.uint64)
        assert numbers.rows(asked).tolist() == [expected.get(each, NONE) for each in asked.tolist()]
        assert numbers.rows(asked[:2].reshape(2, 1)).shape == (2, 1)
    assert len(numbers) == len(expected)
