"""Which partition a key belongs to, as Kafka's clients compute it.

Java, aiokafka and Faust use MurmurHash2 (`murmur2`); librdkafka (kcat, confluent-kafka, most other languages)
uses CRC32 (`crc32`) unless told `partitioner=murmur2_random`. Mixed, one user lands on two partitions.
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, get_args

from streamer.errors import SettingsError

Kind = Literal["murmur2", "crc32", "off"]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_U32 = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 as an unsigned 32-bit number: the bits of `Utils.murmur2` in Kafka's Java client."""
    length = len(data)
    h = _SEED ^ length
    words = length >> 2
    for k in struct.unpack_from(f"<{words}I", data):
        k = k * _M & _U32
        h = (h * _M ^ (k ^ k >> 24) * _M) & _U32
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _U32
    h = (h ^ h >> 13) * _M & _U32
    return h ^ h >> 15


class Partitioner:
    """The partitioner that producers of `events` must use.

    With `off` nobody is held to one; what Headwater itself produces then goes where murmur2, Kafka's default,
    puts it.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: Kind) -> None:
        """Raises SettingsError on an unknown kind."""
        if kind not in get_args(Kind):
            raise SettingsError(f"partitioner {kind!r} is unknown: use one of {', '.join(get_args(Kind))}")
        self.kind: Kind = kind

    def partition(self, key: bytes, n: int) -> int:
        """The partition of a key among `n` of them."""
        if self.kind == "crc32":
            return zlib.crc32(key) % n  # librdkafka's `consistent_random`, keys present
        return (murmur2(key) & 0x7FFFFFFF) % n  # toPositive() of Java's DefaultPartitioner

    def __repr__(self) -> str:
        return f"Partitioner({self.kind!r})"
