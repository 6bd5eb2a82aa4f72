"""Reading records whose header keys are not UTF-8.

Kafka stores header keys as bytes and lets a producer send any; aiokafka decodes them strictly and raises inside the
fetcher, for ever at the same record. A worker must not be stopped by what a producer sends, so on the first such record
the process switches to aiokafka's pure-Python parser, with the offending bytes of the key replaced by '?'. Slower (and
said in the log), but only for who has such a producer.
"""

from __future__ import annotations

import logging
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint

log = logging.getLogger("headwater.transport")


class TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # marked final; there is no other seam
    _buffer: bytearray

    def _read_msg(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._read_msg(*args, **kwargs)
        except UnicodeDecodeError:
            self._buffer = _ascii_header_keys(self._buffer, self._pos)
            return super()._read_msg(*args, **kwargs)


def _ascii_header_keys(buffer: Any, record: int) -> bytearray:
    """The batch with the bytes >= 0x80 in the header keys of the record at `record` replaced (record format v2)."""
    clean = bytearray(buffer)
    at = record
    for _ in ("length", "attributes", "timestamp delta", "offset delta"):
        _, at = decode_varint(clean, at)
    for _ in ("key", "value"):
        size, at = decode_varint(clean, at)
        at += max(size, 0)
    headers, at = decode_varint(clean, at)
    for _ in range(headers):
        size, at = decode_varint(clean, at)
        clean[at : at + size] = bytes(byte if byte < 0x80 else ord("?") for byte in clean[at : at + size])
        at += size
        size, at = decode_varint(clean, at)
        at += max(size, 0)
    return clean


class TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]
    def next_batch(self, *args: Any, **kwargs: Any) -> Any:
        part = self._next_slice
        if part is None or len(part) <= self.MAGIC_OFFSET or part[self.MAGIC_OFFSET] < 2:
            return super().next_batch(*args, **kwargs)
        self._cache_next()
        return TolerantBatch(part)


def tolerate() -> None:
    """From now on, this process reads every record with the tolerant parser."""
    if fetcher.MemoryRecords is not TolerantRecords:
        log.warning(
            "a record has a header key that is not UTF-8: reading on with the slower, tolerant parser"
        )
        fetcher.MemoryRecords = TolerantRecords
