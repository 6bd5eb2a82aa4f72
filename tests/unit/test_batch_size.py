"""The fewer users a lagging worker's events are of, the more of them make a batch."""

from __future__ import annotations

import pytest

from streamer.core.batch_size import FEWEST, BatchSize


def after(most: int, batches: int, users_per_event: float) -> BatchSize:
    size = BatchSize(most)
    for _ in range(batches):
        events = size.limit
        size.computed(events, int(events * users_per_event))
    return size


def test_at_first_every_event_may_be_of_another_user() -> None:
    assert BatchSize(16_000).limit == 8_000


def test_users_bound_a_batch() -> None:
    assert after(16_000, 50, 1.0).limit == 8_000
    assert after(16_000, 50, 0.8).limit == pytest.approx(10_000, rel=0.01)
    assert after(16_000, 50, 0.01).limit == 16_000


def test_many_users_bound_the_next_batch_at_once() -> None:
    size = after(16_000, 50, 0.01)
    size.computed(16_000, 16_000)
    assert size.limit == 8_000


def test_a_batch_of_nothing_says_nothing() -> None:
    size = after(16_000, 50, 0.8)
    before = size.limit
    size.computed(0, 700)
    assert size.limit == before


def test_the_limit_is_neither_tiny_nor_above_what_is_set() -> None:
    refreshes_made_up_for = BatchSize(16_000)
    refreshes_made_up_for.computed(10, 100_000)
    assert refreshes_made_up_for.limit == FEWEST
    assert after(40, 5, 1.0).limit == 40
