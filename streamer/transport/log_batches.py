"""What is fetched out of an aiokafka consumer without its ConsumerRecords: parsed records as they are, or whole record batches.

aiokafka takes 1.4 µs to make a ConsumerRecord out of a parsed record; iterating over a batch takes 0.2 µs. So the consumer is
handed the parsed records themselves. Of a log (a changelog) it is handed the batches, each in place of a record: they are
decoded (and decompressed) by whoever iterates over them, so what waits is as large as it was on the wire.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from aiokafka.consumer.fetcher import READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException

RUN_RECORDS = 4000
"""Records that become one write, at most: as long as the event loop may stand still."""


class LoggedRecord(Protocol):
    """aiokafka's DefaultRecord."""

    offset: int
    timestamp: int
    """ms; -1 where it has none."""
    timestamp_type: int
    key: Any
    """bytes, or None"""
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class LogBatch(Protocol):
    """aiokafka's DefaultRecordBatch: its records in the order of the log; offsets may have holes after a compaction."""

    base_offset: int
    next_offset: int

    def __iter__(self) -> Iterator[LoggedRecord]: ...


def log_batches(fetched: PartitionRecords) -> Iterator[LogBatch]:
    """In place of aiokafka's iterator over records: checks each batch, and moves the position on."""
    for batch in _checked(fetched):
        fetched.next_fetch_offset = batch.next_offset
        yield batch


def bare_records(fetched: PartitionRecords) -> Iterator[LoggedRecord]:
    """In place of aiokafka's iterator, as that one does where transactions are none of its business (`read_uncommitted`)."""
    for batch in _checked(fetched):
        for record in batch:
            if record.offset >= fetched.next_fetch_offset:  # a batch may begin before the position
                fetched.next_fetch_offset = record.offset + 1
                yield record
        fetched.next_fetch_offset = batch.next_offset


def _checked(fetched: PartitionRecords) -> Iterator[LogBatch]:
    records = fetched._records
    while records.has_next():
        batch = records.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{fetched._tp}: a record batch has the wrong checksum")
        if batch.is_control_batch:
            fetched.next_fetch_offset = batch.next_offset
        else:
            yield batch


class FetchedByBatch(collections.OrderedDict[Any, Any]):
    """aiokafka's buffer of fetched data, read as bare records; that of partitions which `whole` names as record batches."""

    def __init__(self, whole: Callable[[Any], bool]) -> None:
        super().__init__()
        self._whole = whole

    def __setitem__(self, tp: Any, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            records = fetched._partition_records
            if self._whole(tp):
                records._records_iterator = log_batches(records)
            elif records._isolation_level == READ_UNCOMMITTED:
                records._records_iterator = bare_records(records)
        super().__setitem__(tp, fetched)


def runs(batches: Sequence[LogBatch]) -> Iterator[list[LogBatch]]:
    """Neighbouring batches together, as long as they have at most RUN_RECORDS records (a batch may have more)."""
    run: list[LogBatch] = []
    records = 0
    for batch in batches:
        size = batch.next_offset - batch.base_offset
        if run and records + size > RUN_RECORDS:
            yield run
            run, records = [], 0
        run.append(batch)
        records += size
    if run:
        yield run
