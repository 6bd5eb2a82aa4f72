"""Headers of dead letters."""

from __future__ import annotations

from streamer.core.dead_letters import dead_letter_headers
from streamer.core.events import Reason, Rejected

REJECTED = Rejected(Reason.BAD_ID, "item_id is empty")


def test_original_headers_come_first() -> None:
    original = [("trace", b"1"), ("trace", b"2"), ("none", None)]
    assert dead_letter_headers(REJECTED, "events", 3, 41, original) == [
        ("trace", b"1"),
        ("trace", b"2"),
        ("none", b""),
        ("headwater-reason", b"bad_id"),
        ("headwater-detail", b"item_id is empty"),
        ("headwater-source-topic", b"events"),
        ("headwater-source-partition", b"3"),
        ("headwater-source-offset", b"41"),
    ]


def test_a_letter_that_is_rejected_again_ends_with_the_newest_reason() -> None:
    once = dead_letter_headers(Rejected(Reason.NOT_JSON, "x"), "events", 0, 1)
    assert dict(dead_letter_headers(REJECTED, "events", 0, 2, once))["headwater-reason"] == b"bad_id"


def test_a_detail_that_is_no_utf8_is_escaped() -> None:
    headers = dict(dead_letter_headers(Rejected(Reason.NOT_JSON, "\ud800"), "events", 0, 1))
    assert headers["headwater-detail"] == rb"\ud800"
