"""Whatever a producer sends: every good record is absorbed, every bad one is in the dead letters byte for byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from streamer.core import dead_letters
from streamer.core.partitioner import Partitioner
from streamer.core.protocol import ItemRecord, encode
from streamer.core.rejections import Reason
from streamer.transport.log_reader import LogRecord, read_log
from tests.integration.stream import Deployment, events
from tests.integration.workers import wait_until

PARTITIONS, GOOD, USERS, ROUNDS = 8, 3_000, 60, 50
BATCH_BYTES = 900_000
GZIP, ZSTD = 1, 4
NOW_MS = int(time.time() * 1000)

Headers = tuple[tuple[str, bytes | None], ...]


class RawKey(str):
    """A header key that is no UTF-8; a tolerant reader shows it as `caf?`."""

    def encode(self, *_: object) -> bytes:
        return b"caf\xe9"


@dataclass(frozen=True)
class Sent:
    """A record for one partition; `reason`: why it must be rejected, None for a good one."""

    key: bytes | None
    value: bytes | None
    partition: int
    reason: Reason | None = None
    headers: Headers = ()
    codec: int = 0
    """In which its batch is compressed; 0 = none."""
    cut: bool = False
    """Its letter is too large for any broker."""


def home(key: bytes | None) -> int:
    return Partitioner("murmur2").partition(key or b"", PARTITIONS)


def record(key: bytes | None, value: bytes | None, reason: Reason | None, **more: object) -> Sent:
    return Sent(key, value, home(key), reason, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what is sent
def hostile_events(n: int) -> Iterator[Sent]:
    """One of every kind; `n` varies users and ids."""
    user = f"u{n % USERS}"
    key = user.encode()
    base: dict[str, object] = {
        "event_id": f"bad{n}",
        "user_id": user,
        "type": "view",
        "timestamp_ms": NOW_MS,
        "item_id": "i1",
    }

    def wrong(reason: Reason, **fields: object) -> Sent:
        return record(key, json.dumps(base | fields).encode(), reason)

    rng = np.random.default_rng(n)
    text = json.dumps(base).encode()
    for value in (
        None, b"", b"{", text[:-1], text + b"}", b"\xff" + text, b'{"a": NaN}', b"not json",
        rng.bytes(int(rng.integers(1, 400))) + b"\x00",
        b"[" * 30_000, b"[" * 30_000 + b"]" * 30_000, text[:-1] + b', "context": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        text[:-1] + b', "extra": "\xe9"}', b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ):  # fmt: skip
        yield record(key, value, Reason.NOT_JSON)
    for value in (b"[]", b"[1, 2]", b"42", b'"text"', b"null", b"true", b"1e999"):
        yield record(key, value, Reason.NOT_AN_OBJECT)
    for name in ("event_id", "user_id", "type", "timestamp_ms"):
        yield record(
            key, json.dumps({k: v for k, v in base.items() if k != name}).encode(), Reason.MISSING_FIELD
        )
    yield wrong(Reason.MISSING_FIELD, type="follow")
    yield wrong(Reason.SELF_TARGET, type="follow", target_user_id=user)
    yield record(key, b"{}", Reason.MISSING_FIELD)
    mistyped = {
        "event_id": 5,
        "user_id": ["u"],
        "type": None,
        "timestamp_ms": "now",
        "item_id": {},
        "value": "4",
        "text": 1,
    }
    for name, bad in mistyped.items():
        yield wrong(Reason.WRONG_TYPE, **{name: bad})
    yield wrong(Reason.WRONG_TYPE, timestamp_ms=1.5)
    for name, bad_id in {
        "event_id": "",
        "item_id": "x" * 257,
        "session_id": "é" * 129,
        "target_user_id": "",
    }.items():
        yield wrong(Reason.BAD_ID, **{name: bad_id})
    yield record(b"", json.dumps(base | {"user_id": ""}).encode(), Reason.BAD_ID)
    for kind in ("teleport", "", "VIEW", "vïew"):
        yield wrong(Reason.UNKNOWN_EVENT_TYPE, type=kind)
    for time_ms in (-1, 10**15, NOW_MS + 3 * 86_400_000):
        yield wrong(Reason.TIMESTAMP_OUT_OF_RANGE, timestamp_ms=time_ms)
    yield record(key, text.replace(str(NOW_MS).encode(), b"1e999"), Reason.TIMESTAMP_OUT_OF_RANGE)
    for value_of in (11, -1, 1e39):
        yield wrong(Reason.VALUE_OUT_OF_RANGE, type="rating", value=value_of)
    for number in (b"1e999", b"-1e999", b"9" * 400):
        yield record(key, text[:-1] + b', "value": ' + number + b"}", Reason.VALUE_OUT_OF_RANGE)
    yield wrong(Reason.TEXT_TOO_LONG, type="search", text="é" * 4097)
    yield wrong(Reason.RECORD_TOO_LARGE, text="x" * 66_000)
    for other in (None, b"somebody", b"\xff\xfe", key + b" ", key * 500):
        yield record(other, text, Reason.KEY_MISMATCH)
    yield Sent(None, None, n % PARTITIONS, Reason.NOT_JSON)
    yield Sent(key, text, (home(key) + 1) % PARTITIONS, Reason.WRONG_PARTITION)
    # Headers: names that are ours, repeated, empty or no UTF-8, and a value that is null.
    twice = (("twice", b"1"), ("twice", b""))
    headers = (
        (dead_letters.REASON, b"mine"),
        ("", b"\xff"),
        *twice,
        ("null", None),
        (RawKey("caf?"), b"\xe9"),
    )
    yield record(key, b"headers", Reason.NOT_JSON, headers=headers)


def large_events() -> Iterator[Sent]:
    """Up to the largest that the broker takes, and some that are larger once unpacked."""
    for n, size in enumerate((65_537, 500_000, 1_048_000)):
        yield record(b"u%d" % n, b'"' + b"x" * (size - 2) + b'"', Reason.RECORD_TOO_LARGE)
    yield record(b"u3", b" " * 3_000_000, Reason.RECORD_TOO_LARGE, codec=GZIP)
    yield record(b"u4", b"[" * 20_000_000, Reason.RECORD_TOO_LARGE, codec=GZIP)
    block = np.random.default_rng(0).bytes(700_000)  # zstd sees the repetition, gzip does not
    yield record(b"u5", block * 10, Reason.RECORD_TOO_LARGE, codec=ZSTD, cut=True)


def good_events() -> Iterator[Sent]:
    """With headers that are no UTF-8 now and then."""
    for n, event in enumerate(events(GOOD, USERS)):
        headers: Headers = ((RawKey("caf?"), b"\xe9"),) if n % 500 == 250 else ()
        yield record(str(event["user_id"]).encode(), json.dumps(event).encode(), None, headers=headers)


def mixed(good: Iterable[Sent], bad: Iterable[Sent], seed: int) -> list[Sent]:
    """The good ones in order, the bad ones anywhere between them."""
    rng = np.random.default_rng(seed)
    good_ones, bad_ones = list(good), list(bad)
    rng.shuffle(bad_ones)
    places = [(float(i), one) for i, one in enumerate(good_ones)]
    places += [(float(rng.random() * len(good_ones)), one) for one in bad_ones]
    return [one for _, one in sorted(places, key=lambda place: place[0])]


# ---------------------------------------------------------------------- how it is sent
async def produce(brokers: str, topic: str, records: list[Sent]) -> dict[tuple[int, int], Sent]:
    """Raw record batches, in order; (partition, offset) → record."""
    landed: dict[tuple[int, int], Sent] = {}
    async with AIOKafkaProducer(bootstrap_servers=brokers, max_batch_size=BATCH_BYTES) as producer:
        for partition in range(PARTITIONS):
            for batch in batches([r for r in records if r.partition == partition]):
                builder = producer.create_batch()
                builder._builder = _DefaultRecordBatchBuilderPy(
                    magic=2, compression_type=batch[0].codec, is_transactional=False,
                    producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=BATCH_BYTES,
                )  # fmt: skip
                for each in batch:
                    added = builder.append(
                        timestamp=NOW_MS, key=each.key, value=each.value, headers=list(each.headers)
                    )
                    assert added is not None
                builder.close()
                metadata = await (await producer.send_batch(builder, topic, partition=partition))
                landed.update({(partition, metadata.offset + n): each for n, each in enumerate(batch)})
    return landed


def batches(records: list[Sent]) -> Iterator[list[Sent]]:
    """Cut so that each fits a request; a compressed record has a batch of its own."""
    batch: list[Sent] = []
    size = 0
    for each in records:
        need = len(each.key or b"") + len(each.value or b"") + 200
        if batch and (each.codec or batch[0].codec or size + need > BATCH_BYTES // 2):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += need
    if batch:
        yield batch


# ---------------------------------------------------------------------- what must come of it
def check_dead_letters(letters: list[LogRecord], topic: str, landed: dict[tuple[int, int], Sent]) -> None:
    """One letter per bad record: its bytes and headers as they came, and ours that say why and whence."""
    bad = {place: each for place, each in landed.items() if each.reason is not None}
    found: dict[tuple[int, int], LogRecord] = {}
    for letter in letters:
        ours = dict(letter.headers[-5:])
        if ours[dead_letters.SOURCE_TOPIC].decode() == topic:
            place = int(ours[dead_letters.SOURCE_PARTITION]), int(ours[dead_letters.SOURCE_OFFSET])
            assert place not in found, f"{place} was buried twice"
            found[place] = letter
    assert found.keys() == bad.keys()
    for place, sent in bad.items():
        letter = found[place]
        assert letter.key == sent.key
        assert sent.value is None or letter.value is not None
        assert letter.value == (
            sent.value[: len(letter.value or b"")] if sent.cut and sent.value else sent.value
        ), place
        ours = dict(letter.headers[-5:])
        assert list(ours) == [
            dead_letters.REASON, dead_letters.DETAIL, dead_letters.SOURCE_TOPIC, dead_letters.SOURCE_PARTITION,
            dead_letters.SOURCE_OFFSET,
        ]  # fmt: skip
        original = tuple((str(name), value or b"") for name, value in sent.headers)
        if sent.cut:
            original = (
                (dead_letters.CUT_FROM, f"key 2, value {len(sent.value or b'')}, headers 5".encode()),
            )
        assert letter.headers[:-5] == original
        shown = (sent.value or b"")[:80]
        assert ours[dead_letters.REASON].decode() == sent.reason, f"{shown!r}: {ours[dead_letters.DETAIL]!r}"
        assert 0 < len(ours[dead_letters.DETAIL]) < 2_000


def dead(deployment: Deployment, expected: int) -> list[LogRecord]:
    """All dead letters, once there are so many."""
    topic = deployment.settings.topic("dead-letters")
    found: list[LogRecord] = []

    def enough() -> bool:
        found[:] = read_log(deployment.brokers, topic)
        alive = [w.name for w in deployment.workers if w.alive]
        assert alive, f"the worker died:\n{deployment.workers[0].log()[-4000:]}"
        return len(found) >= expected

    wait_until(
        enough, 90, lambda: f"{expected} dead letters; worker:\n{deployment.workers[0].log()[-2000:]}", 1.0
    )
    return found


@pytest.fixture
def _parser_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own reading of the topics turns this process to the tolerant parser; put it back for other tests."""
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)


