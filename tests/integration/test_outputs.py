"""What another system sees of the outputs: librdkafka reads them, the JSON Schemas of `docs/schemas` judge them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from streamer.core.event_types import EventTypes
from streamer.core.item_text import item_text
from streamer.core.protocol import ItemRecord, decode_item_vector, encode
from streamer.serving.text_encoder import TextEncoder
from streamer.transport.log_reader import read_log
from tests.integration.stream import Deployment
from tests.integration.workers import wait_until

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
START_MS = 1_700_000_000_000
ITEMS, WINDOW, TOP_K = 60, 16, 10

Place = tuple[int, int]
"""(partition, offset)"""


def consume(brokers: str, topic: str) -> list[Message]:
    """Every record of a topic, by an independent client."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "independent",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, 20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    found: list[Message] = []
    open_partitions = set(partitions)
    while open_partitions:
        message = consumer.poll(20)
        assert message is not None, f"{topic}: no answer for {open_partitions}"
        if (error := message.error()) is None:
            found.append(message)
        else:
            assert error.code() == KafkaError._PARTITION_EOF, error
            open_partitions.discard(message.partition())
    consumer.close()
    return found


def validated(messages: list[Message], schema: str) -> list[tuple[Message, dict[str, Any]]]:
    validator = jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))
    found = []
    for message in messages:
        value = message.value()
        assert value is not None
        record = json.loads(value, parse_constant=lambda literal: pytest.fail(f"{literal} is no JSON"))
        validator.validate(record)
        assert message.key() == record["user_id"].encode()
        found.append((message, record))
    return found


def event(n: int, user: str, item: str, kind: str = "view", **more: object) -> dict[str, object]:
    base = {
        "event_id": f"e{n}-{user}",
        "user_id": user,
        "type": kind,
        "timestamp_ms": START_MS + n * 1000,
        "item_id": item,
    }
    return base | more


def history(n: int, users: int) -> list[dict[str, object]]:
    """Nothing late, no duplicates: every event is applied."""
    rng = np.random.default_rng(3)
    kinds = ["view", "click", "purchase", "rating"]
    made = []
    for i in range(n):
        kind = kinds[int(rng.integers(4))]
        more = {"value": 4.0} if kind == "rating" else {}
        made.append(event(i, f"u{int(rng.integers(users))}", f"i{int(rng.integers(ITEMS))}", kind, **more))
    return made


