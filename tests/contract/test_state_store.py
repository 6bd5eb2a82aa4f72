"""What the pipeline may expect of a state store; RocksDB must behave as a dictionary does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streamer.errors import StateError
from streamer.transport.app import BatchApp
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.state_store import BatchStore

P = 3


def record(applied: int, body: bytes = b"") -> bytes:
    return struct.pack("<BBq", 1, ord("h"), applied) + body


class MemoryStore:
    """The contract, written down on dictionaries."""

    def __init__(self) -> None:
        self.stored: dict[int, dict[bytes, bytes]] = {}
        self.staged: dict[int, dict[bytes, tuple[bytes, object]]] = {}
        self.regressed: dict[int, set[bytes]] = {P: set()}
        self.offsets: dict[int, int] = {}

    def read(self, partition: int, key: bytes) -> bytes | None:
        staged = self.staged.get(partition, {}).get(key)
        return staged[0] if staged else self.stored.get(partition, {}).get(key)

    def reader(self, partition: int) -> Any:
        return lambda key: self.read(partition, key)

    def stage(self, partition: int, changes: Any, token: object) -> None:
        self.staged.setdefault(partition, {}).update({key: (value, token) for key, value in changes})

    def unstage(self, partition: int, keys: Any, token: object) -> None:
        mine = self.staged.get(partition, {})
        self.staged[partition] = {k: v for k, v in mine.items() if k not in set(keys) or v[1] is not token}

    def drop_staged(self) -> None:
        self.staged.clear()

    def write(self, partition: int, changes: dict[bytes, bytes], changelog_offset: int) -> None:
        self.stored.setdefault(partition, {}).update(changes)
        self.offsets[partition] = changelog_offset

    def persisted_offset(self, tp: TP) -> int | None:
        return self.offsets.get(tp.partition)

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> None:
        for event in batch:
            message = event.message
            have, new = self.stored.setdefault(message.partition, {}).get(message.key), message.value
            if have is not None and struct.unpack_from("<q", have, 2) > struct.unpack_from("<q", new, 2):
                self.regressed[message.partition].add(message.key)
            else:
                self.write(message.partition, {message.key: new}, message.offset)
                self.regressed[message.partition].discard(message.key)
            self.offsets[message.partition] = message.offset


@pytest.fixture
def app(tmp_path: Path) -> BatchApp:
    return BatchApp(
        "contract",
        batch_topics=frozenset({"events"}),
        run_records=10,
        producer=BatchProducer(),
        broker="kafka://127.0.0.1:1",
        datadir=str(tmp_path),
        topic_partitions=8,
    )


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    app = request.getfixturevalue("app")
    rocks = app.users_table("users", 8).data
    assert isinstance(rocks, BatchStore)
    rocks._db_for_partition(P)
    yield rocks
    for _, db in rocks.partitions():
        db.close()


def changelog(*records: tuple[int, bytes, bytes]) -> list[Any]:
    return [
        SimpleNamespace(message=SimpleNamespace(partition=P, offset=offset, key=key, value=value))
        for offset, key, value in records
    ]


def test_staged_values_are_read_until_their_batch_takes_them_out(store: Any) -> None:
    first, second = object(), object()
    store.write(P, {b"hu": record(1)}, 10)
    store.stage(P, [(b"hu", record(2))], first)
    assert store.read(P, b"hu") == record(2)
    store.stage(P, [(b"hu", record(3))], second)
    store.unstage(P, [b"hu"], first)
    assert store.reader(P)(b"hu") == record(3)
    store.unstage(P, [b"hu"], second)
    assert store.read(P, b"hu") == record(1)
    assert store.read(P, b"hv") is None


def test_after_a_revoke_nothing_staged_is_left(store: Any) -> None:
    store.stage(P, [(b"hu", record(2))], object())
    store.drop_staged()
    assert store.read(P, b"hu") is None


def test_values_and_changelog_offset_are_written_together(store: Any) -> None:
    assert store.persisted_offset(TP("log", P)) is None
    store.write(P, {b"hu": record(1), b"hv": record(2)}, 41)
    assert (store.read(P, b"hu"), store.read(P, b"hv")) == (record(1), record(2))
    assert store.persisted_offset(TP("log", P)) == 41


def test_recovery_keeps_the_highest_applied_offset(store: Any) -> None:
    store.apply_changelog_batch(changelog((0, b"hu", record(5)), (1, b"hv", record(6))), None, None)
    store.apply_changelog_batch(changelog((2, b"hu", record(4, b"zombie"))), None, None)
    assert store.read(P, b"hu") == record(5)
    assert set(store.regressed[P]) == {b"hu"}, "the log's last record must be repaired"
    assert store.persisted_offset(TP("log", P)) == 2
    store.apply_changelog_batch(changelog((3, b"hu", record(7))), None, None)
    assert store.read(P, b"hu") == record(7)
    assert not store.regressed[P]


def test_of_equal_applied_offsets_the_later_record_wins(store: Any) -> None:
    """A refresh without an event writes a head again."""
    store.apply_changelog_batch(
        changelog((0, b"hu", record(5, b"a")), (1, b"hu", record(5, b"b"))), None, None
    )
    assert store.read(P, b"hu") == record(5, b"b")


def test_an_unreadable_changelog_record_ends_the_worker(
    app: BatchApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust's recovery would log it and go on with a hole in the table."""
    fatal: list[BaseException] = []
    monkeypatch.setattr(app, "die", fatal.append)
    store = app.users_table("users", 8).data
    assert isinstance(store, BatchStore)
    db = store._db_for_partition(P)
    store.apply_changelog_batch(changelog((0, b"hu", record(5))), None, None)
    with pytest.raises(StateError):
        store.apply_changelog_batch(changelog((1, b"hu", b"?")), None, None)
    assert len(fatal) == 1
    db.close()