@pytest.mark.usefixtures("_parser_put_back")
def test_hostile_events(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    assert worker.process is not None
    pid = worker.process.pid
    bad = [one for n in range(ROUNDS) for one in hostile_events(n)]
    assert {one.reason for one in bad} == set(Reason)
    bad += large_events()
    topic = deployment.settings.topic("events")
    landed = asyncio.run(produce(deployment.brokers, topic, mixed(good_events(), bad, seed=1)))
    letters = dead(deployment, len(bad))
    deployment.wait_absorbed(GOOD)
    assert deployment.absorbed() == GOOD, "a bad event was absorbed"
    check_dead_letters(letters, topic, landed)
    deployment.check_exact()
    assert worker.alive
    assert worker.process.pid == pid


# ---------------------------------------------------------------------- items
def hostile_items(n: int) -> Iterator[Sent]:
    item_id = f"bad{n}"
    key = item_id.encode()
    base: dict[str, object] = {"item_id": item_id, "title": "A title"}
    text = json.dumps(base).encode()

    def wrong(reason: Reason, **fields: object) -> Sent:
        return record(key, json.dumps(base | fields).encode(), reason)

    for value in (
        b"",
        b"{",
        b"\xff\x00",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        text[:-1] + b', "more": "\xe9"}',
    ):
        yield record(key, value, Reason.NOT_JSON)
    for value in (b"[]", b"null", b"1"):
        yield record(key, value, Reason.NOT_AN_OBJECT)
    yield record(key, b'{"title": "x"}', Reason.MISSING_FIELD)
    yield record(key, json.dumps({"item_id": item_id}).encode(), Reason.MISSING_FIELD)
    for name, bad in {
        "title": None,
        "categories": "a",
        "price": "1",
        "available": 1,
        "vectors": [1.0],
    }.items():
        yield wrong(Reason.WRONG_TYPE, **{name: bad})
    yield record(b"", json.dumps(base | {"item_id": ""}).encode(), Reason.BAD_ID)
    yield wrong(Reason.BAD_ID, categories=["a", ""])
    yield record(b"x" * 300, None, Reason.BAD_ID)
    yield record(b"\xff", None, Reason.KEY_MISMATCH)
    yield record(b"another", text, Reason.KEY_MISMATCH)
    yield wrong(Reason.VALUE_OUT_OF_RANGE, price=-0.5)
    yield wrong(Reason.VALUE_OUT_OF_RANGE, categories=[f"c{i}" for i in range(65)])
    yield wrong(Reason.VALUE_OUT_OF_RANGE, vectors={"image": [1e300]})
    yield record(key, text[:-1] + b', "price": 1e999}', Reason.VALUE_OUT_OF_RANGE)
    yield wrong(Reason.TEXT_TOO_LONG, title="x" * 9_000)
    yield wrong(Reason.TEXT_TOO_LONG, text="x" * 70_000)
    yield record(key, b"{", Reason.NOT_JSON, headers=((RawKey("caf?"), b"\xe9"), ("null", None)))


@pytest.mark.usefixtures("_parser_put_back")
def test_hostile_items(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    bad = [one for n in range(20) for one in hostile_items(n)]
    bad.append(record(b"huge", b" " * 3_000_000, Reason.RECORD_TOO_LARGE, codec=GZIP))
    items = [
        ItemRecord(f"good{n}", f"A good title {n}", text="long " * (n * 100), categories=["new"])
        for n in range(60)
    ]
    good = [record(item.item_id.encode(), encode(item), None) for item in items]
    topic = deployment.settings.topic("items")
    landed = asyncio.run(produce(deployment.brokers, topic, mixed(good, bad, seed=2)))
    check_dead_letters(dead(deployment, len(bad)), topic, landed)
    vectors = deployment.settings.topic("item-vectors")
    wanted = {f"i{n}".encode() for n in range(60)} | {item.item_id.encode() for item in items}
    wait_until(
        lambda: {r.key for r in read_log(deployment.brokers, vectors)} >= wanted, 60, "the good items", 0.5
    )
    assert {r.key for r in read_log(deployment.brokers, vectors)} == wanted
    assert worker.alive
    assert worker.ready_count() == 1
