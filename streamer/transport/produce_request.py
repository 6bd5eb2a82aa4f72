"""aiokafka's produce request, written into the socket's buffer with one copy of the records instead of seven.

aiokafka encodes a request field by field, each level joining what the level below has joined (records, partition, topic, body,
header, length): of a request of megabytes each join is a pass over fresh memory. Here the levels only list their pieces, and
the last step, which puts the length in front, joins them. The bytes are the same (tests/unit/test_produce_request.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from aiokafka.producer import sender
from aiokafka.protocol.produce import ProduceRequest

_INT32 = struct.Struct(">i").pack
_PARTITION = struct.Struct(">ii").pack
_ACKS_TIMEOUT_TOPICS = struct.Struct(">hii").pack
OLDEST_VERSION = 3
"""Of the produce API: record batches as they are since Kafka 0.11."""


class Pieces:
    """What is to be joined: `bytes + pieces` joins, `pieces + pieces` does not.

    The result is a view: what a socket does not take at once is cut off without a copy.
    """

    def __init__(self, pieces: Sequence[bytes | bytearray]) -> None:
        self._pieces = list(pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __add__(self, more: Pieces) -> Pieces:
        return Pieces(self._pieces + more._pieces)

    def __radd__(self, before: bytes) -> memoryview:
        return memoryview(b"".join([before, *self._pieces]))


class _Header:
    def __init__(self, header: Any) -> None:
        self._header = header

    def encode(self) -> Pieces:
        return Pieces([self._header.encode()])


def _text(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    data = text.encode()
    return struct.pack(">h", len(data)) + data


class _Struct:
    """Stands for aiokafka's own structure of a version; everything but its encoding is that one's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __repr__(self) -> str:  # the original prints the records
        return f"ProduceRequest v{self._inner.API_VERSION}"

    def build_request_header(self, correlation_id: int, client_id: str) -> _Header:
        return _Header(self._inner.build_request_header(correlation_id, client_id))

    def encode(self) -> Pieces:
        request = self._inner
        pieces = [
            _text(request.transactional_id)
            + _ACKS_TIMEOUT_TOPICS(request.required_acks, request.timeout, len(request.topics))
        ]
        for topic, partitions in request.topics:
            pieces.append(_text(topic) + _INT32(len(partitions)))
            for partition, records in partitions:
                pieces.append(_PARTITION(partition, len(records)))
                pieces.append(records)
        return Pieces(pieces)


class LeanProduceRequest(ProduceRequest):  # type: ignore[misc]
    def prepare(self, versions: Any) -> Any:
        prepared = super().prepare(versions)
        return _Struct(prepared) if prepared.API_VERSION >= OLDEST_VERSION else prepared


class LeanHandler(sender.SendProduceReqHandler):  # type: ignore[misc]
    """aiokafka's, but for the request it makes."""

    def create_request(self) -> ProduceRequest:
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for tp, batch in self._batches.items():
            topics.setdefault(tp.topic, []).append((tp.partition, batch.get_data_buffer()))
        manager = self._sender._txn_manager
        return LeanProduceRequest(
            transactional_id=None if manager is None else manager.transactional_id,
            required_acks=self._sender._acks,
            timeout=self._sender._request_timeout_ms,
            topics=list(topics.items()),
        )


class LeanSender(sender.Sender):  # type: ignore[misc]
    """aiokafka's, but for the handler of produce requests."""

    @classmethod
    def of(cls, other: Any) -> LeanSender:
        """In place of a sender that has not started."""
        return cls(
            other.client,
            acks=other._acks,
            txn_manager=other._txn_manager,
            retry_backoff_ms=other._retry_backoff * 1000,
            message_accumulator=other._message_accumulator,
            request_timeout_ms=other._request_timeout_ms,
        )

    async def _send_produce_req(self, node_id: int, batches: dict[Any, Any]) -> None:
        await LeanHandler(self, batches).do(node_id)
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)
