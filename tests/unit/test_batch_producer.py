"""How records are packed into batches: in order, groups whole, no batch too large, and readable by Kafka's format."""

from __future__ import annotations

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import RecordTooLarge
from streamer.transport import batch_producer
from streamer.transport.batch_producer import CODECS, Outgoing, Packer, Pair

LIMIT = 600

pairs = st.tuples(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=200))
groups = st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=60)), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_producer, "BATCH_BYTES", LIMIT)


def packed(packer: Packer) -> list[list[Pair]]:
    batches = []
    for builder in packer.finish():
        data = bytes(builder._build())
        assert builder.record_count() > 0
        if packer._codec == 0:
            assert len(data) <= LIMIT
        batch = MemoryRecords(data).next_batch()
        assert batch is not None
        batches.append([(record.key, record.value) for record in batch])
    return batches


@settings(deadline=None)
@given(st.lists(pairs, max_size=30), st.lists(groups, max_size=10), st.sampled_from(["none", "snappy"]))
def test_records_come_in_order_and_groups_whole(
    alone: list[Pair], together: list[list[Pair]], codec: str
) -> None:
    packer = Packer("t", CODECS[codec], 1_700_000_000_000)
    packer.add_pairs(alone)
    packer.add_groups(together)
    batches = packed(packer)
    assert [record for batch in batches for record in batch] == [*alone, *(r for g in together for r in g)]
    # Each group lies in one batch: the batches' ends are none of its inner borders.
    ends, at = set(), 0
    for batch in batches:
        at += len(batch)
        ends.add(at)
    at = len(alone)
    for group in together:
        assert not ends & set(range(at + 1, at + len(group)))
        at += len(group)


def test_a_group_that_fits_no_batch_is_refused_by_name() -> None:
    packer = Packer("users", 0, 0)
    noise = bytes(range(256)) * 2
    with pytest.raises(RecordTooLarge, match=r"users: .* of one user do not fit a batch of 600 bytes"):
        packer.add_groups([[(b"k", noise), (b"l", noise)]])


def test_headers_travel() -> None:
    packer = Packer("t", 0, 5)
    packer.add_groups([[Outgoing(b"k", b"v", [("reason", b"x")])]])
    (builder,) = packer.finish()
    batch = MemoryRecords(bytes(builder._build())).next_batch()
    assert batch is not None
    (record,) = batch
    assert (record.timestamp, list(record.headers)) == (5, [("reason", b"x")])
