"""Refreshes that are put off while a worker lags."""

from __future__ import annotations

from streamer.core.put_off import PutOff


def test_nothing_is_put_off_without_a_limit() -> None:
    assert not PutOff(0.0, 10).may(5.0)


def test_what_waits_is_due_after_the_limit_or_when_many_wait() -> None:
    waiting = PutOff(2.0, 3)
    assert waiting.may(10.0)
    waiting.add(0, [b"u"], 10.0)
    waiting.add(1, [b"v"], 11.0)
    assert waiting.due_at_s() == 12.0
    assert waiting.may(11.9)
    assert waiting.due(12.0)
    assert not waiting.may(12.0)
    waiting.add(1, [b"v", b"w"], 11.0)
    assert len(waiting) == 3
    assert waiting.due(11.0)


def test_users_refreshed_meanwhile_need_no_other_refresh_but_their_partition_is_done() -> None:
    waiting = PutOff(2.0, 100)
    waiting.add(0, [b"u", b"v"], 10.0)
    waiting.add(3, [b"w"], 10.0)
    waiting.add(5, [], 10.0)
    assert waiting.take([(0, [b"v", b"x"]), (3, [b"w"]), (4, [b"y"])]) == {0: [b"u"], 3: [], 5: []}
    assert waiting.take() == {}
    assert waiting.due_at_s() is None
