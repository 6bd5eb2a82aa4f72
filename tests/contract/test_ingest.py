"""The worker's way from runs to deliveries, on real graphs and a dictionary: how a log is cut into batches must not show."""

from __future__ import annotations

import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from faust.types import TP

from agents.ingest import Ingest, StateOptions
from agents.recommend import Recommend
from streamer.core.diversity import intra_list_similarity
from streamer.core.event_types import EventTypes
from streamer.core.events import Event, EventDecoder
from streamer.core.interests import Decay
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemVector, Profile, Recommendations, encode
from streamer.core.put_off import PutOff
from streamer.core.runs import Rows
from streamer.core.state_records import decode_heads
from streamer.core.stored import LookedUp
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.model import Model
from streamer.transport.sending import Delivery
from tests.tiny_artefact import CATEGORIES, build

TYPES = EventTypes.DEFAULT
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
PARTITIONS = 2
EVENTS, USERS = 160, 5


@pytest.fixture(scope="module", params=["gru", "transformer"])
def champion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    model = Model.load(build(tmp_path_factory.mktemp("encoders"), encoder=request.param))
    catalogue = Catalogue()
    nothing = np.zeros(384, np.float16).tobytes()
    catalogue.apply(
        (item, ItemVector(item, "e", nothing, True, [CATEGORIES[at % 3]], 0, at))
        for at, item in enumerate(model.item_ids)
    )
    return Champion(model, catalogue.snapshot(model), Popularity(DAY_MS), TYPES)


class Table:
    """What a worker keeps and publishes."""

    def __init__(
        self,
        champion: Champion,
        *,
        per_event: bool = False,
        put_off: PutOff | None = None,
        diversity: float = 0.0,
        exposure_discount: float = 0.0,
    ) -> None:
        self.records: list[dict[bytes, bytes]] = [{} for _ in range(PARTITIONS)]
        self.outputs: dict[tuple[str, bytes], dict[int, Any]] = {}
        recommend = Recommend(
            "profiles",
            "recommendations",
            per_event,
            5,
            exclude_seen=True,
            diversity=diversity,
            exposure_discount=exposure_discount,
        )
        no_texts: Any = None
        self.ingest = Ingest(
            EventDecoder(TYPES, None, PARTITIONS),
            TYPES,
            StateOptions(40, 3_600_000, Decay()),
            lambda: champion,
            lambda partition: LookedUp(self.records[partition].get),
            no_texts,
            recommend,
            put_off=put_off,
        )

    def take(self, deliveries: dict[int, Delivery]) -> None:
        for partition, delivery in deliveries.items():
            self.records[partition].update(delivery.changes())
            for topic, records in delivery.outputs.items():
                kind: Any = Profile if topic == "profiles" else Recommendations
                for key, value in records:
                    assert key is not None
                    assert value is not None
                    output = msgspec.json.decode(value, type=kind)
                    self.outputs.setdefault((topic, key), {})[output.version] = output

    def stream(self, log: list[list[Any]], cut: int, lagging: bool = False) -> None:
        for start in range(0, EVENTS, cut):
            work = {
                partition: [self.ingest.decode(run(partition, part))]
                for partition, records in enumerate(log)
                if (part := records[start : start + cut])
            }
            self.take(self.ingest.compute(work, lagging))


def run(partition: int, records: list[Any]) -> Any:
    return SimpleNamespace(tp=TP("events", partition), records=records)


def log() -> list[list[Any]]:
    """Per partition: events of its own users, in bursts, some with a value, one twice."""
    rng = np.random.default_rng(3)
    found = []
    for partition in range(PARTITIONS):
        records = []
        for offset in range(EVENTS):
            user = f"u{partition}-{rng.integers(USERS)}"
            kind = str(rng.choice(["view", "click", "purchase", "rating"]))
            event = Event(
                event_id=f"e{offset - (offset == 50)}",
                user_id=user if offset not in (49, 50) else f"u{partition}-0",
                type=kind,
                timestamp_ms=START_MS + 60_000 * offset,
                item_id=f"i{rng.integers(60)}",
                value=float(rng.integers(1, 6)) if kind == "rating" else None,
            )
            key = event.user_id.encode()
            value = msgspec.json.encode(event)
            records.append(
                SimpleNamespace(
                    topic="events",
                    partition=partition,
                    offset=offset,
                    timestamp=START_MS + DAY_MS,
                    key=key,
                    value=value,
                    headers=(),
                )
            )
        found.append(records)
    return found


