"""What the pipeline may expect of a state store; RocksDB must behave as a dictionary does."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from faust.types import TP

from streamer.core.pace import Pace
from streamer.core.state_records import SCHEMA, applied, chunks_prefix, head_key, segments_prefix
from streamer.core.stored import KeyRun, LookedUp
from streamer.errors import StateError, UnknownSchema
from streamer.transport.app import BatchApp
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.state_store import (
    BLOCK_CACHE_BYTES,
    CEILING_KEY,
    MEMTABLES_BYTES,
    BatchStore,
    shared_memory,
)

P = 3


def record(applied: int, body: bytes = b"") -> bytes:
    return struct.pack("<BBq", SCHEMA, ord("h"), applied) + body


class MemoryStore:
    """The contract, written down on dictionaries."""

    def __init__(self) -> None:
        self.stored: dict[int, dict[bytes, bytes]] = {}
        self.staged: dict[int, list[dict[bytes, bytes]]] = {}
        self.regressed: dict[int, set[bytes]] = {P: set()}
        self.offsets: dict[int, int] = {}

    def read(self, partition: int, key: bytes) -> bytes | None:
        for layer in reversed(self.staged.get(partition, [])):
            if key in layer:
                return layer[key]
        return self.stored.get(partition, {}).get(key)

    def reader(self, partition: int) -> Any:
        return LookedUp(lambda key: self.read(partition, key))

    def stage(self, partition: int, changes: dict[bytes, bytes]) -> None:
        self.staged.setdefault(partition, []).append(changes)

    def unstage(self, partition: int, changes: dict[bytes, bytes]) -> None:
        self.staged[partition] = [each for each in self.staged.get(partition, []) if each is not changes]

    def drop_staged(self) -> None:
        self.staged.clear()

    def write(self, partition: int, changes: dict[bytes, bytes], changelog_offset: int) -> None:
        self.stored.setdefault(partition, {}).update(changes)
        self.offsets[partition] = changelog_offset

    def persisted_offset(self, tp: TP) -> int | None:
        return self.offsets.get(tp.partition)

    def replay(self, partition: int, keys: Any, values: Any, changelog_offset: int) -> None:
        table, regressed = self.stored.setdefault(partition, {}), self.regressed[partition]
        for key, new in zip(keys, values, strict=True):
            have = table.get(key)
            if new is None:
                table.pop(key, None)
                regressed.discard(key)
            elif have is not None and struct.unpack_from("<q", have, 2) > struct.unpack_from("<q", new, 2):
                regressed.add(key)
            else:
                table[key] = new
                regressed.discard(key)
        self.offsets[partition] = changelog_offset


@pytest.fixture
def app(tmp_path: Path) -> BatchApp:
    return app_at(tmp_path)


def app_at(folder: Path | str) -> BatchApp:
    return BatchApp(
        "contract",
        batch_topics=frozenset({"events"}),
        run_records=10,
        pace=Pace(0.0),
        producer=BatchProducer(),
        broker="kafka://127.0.0.1:1",
        datadir=str(folder),
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


def replay(store: Any, first: int, *records: tuple[bytes, bytes | None]) -> None:
    """Records of the log from offset `first` on, as one run."""
    keys, values = [key for key, _ in records], [value for _, value in records]
    store.replay(P, keys, values, first + len(records) - 1)


def test_staged_values_are_read_until_their_batch_takes_them_out(store: Any) -> None:
    first, second = {b"hu": record(2)}, {b"hu": record(3), b"hw": record(4)}
    store.write(P, {b"hu": record(1)}, 10)
    store.stage(P, first)
    assert store.read(P, b"hu") == record(2)
    store.stage(P, second)
    assert store.reader(P).get(b"hu") == record(3)
    store.unstage(P, first)
    assert store.reader(P).get(b"hu") == record(3)
    store.unstage(P, dict(second))  # another batch with the same content
    assert store.read(P, b"hw") == record(4)
    store.unstage(P, second)
    assert store.read(P, b"hu") == record(1)
    assert store.read(P, b"hw") is None


def test_runs_of_neighbours_are_what_look_ups_find(store: Any) -> None:
    """Whatever is missing, staged, deleted, or lies between a run's keys, and whoever else's records lie around it."""
    rng = random.Random(0)
    users = [b"u", b"u\0", b"us", b"v", "\U0010ffff".encode()]
    prefixes = [prefix(user) for user in users for prefix in (chunks_prefix, segments_prefix)]
    runs = [KeyRun(prefix, n) for prefix in prefixes for n in range(1, 10)]
    everything = [*map(head_key, users), *(key for prefix in prefixes for key in KeyRun(prefix, 11).keys)]
    missing = 0
    for number in range(60):
        changes = {key: record(number, bytes([n])) for n, key in enumerate(everything) if rng.random() < 0.3}
        if number % 5 < 3:
            store.write(P, changes, 2 * number)
        elif number % 5 == 3:
            store.stage(P, changes)
        else:
            store.replay(P, *zip(*[(key, None) for key in changes], strict=True), 2 * number)
        if number % 17 == 16:
            store.drop_staged()
        rng.shuffle(runs)
        expected = [[store.read(P, key) for key in run.keys] for run in runs]
        assert store.reader(P).runs(runs) == expected
        missing += sum(None in values for values in expected)
    assert 0.2 < missing / len(runs) / 60 < 0.8


def test_after_a_revoke_nothing_staged_is_left(store: Any) -> None:
    store.stage(P, {b"hu": record(2)})
    store.drop_staged()
    assert store.read(P, b"hu") is None


def test_values_and_changelog_offset_are_written_together(store: Any) -> None:
    assert store.persisted_offset(TP("log", P)) is None
    store.write(P, {b"hu": record(1), b"hv": record(2)}, 41)
    assert (store.read(P, b"hu"), store.read(P, b"hv")) == (record(1), record(2))
    assert store.persisted_offset(TP("log", P)) == 41


def test_recovery_keeps_the_highest_applied_offset(store: Any) -> None:
    replay(store, 0, (b"hu", record(5)), (b"hv", record(6)))
    replay(store, 2, (b"hu", record(4, b"zombie")))
    assert store.read(P, b"hu") == record(5)
    assert set(store.regressed[P]) == {b"hu"}, "the log's last record must be repaired"
    assert store.persisted_offset(TP("log", P)) == 2
    replay(store, 3, (b"hu", record(7)))
    assert store.read(P, b"hu") == record(7)
    assert not store.regressed[P]


def test_within_a_run_too(store: Any) -> None:
    replay(store, 0, (b"hu", record(5)), (b"hu", record(4)), (b"hv", record(6)), (b"hw", record(3)))
    assert [store.read(P, key) for key in (b"hu", b"hv", b"hw")] == [record(5), record(6), record(3)]
    assert set(store.regressed[P]) == {b"hu"}
    replay(store, 4, (b"hw", record(2)), (b"hw", record(8)), (b"hu", record(5)))
    assert store.read(P, b"hw") == record(8)
    assert not store.regressed[P]


def test_of_equal_applied_offsets_the_later_record_wins(store: Any) -> None:
    """A refresh without an event writes a head again."""
    replay(store, 0, (b"hu", record(5, b"a")), (b"hu", record(5, b"b")))
    assert store.read(P, b"hu") == record(5, b"b")


def test_a_tombstone_deletes_and_what_follows_it_is_kept(store: Any) -> None:
    replay(store, 0, (b"hu", record(5)), (b"hv", record(6)))
    replay(store, 2, (b"hu", record(4)), (b"hu", None), (b"hv", None), (b"hv", record(1)))
    assert store.read(P, b"hu") is None
    assert store.read(P, b"hv") == record(1)
    assert not store.regressed[P]
    assert store.persisted_offset(TP("log", P)) == 5


def test_what_was_written_in_between_is_not_overwritten_by_an_older_record(store: Any) -> None:
    replay(store, 0, (b"hu", record(1)), (b"hv", record(1)))
    store.write(P, {b"hu": record(9), b"hv": record(3)}, 7)
    replay(store, 8, (b"hu", record(8)), (b"hv", record(4)))
    assert (store.read(P, b"hu"), store.read(P, b"hv")) == (record(9), record(4))
    assert set(store.regressed[P]) == {b"hu"}


@pytest.fixture
def rocks(app: BatchApp) -> Iterator[BatchStore]:
    store = app.users_table("users", 8).data
    assert isinstance(store, BatchStore)
    yield store
    for _, db in store.partitions():
        db.close()


def reopened(store: BatchStore) -> None:
    """As after a restart of the process."""
    store._db_for_partition(P)
    tp = TP(store.table.changelog_topic_name, P)  # type: ignore[attr-defined]
    store.revoke_partitions(store.table, {tp})
    store._db_for_partition(P)


def test_an_older_record_is_known_as_such_after_a_restart(rocks: BatchStore) -> None:
    writes: list[Callable[[], None]] = [
        lambda: replay(rocks, 0, (b"hu", record(9)), (b"hv", record(2))),
        lambda: rocks.write(P, {b"hu": record(9), b"hv": record(2)}, 1),
    ]
    for write in writes:
        reopened(rocks)
        write()
        reopened(rocks)
        replay(rocks, 2, (b"hu", record(8)), (b"hv", record(3)))
        assert (rocks.read(P, b"hu"), rocks.read(P, b"hv")) == (record(9), record(3))
        assert set(rocks.regressed[P]) == {b"hu"}


def test_a_table_of_a_version_that_kept_no_ceiling_is_looked_up(rocks: BatchStore) -> None:
    rocks.write(P, {b"hu": record(9)}, 0)
    rocks._db_for_partition(P).delete(CEILING_KEY)
    reopened(rocks)
    replay(rocks, 1, (b"hu", record(8)))
    assert rocks.read(P, b"hu") == record(9)


def test_a_partition_can_be_opened_again_after_its_runs_were_read(rocks: BatchStore) -> None:
    """An iterator that is still there keeps the database open, and locked."""
    run = KeyRun(segments_prefix(b"u"), 5)
    rocks.write(P, {key: record(1) for key in run.keys}, 0)
    reader = rocks.reader(P)
    assert reader.runs([run]) == [[record(1)] * 5]
    with pytest.raises(TypeError) as failed:
        reader.runs([run, cast(Any, None)])
    reopened(rocks)
    assert rocks.reader(P).runs([run]) == [[record(1)] * 5]
    assert failed.traceback  # kept until here: frames keep their variables


def test_records_of_a_revoked_partition_are_dropped(rocks: BatchStore) -> None:
    replay(rocks, 0, (b"hu", record(1)))
    assert not list(rocks.partitions())


@pytest.mark.parametrize("damaged", [b"?", b"\1x" + bytes(8), b"\x63h" + bytes(8)])
def test_an_unreadable_changelog_record_is_refused(rocks: BatchStore, damaged: bytes) -> None:
    rocks._db_for_partition(P)
    with pytest.raises((StateError, UnknownSchema)):
        replay(rocks, 0, (b"hv", record(1)), (b"hu", damaged))
    assert rocks.read(P, b"hv") is None
    assert rocks.persisted_offset(TP("log", P)) is None


def test_one_block_cache_is_shared_by_all_partitions(rocks: BatchStore) -> None:
    for partition in range(4):
        rocks.write(partition, {b"h%d" % n: record(n, bytes(500)) for n in range(2000)}, 0)
        rocks._db_for_partition(partition).flush()
        assert rocks.read(partition, b"h7") is not None
    assert 0 < shared_memory().blocks.get_usage() <= BLOCK_CACHE_BYTES
    assert 0 < shared_memory().memtables.get_usage() < 1.5 * MEMTABLES_BYTES


def test_a_write_in_another_thread_hides_no_value_from_readers(rocks: BatchStore) -> None:
    """Staged, written, unstaged in turn, while a reader looks on: the value never falls back."""
    stop, seen = threading.Event(), [0]
    rocks.write(P, {b"hu": record(0)}, 0)

    def look() -> None:
        while not stop.is_set():
            value = rocks.reader(P).get(b"hu")
            assert value is not None
            offset = applied(value)
            assert offset >= seen[0]
            seen[0] = offset

    with ThreadPoolExecutor(2) as threads:
        looking = threads.submit(look)
        for n in range(1, 400):
            changes = {b"hu": record(n)}
            rocks.stage(P, changes)
            threads.submit(rocks.write, P, changes, n).result()
            rocks.unstage(P, changes)
        stop.set()
        looking.result()
    assert rocks.persisted_offset(TP("log", P)) == 399


CRASH = """
import os, sys
sys.path[:0] = [{root!r}, {here!r}]
import test_state_store as contract
store = contract.app_at(sys.argv[1]).users_table("users", 8).data
store._db_for_partition(contract.P)
contract.replay(store, 0, (b"hu", contract.record(1)), (b"hv", contract.record(2)))
if sys.argv[2] == "flushed":
    store._db_for_partition(contract.P).flush()
