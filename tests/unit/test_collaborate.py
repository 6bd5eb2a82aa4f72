"""Collaborative signals in a worker, without Kafka: what is told, what comes back, the lists that are blended of it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from faust.types import TP

from agents.collaborate import LEARNED_AT_ONCE, LEARNED_PER_S, Collaborate
from agents.follow_signals import FollowSignals
from agents.ingest import Ingest, StateOptions
from agents.recommend import Recommend
from streamer.core.event_types import EventTypes
from streamer.core.events import EventDecoder
from streamer.core.hashing import item_hash
from streamer.core.interests import Decay
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemVector
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.rows import SignalRows
from streamer.core.signals.shared import WARM_ROWS, ItemNumbers, SharedSignals
from streamer.core.signals.weights import LEARNER_KEY, Published, Shipped
from streamer.core.stored import LookedUp
from streamer.errors import UnknownSchema
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.model import Model
from streamer.transport.log_cursor import LogRecord
from streamer.transport.sending import Delivery

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "recommendations.schema.json"
START_MS = 1_700_000_000_000
ITEMS = 60
EVENTS, WEIGHTS, LISTS = "signal-events", "signal-weights", "recommendations"


@dataclass
class _Record:
    key: bytes
    value: bytes
    offset: int
    timestamp: int
    topic: str = "events"
    partition: int = 0
    headers: Any = ()


@dataclass
class _Run:
    tp: TP
    records: list[_Record]


class OneWorker:
    """Partition 0 of a worker; a dictionary stands for RocksDB, and what is told comes back at once."""

    def __init__(
        self,
        artefact: Path,
        *,
        fresh_items: int = 0,
        explore: float = 0.0,
        shipped: Shipped | None = None,
        trained_until_ms: int = 0,
    ) -> None:
        model, types = Model.load(artefact), EventTypes.DEFAULT
        manifest = msgspec.structs.replace(model.manifest, trained_until_ms=trained_until_ms)
        model = replace(model, blend=shipped, manifest=manifest)
        catalogue = Catalogue()
        content = np.zeros(384, np.float16).tobytes()
        names = [f"i{i}" for i in range(ITEMS)] + [f"fresh{i}" for i in range(fresh_items)]
        catalogue.apply(
            (name, ItemVector(name, model.manifest.encoder, content, True, [], 0, at))
            for at, name in enumerate(names)
        )
        champion = Champion(model, catalogue.snapshot(model), Popularity(10**9), types)
        self.shared = SharedSignals()
        self.collaborate = Collaborate(
            self.shared, types, events_topic=EVENTS, weights_topic=WEIGHTS, explore=explore
        )
        self.table: dict[bytes, bytes] = {}
        recommend = Recommend("profiles", LISTS, False, 10, True, self.collaborate)
        self.ingest = Ingest(
            EventDecoder(types, None, 1),
            types,
            StateOptions(100, 3_600_000, Decay()),
            lambda: champion,
            lambda partition: LookedUp(self.table.get),
            None,  # type: ignore[arg-type]  # no event has a text
            recommend,
            collaborate=self.collaborate,
        )
        self.follow = FollowSignals(self.shared, ThreadPoolExecutor(1), lambda: True)
        self.told: list[bytes] = []
        self.weights: dict[bytes, bytes] = {}

    def take(self, records: list[_Record]) -> Delivery:
        decoded = self.ingest.decode(_Run(TP("events", 0), records))  # type: ignore[arg-type]
        delivery = self.ingest.compute({0: [decoded]})[0]
        told = [value for _, value in delivery.first.get(EVENTS, []) if value is not None]
        self.told += told
        self.weights |= {key: value for key, value in delivery.first.get(WEIGHTS, []) if key and value}
        asyncio.run(self.follow.on_events([log_record(each) for each in told]))
        self.table.update(delivery.changes())
        return delivery


def log_record(value: bytes | None, key: bytes | None = None) -> LogRecord:
    return LogRecord(0, 0, 0, key, value, ())


def records(n: int, first: int = 0, users: int = 40) -> list[_Record]:
    """Users mostly go from an even item to the odd one above it."""
    rng = np.random.default_rng(5)
    last: dict[int, int] = {}
    made = []
    for at in range(first + n):
        user = int(rng.integers(users))
        item = int(rng.integers(ITEMS))
        if last.get(user, 1) % 2 == 0 and rng.random() < 0.9:
            item = last[user] + 1
        last[user] = item
        time = START_MS + at * 20_000
        event = {
            "event_id": f"e{at}",
            "user_id": f"u{user}",
            "type": "view",
            "timestamp_ms": time,
            "item_id": f"i{item}",
        }
        made.append(_Record(f"u{user}".encode(), json.dumps(event).encode(), at, time))
    return made[first:]


def lists(delivery: Delivery) -> list[dict[str, Any]]:
    return [json.loads(value) for _, value in delivery.outputs[LISTS] if value is not None]


@pytest.fixture(scope="module")
def worker(artefact: Path) -> OneWorker:
    """After enough events for weights to be published."""
    worker = OneWorker(artefact)
    for start in range(0, 2_500, 50):
        worker.take(records(50, start))
    return worker


def test_every_applied_event_is_told_with_what_came_before_it(artefact: Path) -> None:
    worker, sent = OneWorker(artefact), records(300)
    worker.take(sent[:200])
    worker.take(sent[150:])  # 50 of them come again
    rows = SignalRows.join([SignalRows.decode(value) for value in worker.told])
    assert rows.offset.tolist() == list(range(300))
    histories: dict[str, list[int]] = {}
    for at, record in enumerate(sent):
        event = json.loads(record.value)
        past = histories.setdefault(event["user_id"], [])
        expected = past[::-1][:20]
        assert rows.past[at, : len(expected)].tolist() == expected
        assert not rows.past[at, len(expected) :].any()
        assert int(rows.item[at]) == item_hash(event["item_id"])
        past.append(int(rows.item[at]))


def test_what_is_told_does_not_depend_on_how_the_log_is_cut(artefact: Path) -> None:
    """Events without an item lie between."""
    sent = records(240, users=4)
    for at in range(0, 240, 7):
        event = json.loads(sent[at].value) | {"type": "search", "text": "anything"}
        sent[at].value = json.dumps({key: each for key, each in event.items() if key != "item_id"}).encode()
    found = []
    for size in (240, 50, 1):
        worker = OneWorker(artefact)
        for start in range(0, 240, size):
            decoded = worker.ingest.decode(_Run(TP("events", 0), sent[start : start + size]))  # type: ignore[arg-type]
            assert not decoded.dead_letters
            decoded.text_at = []  # what a text says is not looked at here
            delivery = worker.ingest.compute({0: [decoded]})[0]
            worker.told += [value for _, value in delivery.first.get(EVENTS, []) if value is not None]
            worker.table.update(delivery.changes())
        found.append(SignalRows.join([SignalRows.decode(value) for value in worker.told]))
    for other in found[1:]:
        for name in ("offset", "item", "past", "session", "weight"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name))


def test_rows_that_come_again_are_counted_once_however_they_are_cut(artefact: Path) -> None:
    worker = OneWorker(artefact)
    for start in range(0, 1_500, 300):
        worker.take(records(300, start))
    rows = SignalRows.join([SignalRows.decode(value) for value in worker.told])
    other = SharedSignals()
    for first, last in ((0, 700), (500, 1_200), (0, 400), (1_100, 1_500)):
        other.absorb(0, rows.take(slice(first, last)))
    assert other.repeated == 200 + 400 + 100
    mine, theirs = worker.shared.signals, other.signals
    assert mine is not None
    assert theirs is not None
    assert mine.counts.events == theirs.counts.events == 1_500
    of_mine = dict(zip(worker.shared.numbers.hashes.tolist(), mine.counts.count[-1].tolist(), strict=False))
    of_theirs = dict(zip(other.numbers.hashes.tolist(), theirs.counts.count[-1].tolist(), strict=False))
    assert {k: v for k, v in of_mine.items() if v} == pytest.approx(of_theirs)


def test_lists_are_the_models_until_weights_are_published(artefact: Path) -> None:
    worker = OneWorker(artefact)
    found = lists(worker.take(records(WARM_ROWS)))
    assert {each["strategy"] for each in found} == {"model"}
    assert not any("weights" in each for each in found)


def test_blended_lists_name_published_weights_signals_and_reasons(worker: OneWorker) -> None:
    sent = records(250, 2_500)
    found = lists(worker.take(sent))
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for each in found:
        validator.validate(each)
    assert {each["strategy"] for each in found} == {"blend"}
    assert {each["weights"].encode() for each in found} <= worker.weights.keys()
    carried = {item["signal"] for each in found for item in each["items"]}
    assert carried & {"next", "soon", "together", "session"}
    last = {json.loads(r.value)["user_id"]: json.loads(r.value)["item_id"] for r in sent}
    hits = [
        f"i{int(last[each['user_id']][1:]) + 1}" in [item["item_id"] for item in each["items"][:3]]
        for each in found
        if int(last[each["user_id"]][1:]) % 2 == 0
    ]
    assert np.mean(hits) > 0.8, "the next item is always the one above"
    reasons = {item.get("because") for each in found for item in each["items"]}
    assert len(reasons - {None}) > 10


def test_weights_come_back_as_they_were_published(worker: OneWorker) -> None:
    name = next(key for key in worker.weights if key != LEARNER_KEY)
    again = Published.decode(name.decode(), worker.weights[name])
    assert again.encode() == worker.weights[name]
    with pytest.raises(ValueError, match="checksum"):
        Published.decode("1-00000000", worker.weights[name])


def test_another_worker_serves_the_same_lists_from_the_same_topics(worker: OneWorker, artefact: Path) -> None:
    follower = OneWorker(artefact)
    follower.follow = FollowSignals(follower.shared, ThreadPoolExecutor(1), lambda: False)
    asyncio.run(follower.follow.on_weights([log_record(value, key) for key, value in worker.weights.items()]))
    asyncio.run(follower.follow.on_events([log_record(value) for value in worker.told]))
    follower.table = dict(worker.table)
    users = [f"u{n}".encode() for n in range(10)]
    follower.ingest.refresh(0, users)  # from now on it knows which model its weights belong to
    assert follower.shared.ready
    # Their own publication may be newer than the record that the other has: compare under the same weights.
    worker.shared.serve(follower.shared.published)  # type: ignore[arg-type]
    mine, theirs = (
        [json.loads(value or b"") for _, value in each.ingest.refresh(0, users).outputs[LISTS]]
        for each in (worker, follower)
    )
    for one, other in zip(mine, theirs, strict=True):
        assert one["weights"] == other["weights"]
        assert [item["score"] for item in one["items"]] == pytest.approx(
            [item["score"] for item in other["items"]], abs=2e-3
        )


def test_what_cannot_be_read_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedSignals()
    follow = FollowSignals(shared, ThreadPoolExecutor(1), lambda: False)
    asyncio.run(follow.on_events([log_record(b"\x09junk"), log_record(None)]))
    asyncio.run(follow.on_weights([log_record(b"junk", b"5-12345678"), log_record(b"junk", LEARNER_KEY)]))
    assert "schema" in caplog.text
    assert "signal-weights" in caplog.text
    with pytest.raises(UnknownSchema):
        SignalRows.decode(b"")


def test_shipped_weights_blend_from_the_first_rows_on_and_are_published_under_their_name(
    artefact: Path,
) -> None:
    blend = Blend(HIDDEN, 0.003, 0)
    blend.version = 900
    worker = OneWorker(
        artefact, shipped=Shipped.of(blend, 20_000.0), trained_until_ms=START_MS + 400 * 20_000
    )
    worker.take(records(100))
    found = lists(worker.take(records(100, 100)))
    assert {each["strategy"] for each in found} == {"blend"}
    (name,) = {each["weights"].encode() for each in found}
    assert name.startswith(b"900-")
    assert Published.decode(name.decode(), worker.weights[name]).weights.keys() == blend.served.keys()
    learned = worker.shared.signals
    assert learned is not None
    assert learned.safeguard.judged == 0, "the model was trained on these events"
    worker.take(records(100, 200))
    assert learned.safeguard.judged == 0
    worker.take(records(200, 300))
    assert learned.safeguard.judged > 0


def test_the_learner_looks_at_each_users_first_event_of_a_batch(artefact: Path) -> None:
    worker = OneWorker(artefact, shipped=Shipped.of(Blend(HIDDEN, 0.003, 0), 20_000.0))
    worker.take(records(100, users=5))
    assert worker.shared.signals is not None
    before = worker.shared.signals.safeguard.judged
    worker.take(records(100, 100, users=5))
    assert worker.shared.signals.safeguard.judged == before + 5


def with_requests(sent: list[_Record]) -> list[_Record]:
    """A request of its user, which names an item, before each event."""
    mixed = []
    for record in sent:
        asking = json.loads(record.value) | {"event_id": f"r{record.offset}", "type": "refresh"}
        mixed += [replace(record, value=json.dumps(asking).encode()), record]
    return [replace(record, offset=at) for at, record in enumerate(mixed, 2 * sent[0].offset)]


def test_requests_tell_nothing_and_teach_nothing(artefact: Path) -> None:
    plain, asked = (
        OneWorker(artefact, shipped=Shipped.of(Blend(HIDDEN, 0.003, 0), 20_000.0)) for _ in range(2)
    )
    for first in (0, 100):
        events = records(100, first, users=5)
        found = lists(plain.take(events)), lists(asked.take(with_requests(events)))
    for one, other in zip(*found, strict=True):
        assert (one["strategy"], one["weights"], one["items"]) == ("blend", other["weights"], other["items"])
        assert (one["version"], one["revision"], other["revision"]) == (other["version"], 0, other["version"])
    rows = [SignalRows.join([SignalRows.decode(value) for value in each.told]) for each in (plain, asked)]
    assert rows[1].offset.tolist() == (2 * rows[0].offset + 1).tolist()
    for name in ("item", "past", "session", "weight", "time_ms"):
        np.testing.assert_array_equal(getattr(rows[0], name), getattr(rows[1], name))
    judged = [each.shared.signals.safeguard.judged for each in (plain, asked) if each.shared.signals]
    assert judged == [judged[0]] * 2
    assert judged[0] >= 5


def test_a_stranger_who_asks_gets_a_blended_list(worker: OneWorker) -> None:
    """Also one that comes between the events of others: with the counts of then."""
    event = {"event_id": "r", "user_id": "stranger", "type": "refresh", "timestamp_ms": START_MS}
    asking = _Record(b"stranger", json.dumps(event).encode(), 10_000_000, START_MS)
    told = len(worker.told)
    (found,) = lists(worker.take([asking]))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(found)
    assert (found["version"], found["revision"], found["as_of_ms"]) == (0, 1, -1)
    assert (found["strategy"], len(found["items"])) == ("blend", 10)
    assert len(worker.told) == told
    assert not any("because" in item for item in found["items"])


def test_a_sample_is_spread_and_bounded_by_event_time(artefact: Path) -> None:
    sample = OneWorker(artefact).collaborate.sample
    at = np.arange(300)
    first = sample(at, START_MS + at)
    assert 0 < len(first) <= LEARNED_AT_ONCE
    assert np.ptp(first) > 200
    assert not sample(at, START_MS + at).size, "no event time has passed"
    assert len(sample(at, START_MS + 1_000 + at)) == pytest.approx(LEARNED_PER_S, abs=1)
    assert not sample(at[:0], START_MS + at).size


def test_items_that_nobody_took_are_explored_in_their_share(artefact: Path) -> None:
    worker = OneWorker(artefact, fresh_items=5, explore=1.0)
    for start in range(0, 2_500, 50):
        delivery = worker.take(records(50, start))
    found = lists(delivery)
    assert {each["strategy"] for each in found} == {"blend"}
    shown = [[item["item_id"] for item in each["items"]] for each in found]
    assert all(any(name.startswith("fresh") for name in each) for each in shown)
    assert all(len(set(each)) == len(each) for each in shown)


def test_item_numbers_stay() -> None:
    numbers = ItemNumbers()
    numbers.add(np.array([5, 3, 0, 5], np.uint64))
    before = numbers.rows(np.array([3, 5], np.uint64))
    numbers.add(np.array([4, 1], np.uint64))
    assert (numbers.rows(np.array([3, 5], np.uint64)) == before).all()
    assert numbers.rows(np.array([[9, 0]], np.uint64)).tolist() == [[-1, -1]]
    assert len(numbers) == 4


def test_who_has_taken_nearly_everything_gets_a_short_list(artefact: Path) -> None:
    worker = OneWorker(artefact)
    for start in range(0, 2_500, 50):
        worker.take(records(50, start))
    start_ms = START_MS + 2_500 * 20_000
    bought = []
    for at in range(ITEMS - 3):
        event = {
            "event_id": f"b{at}",
            "user_id": "collector",
            "type": "purchase",
            "timestamp_ms": start_ms + at,
            "item_id": f"i{at}",
        }
        bought.append(_Record(b"collector", json.dumps(event).encode(), 2_500 + at, start_ms + at))
    (made,) = lists(worker.take(bought))
    assert made["strategy"] == "blend"
    assert {item["item_id"] for item in made["items"]} == {f"i{at}" for at in range(ITEMS - 3, ITEMS)}
    assert all(item["signal"] for item in made["items"])