def test_one_valid_list_per_event_that_leaves_out_what_was_consumed(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(HEADWATER_REFRESH="event", HEADWATER_WINDOW=str(WINDOW), HEADWATER_TOP_K=str(TOP_K))
    deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    sent = history(1_800, users=6)
    deployment.send_events(sent)
    deployment.wait_absorbed(len(sent))
    topics = [deployment.settings.topic(name) for name in ("events", "profiles", "recommendations")]
    wait_until(lambda: deployment.log_end("recommendations") >= len(sent), 30, "a list per event", 0.5)
    log: dict[Place, Any] = {
        (m.partition() or 0, m.offset() or 0): json.loads(m.value() or b"")
        for m in consume(deployment.brokers, topics[0])
    }
    assert len(log) == len(sent)
    profiles = validated(consume(deployment.brokers, topics[1]), "profile")
    lists = validated(consume(deployment.brokers, topics[2]), "recommendations")
    for outputs in (profiles, lists):
        check_sources(outputs, log, topics[0])
    check_activity(profiles, log)
    check_exclusion(lists, log)


def check_sources(outputs: list[tuple[Message, dict[str, Any]]], log: dict[Place, Any], topic: str) -> None:
    """One output per event, on its partition, and per user versions 1, 2, 3 … in the order of the log."""
    counted: dict[str, int] = defaultdict(int)
    seen = set()
    for message, record in sorted(outputs, key=lambda output: (output[0].partition(), output[0].offset())):
        source = record["source"]
        place = source["partition"], source["offset"]
        assert source["topic"] == topic
        assert message.partition() == source["partition"]
        assert log[place]["user_id"] == record["user_id"]
        assert record["as_of_ms"] == log[place]["timestamp_ms"]
        counted[record["user_id"]] += 1
        assert record["version"] == counted[record["user_id"]]
        assert place not in seen
        seen.add(place)
    assert seen == log.keys()


def check_activity(profiles: list[tuple[Message, dict[str, Any]]], log: dict[Place, Any]) -> None:
    """All events lie within the last hour, so the last profile counts them all."""
    last = {record["user_id"]: record for _, record in sorted(profiles, key=lambda p: p[1]["version"])}
    for user, profile in last.items():
        counts: dict[str, int] = defaultdict(int)
        for each in log.values():
            if each["user_id"] == user:
                counts[each["type"]] += 1
        assert profile["activity"] == dict.fromkeys(("1h", "24h", "7d"), counts)
        assert profile["interests"]["short_term"]


def check_exclusion(lists: list[tuple[Message, dict[str, Any]]], log: dict[Place, Any]) -> None:
    """No list has what its user had consumed, however long ago; when little is left it is shorter than k."""
    consuming = {each.name for each in EventTypes.DEFAULT if each.consumes}
    of_user: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for (_, offset), each in sorted(log.items()):
        of_user[each["user_id"]].append((offset, each))
    beyond_window = short = 0
    for _, record in lists:
        past = [each for offset, each in of_user[record["user_id"]] if offset <= record["source"]["offset"]]
        consumed = {each["item_id"] for each in past if each["type"] in consuming}
        recent = {each["item_id"] for each in past[-WINDOW:]}
        recommended = [item["item_id"] for item in record["items"]]
        assert not consumed & set(recommended)
        assert len(recommended) == min(TOP_K, ITEMS - len(consumed))
        assert record["strategy"] == "model"
        scores = [item["score"] for item in record["items"]]
        assert scores == sorted(scores, reverse=True)
        beyond_window += bool(consumed - recent)
        short += len(recommended) < TOP_K
    assert beyond_window > 500
    assert short > 50, "no user came near the end of the catalogue: the test shows nothing"


class Probe:
    """Sends an event of a user and returns the list that follows it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.n = deployment, 0

    def __call__(self, user: str, item: str = "i1") -> dict[str, Any]:
        self.n += 1
        self.deployment.send_events([event(self.n, user, item)])
        topic = self.deployment.settings.topic("recommendations")
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            records = (r for r in read_log(self.deployment.brokers, topic) if r.key == user.encode())
            found[:] = [json.loads(r.value or b"") for r in records]
            return bool(found) and found[-1]["as_of_ms"] == START_MS + self.n * 1000

        wait_until(answered, 30, f"the list of {user}", 0.1)
        return found[-1]

    def refresh(self, user: str) -> dict[str, dict[str, Any]]:
        """Asks for a fresh list; the next output of the user on each topic."""
        topics = {name: self.deployment.settings.topic(name) for name in ("profiles", "recommendations")}

        def outputs(topic: str) -> list[dict[str, Any]]:
            records = read_log(self.deployment.brokers, topic)
            return [json.loads(r.value or b"") for r in records if r.key == user.encode()]

        before = {name: len(outputs(topic)) for name, topic in topics.items()}
        asking = {"event_id": "any", "user_id": user, "type": "refresh", "timestamp_ms": START_MS}
        self.deployment.send_events([asking])
        wait_until(
            lambda: all(len(outputs(topic)) > before[name] for name, topic in topics.items()),
            30,
            f"what {user} asked for",
            0.1,
        )
        return {name: outputs(topic)[before[name]] for name, topic in topics.items()}

    def items(self, user: str) -> dict[str, float]:
        return {item["item_id"]: item["score"] for item in self(user)["items"]}


def put(deployment: Deployment, *items: ItemRecord) -> None:
    deployment.send("items", [(item.item_id.encode(), encode(item)) for item in items])


def test_what_may_be_recommended_follows_the_catalogue(
    deploy: Callable[..., Deployment], artefact: Path
) -> None:
    deployment = deploy(HEADWATER_REFRESH="event", HEADWATER_TOP_K="100")
    deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    probe = Probe(deployment)
    everything = {f"i{n}" for n in range(ITEMS)}
    assert probe.items("known").keys() == everything  # views do not consume; fewer than k candidates

    deployment.send("items", [(b"i5", None)])
    put(deployment, ItemRecord("i6", "Title 6", available=False))
    wait_until(lambda: probe.items("known").keys() == everything - {"i5", "i6"}, 40, "i5 and i6 are gone")

    fresh = [
        ItemRecord(f"fresh{n}", "A film about drama", text="good", categories=["drama"]) for n in range(2)
    ]
    fresh.append(ItemRecord("other", "The bad book", categories=["comedy"]))
    put(deployment, *fresh)
    now = everything - {"i5", "i6"} | {item.item_id for item in fresh}
    wait_until(lambda: probe.items("known").keys() == now, 40, "the new items are recommended")
    scores = probe.items("known")
    assert scores["fresh0"] == pytest.approx(scores["fresh1"], abs=1e-5)
    assert scores["other"] != pytest.approx(scores["fresh0"], abs=1e-5)
    check_content(deployment, artefact, fresh)

    put(deployment, ItemRecord("i6", "Title 6"))
    wait_until(lambda: probe.items("known").keys() == now | {"i6"}, 40, "i6 is back")
    stranger = probe("stranger", "nobody-knows")
    assert stranger["strategy"] == "popularity"
    assert {item["item_id"] for item in stranger["items"]} == now | {"i6"}
    assert not any("because" in item for item in stranger["items"])
    assert probe("stranger")["strategy"] == "model"
    check_requests(deployment, probe, now | {"i6"})
    for topic, schema in (("recommendations", "recommendations"), ("profiles", "profile")):
        validated(consume(deployment.brokers, deployment.settings.topic(topic)), schema)


def check_requests(deployment: Deployment, probe: Probe, now: set[str]) -> None:
    """Whoever comes back gets a list with what came to the catalogue since, and so does who comes for the first time."""
    last = probe("known")
    put(deployment, ItemRecord("late", "The good film", categories=["drama"]))
    wait_until(lambda: "late" in probe.items("another"), 40, "the late item is recommended")
    for revision in (1, 2):
        for user, version in (("known", last["version"]), ("newcomer", 0)):
            for output in probe.refresh(user).values():
                assert (output["version"], output["revision"]) == (version, revision)
                assert output["as_of_ms"] == (last["as_of_ms"] if version else -1)
                assert output["source"]["offset"] >= (last["source"]["offset"] if version else 0)
                if "items" in output:
                    assert {item["item_id"] for item in output["items"]} == now | {"late"}
                    assert output["strategy"] == ("model" if version else "popularity")
                else:
                    assert output["activity"]["1h"] == ({"view": version} if version else {})
    after = probe("newcomer")
    assert (after["version"], after["revision"]) == (1, 2)


def check_content(deployment: Deployment, artefact: Path, items: list[ItemRecord]) -> None:
    """Their vectors on `item-vectors` are what the artefact's encoder makes of their texts."""
    topic = deployment.settings.topic("item-vectors")
    stored = {
        r.key: decode_item_vector(r.value) for r in read_log(deployment.brokers, topic) if r.value is not None
    }
    encoder = TextEncoder.load(artefact)
    for item, vector in zip(items, encoder.encode([item_text(item) for item in items]), strict=True):
        found = stored[item.item_id.encode()]
        assert found.encoder == encoder.digest
        np.testing.assert_allclose(np.frombuffer(found.vector, "<f2"), vector, atol=1e-3)