store.write(contract.P, {{b"hw": contract.record(3)}}, 2)
os._exit(9)
"""


@pytest.mark.parametrize("then", ["flushed", "not flushed"])
def test_a_crash_leaves_the_table_as_it_was_at_its_offset(tmp_path: Path, then: str) -> None:
    """Writes are in no log of RocksDB's: they may be missing, but with their offset, and then come back by replaying."""
    here = Path(__file__).parent
    program = CRASH.format(root=str(here.parents[1]), here=str(here))
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), then], check=False)
    assert done.returncode == 9
    store = app_at(tmp_path).users_table("users", 8).data
    assert isinstance(store, BatchStore)
    log = [(b"hu", record(1)), (b"hv", record(2)), (b"hw", record(3))]
    offset = store.persisted_offset(TP("log", P))
    assert offset == (1 if then == "flushed" else None)
    kept = 0 if offset is None else offset + 1
    assert [store.read(P, key) for key, _ in log] == [value for _, value in log[:kept]] + [None] * (3 - kept)
    replay(store, kept, *log[kept:])
    assert [store.read(P, key) for key, _ in log] == [value for _, value in log]
    for _, db in store.partitions():
        db.close()


def test_compaction_waits_until_the_replaying_ends(rocks: BatchStore) -> None:
    db = rocks._db_for_partition(P)

    def files(level: int) -> int:
        return int(db.property_value(f"rocksdb.num-files-at-level{level}"))

    for run in range(12):
        keys = [b"h%d-%d" % (n, run) for n in range(50)]
        rocks.replay(P, keys, [record(run, bytes(200))] * 50, run, bulk=True)
        db.flush()
    assert (files(0), files(1)) == (12, 0)
    rocks.end_replay(P)
    deadline = time.monotonic() + 30
    while files(0) > 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files(0) <= 4
    assert rocks.read(P, b"h7-3") == record(3, bytes(200))
