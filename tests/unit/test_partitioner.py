"""Partitions of keys, against other implementations."""

from __future__ import annotations

import zlib

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.partitioner import Partitioner, murmur2
from streamer.errors import SettingsError


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(data: bytes, signed: int) -> None:
    """Expectations: UtilsTest.testMurmur2 of Apache Kafka."""
    assert murmur2(data) == signed % 2**32


@given(st.binary(max_size=40), st.integers(1, 50))
def test_murmur2_partitions_are_those_of_aiokafka(key: bytes, n: int) -> None:
    every = list(range(n))
    assert Partitioner("murmur2").partition(key, n) == DefaultPartitioner()(key, every, every)


@given(st.binary(min_size=1, max_size=40), st.integers(1, 50))
def test_crc32_partitions_are_those_of_librdkafka(key: bytes, n: int) -> None:
    assert Partitioner("crc32").partition(key, n) == zlib.crc32(key) % n


def test_off_produces_as_kafka_does_by_default() -> None:
    assert Partitioner("off").partition(b"foobar", 7) == Partitioner("murmur2").partition(b"foobar", 7)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match="'md5' is unknown: use one of murmur2, crc32, off"):
        Partitioner("md5")  # type: ignore[arg-type]
