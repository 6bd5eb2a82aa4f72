"""The streamed state of 200 real users (reviews with their texts) equals an offline recomputation over the same log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.stream import Deployment

USERS = 200


def reviews(folder: Path) -> list[dict[str, object]]:
    """Events of the 200 most active reviewers, in time order."""
    with (folder / "amazon-musical-instruments" / "Musical_Instruments.json").open() as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["reviewerID"]] = counts.get(row["reviewerID"], 0) + 1
    chosen = set(sorted(counts, key=lambda user: (-counts[user], user))[:USERS])
    return [
        {
            "event_id": f"{row['reviewerID']}-{row['asin']}",
            "user_id": row["reviewerID"],
            "item_id": row["asin"],
            "type": "review",
            "value": row["overall"],
            "text": row["reviewText"][:2000],
            "timestamp_ms": row["unixReviewTime"] * 1000,
        }
        for row in sorted(rows, key=lambda row: row["unixReviewTime"])
        if row["reviewerID"] in chosen
    ]


def test_streamed_equals_recomputed(data_sets: Path, deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(HEADWATER_REFRESH="event", HEADWATER_GRACE_S="86400")
    deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    events = reviews(data_sets)
    assert len({event["user_id"] for event in events}) == USERS
    deployment.send_events(events)
    deployment.wait_absorbed(len(events), 120)
    deployment.check_exact()
    assert deployment.log_end("recommendations") >= len(events)
    assert deployment.log_end("dead-letters") == 0
