"""What comes out of aiokafka's buffer: batches, whole, checked and decoded by who iterates; records as from aiokafka itself."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from streamer.transport import log_batches
from streamer.transport.log_batches import FetchedByBatch, runs

CHANGELOG, EVENTS = TopicPartition("log", 0), TopicPartition("events", 0)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def wire(first: int, *values: bytes | None, codec: str = "none") -> bytes:
    """A record batch as the broker sends it, its first record at offset `first`."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 20)
    for i, value in enumerate(values):
        builder.append(i, 1_700_000_000_000, b"key-%d" % (first + i), value, [])
    built = bytearray(builder.build())
    built[0:8] = first.to_bytes(8, "big")  # the base offset is outside of the checksum
    return bytes(built)


class Assignment:
    """As much of aiokafka's as a fetch result asks for: this partition is ours, and reads on from `position`."""

    position = 0

    def state_value(self, tp: Any) -> Assignment:
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position

    active = True
    paused = False
    has_valid_position = True


def fetched(
    tp: Any, data: bytes, position: int = 0, buffer: dict[Any, Any] | None = None
) -> tuple[FetchResult, Assignment]:
    assignment = Assignment()
    assignment.position = position
    records = PartitionRecords(tp, MemoryRecords(data), [], position, None, None, True, 0)
    result = FetchResult(tp, assignment=assignment, partition_records=records, backoff=0)
    buffer = FetchedByBatch(lambda each: each.topic == "log") if buffer is None else buffer
    buffer[tp] = result
    assert buffer[tp] is result
    return result, assignment


@pytest.mark.parametrize("codec", CODECS)
def test_a_changelog_is_handed_out_by_the_batch(codec: str) -> None:
    data = wire(10, b"a" * 100, None, codec=codec) + wire(20, b"c", codec=codec)
    result, assignment = fetched(CHANGELOG, data, 10)
    batches = result.getall(1000)
    assert [[(r.offset, r.key, r.value) for r in batch] for batch in batches] == [
        [(10, b"key-10", b"a" * 100), (11, b"key-11", None)],
        [(20, b"key-20", b"c")],
    ]
    assert [(batch.base_offset, batch.next_offset) for batch in batches] == [(10, 12), (20, 21)]
    assert assignment.position == 21


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("position", [0, 10, 11, 12, 15, 20, 21])
def test_other_topics_come_by_the_record_as_from_aiokafka(codec: str, most: int, position: int) -> None:
    """Whatever is taken at a time, and also where the position lies within a batch, or in a hole behind one."""
    data = wire(10, b"a", None, b"b", codec=codec) + wire(20, b"c", codec=codec)
    result, assignment = fetched(EVENTS, data, position)
    of_aiokafka, expected = fetched(EVENTS, data, position, buffer={})
    while result.has_more():
        wanted, taken = of_aiokafka.getall(most), result.getall(most)
        assert [
            (r.offset, r.timestamp, r.timestamp_type, r.key, r.value, tuple(r.headers)) for r in taken
        ] == [(r.offset, r.timestamp, r.timestamp_type, r.key, r.value, r.headers) for r in wanted]
        assert assignment.position == expected.position
    assert not of_aiokafka.has_more()


def test_a_control_batch_is_passed_over() -> None:
    control = bytearray(wire(11, b"\x00\x00\x00\x00\x00\x00"))
    control[22] |= 0x20  # attributes
    control[17:21] = calc_crc32c(bytes(control[21:])).to_bytes(4, "big")
    result, assignment = fetched(EVENTS, wire(10, b"a") + bytes(control) + wire(12, b"b"), 10)
    assert [record.offset for record in result.getall()] == [10, 12]
    assert assignment.position == 13


def test_a_batch_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(wire(0, b"abcdef"))
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException, match="log"):
        fetched(CHANGELOG, bytes(data))[0].getall()


def test_the_position_is_behind_the_batches_taken() -> None:
    result, assignment = fetched(CHANGELOG, wire(0, b"a") + wire(1, b"b") + wire(2, b"c"))
    assert len(result.getall(2)) == 2
    assert assignment.position == 2
    assert len(result.getall(2)) == 1
    assert assignment.position == 3


def test_neighbouring_batches_become_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_batches, "RUN_RECORDS", 4)
    data = b"".join(wire(at, *[b"x"] * n) for at, n in ((0, 2), (2, 2), (4, 1), (5, 9), (14, 1)))
    batches = fetched(CHANGELOG, data)[0].getall()
    assert [[batch.base_offset for batch in run] for run in runs(batches)] == [[0, 2], [4], [5], [14]]
