"""A producer may send header keys that are not UTF-8; they must not stop a worker."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from streamer.transport.tolerant_records import TolerantRecords


class RawKey(str):
    """A header key whose encoding is no UTF-8."""

    def encode(self, *_: object) -> bytes:
        return b"caf\xe9"


def batch(compression: int = 0) -> bytes:
    builder = _DefaultRecordBatchBuilderPy(
        magic=2, compression_type=compression, is_transactional=False, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=100_000,
    )  # fmt: skip
    for offset, key in enumerate(["plain", RawKey("x"), "plain"]):
        builder.append(
            offset, 1_000 + offset, b"k", b"caf\xe9 %d" % offset, [(key, b"caf\xe9"), ("second", None)]
        )
    return bytes(builder.build())


@pytest.mark.parametrize("compression", [0, 1])
def test_reads_what_the_strict_parser_refuses(compression: int) -> None:
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(batch(compression)).next_batch())
    records = TolerantRecords(batch(compression))
    assert records.has_next()
    read = list(records.next_batch())
    assert [r.value for r in read] == [b"caf\xe9 0", b"caf\xe9 1", b"caf\xe9 2"]
    assert [r.headers[0] for r in read] == [
        ("plain", b"caf\xe9"),
        ("caf?", b"caf\xe9"),
        ("plain", b"caf\xe9"),
    ]
    assert read[1].headers[1] == ("second", None)
    assert not records.has_next()
