"""Collaborative signals over a real Kafka: every applied event counts once for all workers, whatever happens to one of them."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agents.collaborate import Collaborate
from streamer.core.signals.rows import SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.transport.log_reader import read_log
from streamer.transport.sending import Delivery
from tests.integration.exactness import recompute
from tests.integration.stream import Deployment
from tests.integration.workers import wait_until

START_MS = 1_700_000_000_000


def pairs(n: int, users: int = 120, items: int = 60) -> list[dict[str, object]]:
    """Users mostly go from an even item to the odd one above it; some events come twice, some have no item."""
    rng = np.random.default_rng(11)
    last: dict[int, int] = {}
    made: list[dict[str, object]] = []
    for at in range(n):
        user, item = int(rng.integers(users)), int(rng.integers(items))
        if last.get(user, 1) % 2 == 0 and rng.random() < 0.9:
            item = last[user] + 1
        last[user] = item
        event: dict[str, object] = {
            "event_id": f"e{at}",
            "user_id": f"u{user}",
            "type": "view",
            "timestamp_ms": START_MS + at * 1_000,
            "item_id": f"i{item}",
        }
        if rng.random() < 0.02:
            event = {**event, "type": "search", "text": "anything"}
            del event["item_id"]
        made.append(made[-1] if made and rng.random() < 0.01 else event)
    return made


def told(deployment: Deployment) -> tuple[dict[int, SignalRows], int]:
    """By partition the rows that a follower counts, and how many rows came again."""
    parts: dict[int, list[SignalRows]] = defaultdict(list)
    highest: dict[int, int] = defaultdict(lambda: -1)
    again = 0
    for record in read_log(deployment.brokers, deployment.settings.topic("signal-events")):
        assert record.value is not None
        rows = SignalRows.decode(record.value)
        fresh = np.flatnonzero(rows.offset > highest[record.partition])
        again += len(rows) - len(fresh)
        if fresh.size:
            parts[record.partition].append(rows.take(fresh))
            highest[record.partition] = int(rows.offset.max())
    return {partition: SignalRows.join(each) for partition, each in parts.items()}, again


def expected(deployment: Deployment) -> dict[int, SignalRows]:
    """The rows of an offline run of the worker's own ingest over the whole log."""
    settings = deployment.settings
    ingest = deployment.ingest()
    ingest._collaborate = Collaborate(
        SharedSignals(), settings.event_types, events_topic="signal-events", weights_topic="signal-weights"
    )
    parts: dict[int, list[SignalRows]] = defaultdict(list)
    compute = ingest.compute

    def noting(work: Any, lagging: bool = False) -> dict[int, Delivery]:
        deliveries = compute(work, lagging)
        for partition, delivery in deliveries.items():
            for _, value in delivery.first.get("signal-events", []):
                assert value is not None
                parts[partition].append(SignalRows.decode(value))
        return deliveries

    ingest.compute = noting  # type: ignore[method-assign]
    topic = settings.topic("events")
    recompute(ingest, list(read_log(deployment.brokers, topic)), topic)
    return {partition: SignalRows.join(each) for partition, each in parts.items()}


@pytest.mark.slow
def test_signals_are_exact_through_a_crash_and_lists_are_blended(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(HEADWATER_SIGNALS="on", HEADWATER_PARTITIONS="2", HEADWATER_MAX_BATCH_EVENTS="200")
    first, second = deployment.worker("first"), deployment.worker("second")
    first.start().wait_ready()
    second.start()
    deployment.wait_for_catalogue()
    second.wait_ready()
    events = pairs(6_000)
    deployment.send_events(events[:2_500])
    time.sleep(0.7)
    second.kill()  # in the middle of it, its rows told or not
    deployment.send_events(events[2_500:4_000])
    deployment.wait_absorbed(4_000)
    second.start().wait_ready()
    deployment.send_events(events[4_000:5_800], rate=600)
    deployment.wait_absorbed(5_800)
    deployment.check_exact()

    wanted = expected(deployment)
    found, _ = told(deployment)
    assert found.keys() == wanted.keys()
    for partition, rows in wanted.items():
        mine = found[partition]
        assert mine.offset.tolist() == rows.offset.tolist()
        assert (mine.item == rows.item).all()
        assert (mine.past == rows.past).all()
        assert (mine.session == rows.session).all()
        assert (mine.weight == rows.weight).all()

    names = {
        record.key.decode()
        for record in read_log(deployment.brokers, deployment.settings.topic("signal-weights"))
        if record.key is not None
    }
    assert names - {"learner"}, "the owner of partition 0 has published weights"
    deployment.send_events(events[5_800:])
    deployment.wait_absorbed(6_000)

    def blended() -> list[dict[str, Any]]:
        topic = deployment.settings.topic("recommendations")
        lists = {
            record.key: json.loads(record.value or b"") for record in read_log(deployment.brokers, topic)
        }
        return [each for each in lists.values() if each["strategy"] == "blend"]

    recent = {str(event["user_id"]) for event in events[5_800:]}
    wait_until(lambda: {each["user_id"] for each in blended()} >= recent, 30, "blended lists", 1.0)
    assert {each["weights"] for each in blended()} <= names | {
        record.key.decode()
        for record in read_log(deployment.brokers, deployment.settings.topic("signal-weights"))
        if record.key is not None
    }
