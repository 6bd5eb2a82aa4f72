from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.rolling_counts import BUCKET_MS, BUCKETS, RollingCounts

MINUTE_MS = 60_000
ME = np.array([0])


def count(times: list[int], types: list[int], watermark: int) -> NDArray[np.int64]:
    counts = RollingCounts([b""], np.array([watermark]))
    for time, code in zip(times, types, strict=True):
        counts.add(ME, np.array([time]), np.array([code], np.uint8))
    found: NDArray[np.int64] = counts.activity(ME)[0]
    return found


def test_windows_are_an_hour_a_day_and_a_week() -> None:
    assert (BUCKET_MS * BUCKETS).tolist() == [60 * MINUTE_MS, 24 * 60 * MINUTE_MS, 7 * 24 * 60 * MINUTE_MS]


def test_a_window_reaches_back_to_the_edge_of_its_first_bucket() -> None:
    now = 1_700_000_000_000 // BUCKET_MS[2] * BUCKET_MS[2]
    for level in range(3):
        oldest = now // BUCKET_MS[level] * BUCKET_MS[level] - (BUCKETS[level] - 1) * BUCKET_MS[level]
        assert count([oldest], [5], now)[level, 5] == 1
        assert count([oldest - 1], [5], now)[level, 5] == 0


def test_counts_are_per_user_and_type() -> None:
    now = 1_700_000_000_000
    counts = RollingCounts([b"", b"", b""], np.full(3, now))
    counts.add(np.array([2, 0]), np.array([now, now]), np.array([31, 1], np.uint8))
    counts.add(np.array([2]), np.array([now]), np.array([31], np.uint8))
    found = counts.activity(np.array([2, 1, 0]))
    assert found[0, :, 31].tolist() == [2, 2, 2]
    assert found[2, :, 1].tolist() == [1, 1, 1]
    assert found.sum() == 9


def test_stored_counts_go_on_where_they_were_and_expire() -> None:
    now = np.array([1_700_000_000_000])
    counts = RollingCounts([b""], now)
    counts.add(ME, now.copy(), np.array([3], np.uint8))
    counts.add(ME, now - 30 * 24 * 60 * MINUTE_MS, np.array([3], np.uint8))
    (tail,) = counts.tails(ME)
    assert len(tail) == 3 * 8
    later = now + 120 * MINUTE_MS
    again = RollingCounts([tail], later)
    again.add(ME, later, np.array([3], np.uint8))
    assert again.activity(ME)[0, :, 3].tolist() == [1, 2, 2]


def test_times_beyond_24_bits_of_buckets_stay_in_their_type() -> None:
    far = 2**24 * 300_000 * 5 + 12_345
    assert count([far, far - 1], [31, 2], far)[:, [2, 31]].tolist() == [[1, 1]] * 3
