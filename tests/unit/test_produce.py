from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata, TopicPartition

from streamer.cli import produce
from streamer.cli.consume import LatestOutputs, output_line, titles_of
from streamer.cli.produce import Keyed, Pace, Sent
from streamer.core.partitioner import Partitioner
from streamer.core.protocol import Recommendation, Recommendations, Source, encode
from streamer.datasets import Interaction
from streamer.errors import BrokerUnavailable, DataError
from streamer.transport.log_reader import LogRecord


class FakeProducer:
    def __init__(self, refuse: bytes | None = None) -> None:
        self.refuse = refuse
        self.sent: list[tuple[str, bytes, bytes]] = []

    async def send(self, topic: str, value: bytes, key: bytes) -> asyncio.Future[RecordMetadata]:
        self.sent.append((topic, key, value))
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        if value == self.refuse:
            future.set_exception(MessageSizeTooLargeError())
        else:
            future.set_result(RecordMetadata(topic, 0, TopicPartition(topic, 0), len(self.sent) - 1, 0, 0, 0))
        return future


def records(*times_ms: int) -> list[Keyed]:
    return [Keyed(b"u", b"%d" % number, time_ms) for number, time_ms in enumerate(times_ms)]


@pytest.mark.parametrize(
    ("pace", "due_s"),
    [(Pace(), [None, None]), (Pace(speed=10), [0.0, 0.2]), (Pace(rate=4), [0.0, 0.25])],
)
def test_pace(pace: Pace, due_s: list[float | None]) -> None:
    assert [pace.due_s(position, elapsed_ms) for position, elapsed_ms in ((0, 0), (1, 2000))] == due_s


def test_an_event_from_before_the_first_is_due_at_once() -> None:
    assert Pace(speed=1).due_s(3, -5000) == 0.0


async def test_records_go_out_in_order_and_their_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "FLUSH_EVERY", 2)
    producer = FakeProducer()
    heard: list[int] = []
    sent = await produce.send_all(producer, "events", records(0, 1, 2, 3, 4), Pace(), heard.append)
    assert [value for _, _, value in producer.sent] == [b"0", b"1", b"2", b"3", b"4"]
    assert [record.offset for record in sent] == [0, 1, 2, 3, 4]
    assert heard[-1] == 5


async def test_due_times_are_those_of_the_open_loop() -> None:
    sent: list[Sent] = await produce.send_all(FakeProducer(), "t", records(0, 0, 0), Pace(rate=1000))
    assert [b.due_s - a.due_s for a, b in itertools.pairwise(sent)] == pytest.approx([0.001, 0.001])


async def test_a_refused_record_is_an_error() -> None:
    with pytest.raises(BrokerUnavailable, match="'events'"):
        await produce.send_all(FakeProducer(refuse=b"1"), "events", records(0, 1), Pace())


def test_event_files_are_sent_as_they_are(tmp_path: Path) -> None:
    lines = ['{"user_id": "u", "timestamp_ms": 5, "anything": [1]}', "", '{"user_id":"ü","timestamp_ms":6}']
    (tmp_path / "events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = list(produce.read_events(tmp_path / "events.jsonl"))
    assert found == [Keyed(b"u", lines[0].encode(), 5), Keyed("ü".encode(), lines[2].encode(), 6)]


@pytest.mark.parametrize("line", ["no json", '{"timestamp_ms": 5}', '{"user_id": 7, "timestamp_ms": 5}'])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "e.jsonl").write_text('{"user_id": "u", "timestamp_ms": 5}\n' + line)
    with pytest.raises(DataError, match=r"e\.jsonl:2"):
        list(produce.read_events(tmp_path / "e.jsonl"))


def test_a_source_that_is_neither_file_nor_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ml-100k"):
        list(produce.read_events(tmp_path / "absent"))


def test_an_interaction_becomes_an_event_of_its_user() -> None:
    record = produce.event_record(Interaction("ml-1", "7", "50", "rating", 4.0, 123_000))
    assert record.key == b"7"
    expected = {"event_id": "ml-1", "user_id": "7", "item_id": "50", "type": "rating", "value": 4.0}
    assert json.loads(record.value) == {**expected, "timestamp_ms": 123_000}


@pytest.mark.parametrize("kind", ["murmur2", "crc32"])
def test_records_land_where_the_worker_expects_them(kind: Any) -> None:
    place = produce.kafka_partitioner(kind)
    keys = [b"%d" % number for number in range(50)]
    assert [place(key, [3, 1, 2, 0], [1]) for key in keys] == [
        Partitioner(kind).partition(key, 4) for key in keys
    ]


def recommendation(version: int, revision: int = 0, user: str = "u") -> LogRecord:
    items = [Recommendation("1", 0.5, "2")]
    value = encode(
        Recommendations(user, version, revision, 0, "m", "model", items, Source("events", 0, version))
    )
    return LogRecord(0, version, 0, user.encode(), value)


def test_older_outputs_are_dropped_by_version_and_revision() -> None:
    latest = LatestOutputs("recommendations")
    taken = [
        latest.take(recommendation(*pair)) is not None for pair in ((1, 0), (3, 0), (2, 9), (3, 1), (3, 1))
    ]
    assert taken == [True, True, False, True, False]
    assert latest.by_user["u"].revision == 1


def test_a_tombstone_resets_a_users_version() -> None:
    latest = LatestOutputs("recommendations", "u")
    latest.take(recommendation(9))
    assert latest.take(LogRecord(0, 10, 0, b"u", None)) is None
    assert latest.take(recommendation(1)) is not None


def test_only_the_user_asked_for_is_shown() -> None:
    latest = LatestOutputs("recommendations", "u")
    assert latest.take(recommendation(1, user="v")) is None


def test_a_foreign_record_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match=r"recommendations \[2\] @ 7"):
        LatestOutputs("recommendations").take(LogRecord(2, 7, 0, b"u", b"{}"))


def test_lines_show_titles_and_the_supporting_item() -> None:
    found = LatestOutputs("recommendations").take(recommendation(4))
    assert found is not None
    items = [LogRecord(0, 0, 0, b"1", b'{"item_id":"1","title":"Fargo"}'), LogRecord(0, 1, 0, b"2", b"junk")]
    line = output_line(found, titles_of(items)).plain
    assert "v4.0" in line
    assert "Fargo 0.50 ← 2" in line
