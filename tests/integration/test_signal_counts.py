"""The counts of the signals outlive every worker: over a real Kafka, with the records that they were counted from gone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from streamer.core.signals import snapshot
from streamer.core.signals.rows import SignalRows
from streamer.core.signals.snapshot import Counts, Head
from streamer.transport.log_reader import log_extent, read_log
from tests.integration.stream import Deployment
from tests.integration.test_signals import pairs, told
from tests.integration.workers import wait_until

USERS = 120


def written(deployment: Deployment) -> tuple[Head, Counts] | None:
    """The newest whole snapshot."""
    topic = deployment.settings.topic("signal-counts")
    records = {
        record.key: record.value
        for record in read_log(deployment.brokers, topic)
        if record.key is not None and record.value is not None
    }
    heads, _ = snapshot.whole(records)
    return (heads[0], snapshot.decode(heads[0], records)) if heads else None


def snapshot_of(deployment: Deployment, events: int) -> tuple[Head, Counts]:
    """The newest snapshot, once it holds so many events."""

    def found() -> tuple[Head, Counts] | None:
        newest = written(deployment)
        return newest if newest is not None and newest[0].numbers["counts/events"] == events else None

    newest = wait_until(found, 30, f"a snapshot of {events} events", 0.5)
    assert newest is not None
    return newest


def forget(deployment: Deployment, offsets: dict[int, int]) -> None:
    """Let the broker delete `signal-events` up to these offsets, as its retention does."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=deployment.brokers)
        await admin.start()
        topic = deployment.settings.topic("signal-events")
        await admin.delete_records(
            {TopicPartition(topic, p): RecordsToDelete(before_offset=at) for p, at in offsets.items()}
        )
        await admin.close()

    asyncio.run(delete())
    topic = deployment.settings.topic("signal-events")
    extent = asyncio.run(log_extent(deployment.brokers, topic))
    assert {p: first for p, (first, _) in extent.items() if p in offsets} == offsets


def by_item(counts: Counts) -> tuple[dict[int, float], dict[int, float]]:
    """Of each item that was taken, how often in all, and how often by who remembered it."""
    items = counts.arrays["items"].tolist()
    ever = zip(items, counts.arrays["counts/count"][:, -1].tolist(), strict=False)
    again = zip(items, counts.arrays["again"].tolist(), strict=False)
    return {item: each for item, each in ever if each}, {item: each for item, each in again if each}


def counted(rows: list[SignalRows]) -> tuple[dict[int, float], dict[int, float]]:
    """The same, counted anew."""
    ever, again = Counter[int](), Counter[int]()
    for each in rows:
        for item, weight, past in zip(each.item.tolist(), each.weight.tolist(), each.past, strict=True):
            ever[item] += weight
            again[item] += item in past
    return dict(ever), {item: float(n) for item, n in again.items() if n}


def test_a_worker_without_a_past_has_all_counts_and_blends_at_once(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(
        HEADWATER_SIGNALS="on",
        HEADWATER_PARTITIONS="2",
        HEADWATER_MAX_BATCH_EVENTS="200",
        HEADWATER_SIGNAL_SNAPSHOT_S="1",
    )
    first, second = deployment.worker("first"), deployment.worker("second")
    first.start().wait_ready()
    deployment.wait_for_catalogue()
    events = pairs(4_500, USERS)
    deployment.send_events(events[:1_500])
    deployment.send_events(events[1_500:4_000], rate=800)
    deployment.wait_absorbed(4_000)
    before, _ = told(deployment)
    rows = sum(map(len, before.values()))
    weights = deployment.settings.topic("signal-weights")
    assert [r for r in read_log(deployment.brokers, weights) if r.key != b"learner"], "weights were published"
    head, counts = snapshot_of(deployment, rows)
    assert by_item(counts) == counted(list(before.values()))
    assert head.applied == {partition: int(each.offset.max()) for partition, each in before.items()}
    assert first.stop() == 0

    forget(deployment, head.reached)
    lists = deployment.settings.topic("recommendations")
    ends = {p: end for p, (_, end) in asyncio.run(log_extent(deployment.brokers, lists)).items()}
    second.start().wait_ready()
    said = second.log()
    assert f"signals go on from snapshot {head.id}: {rows:,} events" in said
    assert "0 events were counted at the start" in said
    deployment.send_events(events[4_000:])
    deployment.wait_absorbed(4_500)
    made = [json.loads(r.value or b"") for r in read_log(deployment.brokers, lists, start=ends)]
    assert made
    assert {each["strategy"] for each in made} == {"blend"}

    after, _ = told(deployment)
    more = sum(map(len, after.values()))
    assert more > 400
    later, counts = snapshot_of(deployment, rows + more)
    assert later.id != head.id
    assert by_item(counts) == counted([*before.values(), *after.values()])
    assert second.stop() == 0


@pytest.mark.slow
def test_a_snapshot_that_is_not_whole_is_not_used(deploy: Callable[..., Deployment]) -> None:
    """The topic holds a head and other parts: all is counted from the beginning of what there is."""
    deployment = deploy(HEADWATER_PARTITIONS="2", HEADWATER_SIGNAL_SNAPSHOT_S="1")
    first, second = deployment.worker("first"), deployment.worker("second")
    first.start().wait_ready()
    deployment.wait_for_catalogue()
    deployment.send_events(pairs(1_500, USERS))
    deployment.wait_absorbed(1_500)
    rows = sum(map(len, told(deployment)[0].values()))
    snapshot_of(deployment, rows)
    assert first.stop() == 0
    junk = [(snapshot.part_key(slot, 0), b"of another writer") for slot in range(snapshot.SLOTS)]
    deployment.send("signal-counts", junk)
    second.start().wait_ready()
    assert "is not whole: part 0 of" in second.log()
    assert f"{rows:,} events were counted at the start" in second.log()
    snapshot_of(deployment, rows)
    assert second.stop() == 0
