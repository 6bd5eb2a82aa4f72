"""Our encoding of a produce request is aiokafka's, byte for byte, and its records are not copied on the way."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest
from hypothesis import given
from hypothesis import strategies as st

from streamer.transport.produce_request import LeanProduceRequest, Pieces

Topics = list[tuple[str, list[tuple[int, bytes]]]]
partitions = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=40)), max_size=4)
names = st.text(max_size=20).filter(lambda name: len(name.encode()) < 2**15)


def sent(kind: Any, topics: Topics, transactional_id: str | None, version: int) -> bytes:
    """What aiokafka's connection puts on the wire, in its own words (aiokafka/conn.py, `send`)."""
    request = kind(transactional_id=transactional_id, required_acks=-1, timeout=40_000, topics=topics)
    prepared = request.prepare({0: (version, version)})
    header = prepared.build_request_header(correlation_id=7, client_id="worker")
    message = header.encode() + prepared.encode()
    return bytes(struct.pack(">i", len(message)) + message)


@given(st.lists(st.tuples(names, partitions), max_size=3), st.none() | names, st.integers(3, 7))
def test_the_bytes_are_those_of_aiokafka(topics: Topics, transactional_id: str | None, version: int) -> None:
    given_twice = [
        sent(kind, topics, transactional_id, version) for kind in (ProduceRequest, LeanProduceRequest)
    ]
    assert given_twice[0] == given_twice[1]


@pytest.mark.parametrize("version", [0, 2])
def test_older_brokers_get_what_aiokafka_makes(version: int) -> None:
    topics: Topics = [("t", [(0, b"records")])]
    assert sent(LeanProduceRequest, topics, None, version) == sent(ProduceRequest, topics, None, version)


def test_what_aiokafka_asks_of_a_request_it_still_gets() -> None:
    request = LeanProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[])
    prepared = request.prepare({0: (0, 7)})
    plain = ProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[]).prepare({0: (0, 7)})
    for name in ("API_KEY", "API_VERSION", "RESPONSE_TYPE", "FLEXIBLE_VERSION"):
        assert getattr(prepared, name) == getattr(plain, name)
    assert request.required_acks == -1


def test_pieces_are_joined_only_when_bytes_come_before_them() -> None:
    records = bytearray(b"records")
    pieces = Pieces([b"head"]) + Pieces([records])
    assert len(pieces) == 11
    records[0:1] = b"R"  # still the same buffer
    assert bytes(b"length" + pieces) == b"lengthheadRecords"