def same_states(one: Table, other: Table, hidden: int, *, but: tuple[str, ...] = ("rebuilt",)) -> None:
    for mine, theirs in zip(one.records, other.records, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            if key[:1] != b"h":
                assert value == theirs[key]
                continue
            (a, b), tails = decode_heads([value, theirs[key]], hidden, 3)
            assert tails[0] == tails[1]
            for name in a.dtype.names or ():
                if name not in ("gru", *but):
                    assert a[name].tobytes() == b[name].tobytes(), name
            if "gru" not in but:
                np.testing.assert_allclose(a["gru"], b["gru"], atol=4e-3)


def same_outputs(one: Any, other: Any) -> None:
    if isinstance(one, Recommendations):
        assert [item.item_id for item in one.items][:2] == [item.item_id for item in other.items][:2]
        np.testing.assert_allclose(
            [item.score for item in one.items], [item.score for item in other.items], atol=0.05
        )
    else:
        assert one.activity == other.activity
        assert one.interests.keys() == other.interests.keys()


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_batches_cut_anywhere_give_the_same_states_and_lists(champion: Champion, cut: int) -> None:
    whole, cut_up, each = Table(champion), Table(champion), Table(champion, per_event=True)
    events = log()
    whole.stream(events, EVENTS)
    cut_up.stream(events, cut)
    each.stream(events, cut)
    same_states(whole, cut_up, champion.model.hidden)
    same_states(whole, each, champion.model.hidden)
    for place, outputs in whole.outputs.items():
        (version,) = outputs
        assert max(each.outputs[place]) == version
        assert set(each.outputs[place]) == set(range(1, version + 1)), "a refresh after every event"
        same_outputs(outputs[version], each.outputs[place][version])
        same_outputs(outputs[version], cut_up.outputs[place][version])


def listed(champion: Champion, *tables: Table) -> list[Rows]:
    """The lists (users, 5) that each table publishes for the whole log, items by their row of the model."""
    found = []
    for table in tables:
        table.stream(log(), EVENTS)
        outputs = table.outputs.items()
        lists = [out for (topic, _), outs in outputs if topic != "profiles" for out in outs.values()]
        found.append(
            np.array([[champion.model.item_ids.index(each.item_id) for each in out.items] for out in lists])
        )
    return found


def test_diverse_lists_are_less_alike_and_hold_the_best_items_first(champion: Champion) -> None:
    plain, diverse = Table(champion), Table(champion, diversity=0.9)
    vectors = champion.catalogue.vectors
    rows = listed(champion, plain, diverse)
    assert rows[0].shape == rows[1].shape == (PARTITIONS * USERS, 5)
    assert (rows[0][:, 0] == rows[1][:, 0]).all()
    assert (rows[0] != rows[1]).any()
    order = np.array([champion.catalogue.ids.index(each) for each in champion.model.item_ids])
    alike = [intra_list_similarity(order[each], vectors) for each in rows]
    assert alike[1] < alike[0]
    same_states(plain, diverse, champion.model.hidden)


def test_a_discount_for_exposure_shows_what_fewer_take(champion: Champion) -> None:
    plain, discounted = Table(champion), Table(champion, exposure_discount=0.8)
    both = Table(champion, exposure_discount=0.8, diversity=0.5)
    taken = Counter(msgspec.json.decode(each.value)["item_id"] for records in log() for each in records)
    often = np.array([taken[item] for item in champion.model.item_ids])
    shown = [often[each].mean() for each in listed(champion, plain, discounted, both)]
    assert shown[1] < shown[0]
    assert shown[2] < shown[0]
    same_states(plain, discounted, champion.model.hidden)


def test_what_was_put_off_is_made_up_for_in_the_end(champion: Champion) -> None:
    prompt, lagging = Table(champion), Table(champion, put_off=PutOff(3600.0, 10_000))
    events = log()
    prompt.stream(events, 20)
    lagging.stream(events, 20, lagging=True)
    # Without a step a state is computed for a refresh only.
    but = ("rebuilt",) if champion.recurrent else ("rebuilt", "gru", "model")
    same_states(prompt, lagging, champion.model.hidden, but=but)
    assert not lagging.outputs
    assert lagging.ingest.due_at_s() is not None
    late = lagging.ingest.compute({})
    assert set(late) == {0, 1}
    assert not any(delivery.put_off or delivery.changes() for delivery in late.values())
    lagging.take(late)
    assert lagging.outputs.keys() == prompt.outputs.keys()
    for place, outputs in lagging.outputs.items():
        (version,) = outputs
        assert version == max(prompt.outputs[place])
        same_outputs(outputs[version], prompt.outputs[place][version])
    assert lagging.ingest.compute({}) == {}


def test_a_replayed_run_changes_no_state_and_publishes_again(champion: Champion) -> None:
    table = Table(champion)
    events = log()
    table.stream(events, 40)
    before = [dict(records) for records in table.records]
    table.outputs.clear()
    table.stream([records[:30] for records in events], 40)
    assert table.records == before
    assert {key for _, key in table.outputs} == {r.key for records in events for r in records[:30]}


def with_requests(records: list[Any]) -> list[Any]:
    """Requests before and behind events, of users with and without any; offsets are those of the longer log."""
    rng = np.random.default_rng(11)
    mixed: list[Any] = []
    for record in records:
        user = f"u{record.partition}-{rng.integers(2 * USERS)}".encode()
        asking = Event(f"r{len(mixed)}", user.decode(), "refresh", START_MS, item_id="i1", text="ignored")
        ask = SimpleNamespace(**vars(record) | {"key": user, "value": msgspec.json.encode(asking)})
        mixed += [ask, record] if rng.random() < 0.4 else [record]
    return [
        SimpleNamespace(**vars(record) | {"offset": offset})
        for offset, record in enumerate(mixed[: len(records)])
    ]


def asked_by(records: list[Any]) -> Counter[bytes]:
    return Counter(record.key for record in records if b'"refresh"' in record.value)


def revisions(table: Table) -> dict[bytes, tuple[int, int]]:
    """User → version and revision of its head."""
    heads = {key[1:]: value for part in table.records for key, value in part.items() if key[:1] == b"h"}
    return {user: struct.unpack_from("<qI", value, 18) for user, value in heads.items()}


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_requests_raise_the_revision_wherever_batches_are_cut(champion: Champion, cut: int) -> None:
    events = [with_requests(records) for records in log()]
    whole, cut_up, each = Table(champion), Table(champion), Table(champion, per_event=True)
    whole.stream(events, EVENTS)
    cut_up.stream(events, cut)
    each.stream(events, cut)
    same_states(whole, cut_up, champion.model.hidden)
    same_states(whole, each, champion.model.hidden)
    asked = asked_by([record for records in events for record in records])
    assert {user: revision for user, (_, revision) in revisions(whole).items() if revision} == asked
    assert any(version == 0 for version, _ in revisions(whole).values()), "nobody asked without an event"
    for place, outputs in whole.outputs.items():
        ((version, output),) = outputs.items()
        assert (version, output.revision) == revisions(whole)[place[1]]
        assert output.source.offset == max(
            record.offset for records in events for record in records if record.key == place[1]
        )
        if version:  # what is popular is that of the moment of each one's last request
            same_outputs(output, cut_up.outputs[place][version])
            same_outputs(output, each.outputs[place][version])


@pytest.mark.parametrize("per_event", [False, True])
def test_a_request_gets_a_list_of_now_and_changes_nothing_else(champion: Champion, per_event: bool) -> None:
    plain, table = Table(champion, per_event=per_event), Table(champion, per_event=per_event)
    events = log()
    for each in (plain, table):
        each.stream(events, EVENTS)
    before = dict(table.outputs)
    users = [b"u0-0", b"stranger"]
    asking = [
        SimpleNamespace(
            topic="events",
            partition=0,
            offset=EVENTS + at,
            timestamp=START_MS,
            key=user,
            value=msgspec.json.encode(Event(f"r{at}", user.decode(), "refresh", START_MS)),
            headers=(),
        )
        for at, user in enumerate(users)
    ]
    for _ in range(2):  # the second time it is replayed
        table.outputs.clear()
        table.stream([asking, []], EVENTS)
        assert set(table.outputs) == {
            (topic, user) for topic in ("profiles", "recommendations") for user in users
        }
        for at, (user, version) in enumerate(zip(users, (max(before["profiles", b"u0-0"]), 0), strict=True)):
            for topic in ("profiles", "recommendations"):
                output = table.outputs[topic, user][version]
                assert (output.revision, output.source.offset) == (1, EVENTS + at)
    known, new = (next(iter(table.outputs["recommendations", user].values())) for user in users)
    same_outputs(known, before["recommendations", b"u0-0"][known.version])
    assert (new.strategy, new.as_of_ms, len(new.items)) == ("popularity", -1, 5)
    assert new.items[0].score > 1, "popular is what the stream counted"
    assert table.records[0].keys() - plain.records[0].keys() == {b"hstranger"}
    del table.records[0][b"hstranger"]
    same_states(plain, table, champion.model.hidden, but=("rebuilt", "applied", "revision"))


def test_a_request_that_is_put_off_is_made_up_for(champion: Champion) -> None:
    table = Table(champion, put_off=PutOff(3600.0, 10_000))
    events = [with_requests(records) for records in log()]
    table.stream(events, 20, lagging=True)
    assert not table.outputs
    table.take(table.ingest.compute({}))
    assert {key for _, key in table.outputs} == {record.key for records in events for record in records}
    for (_, user), outputs in table.outputs.items():
        assert [(output.version, output.revision) for output in outputs.values()] == [revisions(table)[user]]


def test_a_bad_record_in_a_run_is_buried_and_the_others_count(champion: Champion) -> None:
    table = Table(champion)
    (good, bad, other), _ = (records[:3] for records in log())
    bad.value = b'{"event_id":"x"}\n' + encode(ItemVector("i", "e", b"", True, [], 0, 0))
    decoded = table.ingest.decode(run(0, [good, bad, other]))
    delivery = table.ingest.compute({0: [decoded]})[0]
    assert [letter.value for letter in delivery.dead_letters] == [bad.value]
    table.take({0: delivery})
    heads = [value for key, value in table.records[0].items() if key[:1] == b"h"]
    assert sum(struct.unpack_from("<q", value, 18)[0] for value in heads) == 2, "versions"
