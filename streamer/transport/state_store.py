"""RocksDB partitions of the users table: read through an overlay, written in batches together with the changelog offset.

Faust's own store writes a value per call and stores its changelog offset apart from the values, so a crash between the
two replays everything. Here one `WriteBatch` holds the values and Faust's offset key, and is written only after the
broker has acknowledged the same records in the changelog. Until then an in-memory overlay answers reads.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import rocksdict
from faust.stores.rocksdb import Store as FaustRocksStore
from faust.tables import Table
from faust.types import TP

from streamer.core.replay import EMPTY, UNKNOWN, Replay, applied_offsets
from streamer.transport.partition_reader import PartitionReader

if TYPE_CHECKING:
    from streamer.transport.app import BatchApp

BLOCK_CACHE_BYTES = 64 << 20
"""One block cache for all partitions (Faust's default is 2 GiB per partition database)."""
MEMTABLE_BYTES = 8 << 20
MEMTABLES_BYTES = 64 << 20
"""Of all partitions together; above it RocksDB flushes sooner."""

WRITE = rocksdict.WriteOptions()
"""Without RocksDB's own log: what a crash takes from the memory comes back out of the changelog, from the offset on that was
last flushed with its values (one memtable holds both, so no flush can part them). Closing flushes."""
cast(Any, WRITE).disable_wal = True

CEILING_KEY = b"__headwater\0ceiling__"
"""Stored with every write: the highest applied offset of the partition's records, so that replaying need not read them."""


class Memory:
    """What the partition databases of a process share: one block cache, and one bound for their memtables."""

    def __init__(self) -> None:
        self.blocks = rocksdict.Cache(BLOCK_CACHE_BYTES)
        self.memtables = rocksdict.WriteBufferManager(MEMTABLES_BYTES, False)


@functools.cache
def shared_memory() -> Memory:
    return Memory()


def database_options(memory: Memory) -> rocksdict.Options:
    """RocksDB options of one partition database: small memtables, compressed levels, point-lookup filter."""
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(memory.blocks)
    table.set_bloom_filter(10, block_based=False)
    table.set_cache_index_and_filter_blocks(True)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_write_buffer_manager(memory.memtables)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_block_based_table_factory(table)
    return options


def partition_path(table_dir: Path, table: str, partition: int) -> Path:
    """Folder of one partition's database (Faust's naming)."""
    return table_dir / f"{table}-{partition}.db"


class BatchStore(FaustRocksStore):
    """Partition databases of one table."""

    app: BatchApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._staged: dict[int, tuple[Mapping[bytes, bytes], ...]] = {}
        """Per partition the batches on their way, oldest first; the tuples are replaced, never changed."""
        self.regressed: dict[int, set[bytes]] = collections.defaultdict(set)
        """Per partition, keys whose last record in the changelog is not their newest (a zombie wrote it)."""
        self._ceilings: dict[int, int] = {}
        self._replays: dict[int, Replay] = {}
        self._uncompacted: set[int] = set()
        """Partitions whose compaction waits for the end of their replaying."""

    def _open_for_partition(self, partition: int) -> Any:
        return rocksdict.Rdict(str(self.partition_path(partition)), database_options(shared_memory()))

    # ------------------------------------------------------------------ reading and staging
    def read(self, partition: int, key: bytes) -> bytes | None:
        """The newest value, staged ones included."""
        return self.reader(partition).get(key)

    def reader(self, partition: int) -> PartitionReader:
        """One partition as it is staged now, for the hot path."""
        staged = self._staged.get(partition, ())
        return PartitionReader(self._db_for_partition(partition), staged)

    def stage(self, partition: int, changes: Mapping[bytes, bytes]) -> None:
        """Have `changes` answer reads before what was staged or written earlier."""
        self._staged[partition] = (*self._staged.get(partition, ()), changes)

    def unstage(self, partition: int, changes: Mapping[bytes, bytes]) -> None:
        """Take this very mapping out again."""
        self._staged[partition] = tuple(
            layer for layer in self._staged.get(partition, ()) if layer is not changes
        )

    def drop_staged(self) -> None:
        """Forget everything that no broker has acknowledged (after a revoke)."""
        self._staged.clear()

    # ------------------------------------------------------------------ writing
    def write(self, partition: int, changes: Mapping[bytes, bytes], changelog_offset: int) -> None:
        """One atomic write of values and of the changelog offset that they reach up to.

        May run in any thread while others read and stage: staged values answer until they are unstaged, which must come
        after this, so a reader meets either the staged value or the written one. One write of a partition at a time, and
        whoever gives a partition up waits for its write first. (rocksdict keeps the interpreter's lock while it writes.)
        """
        if changes:
            highest = int(applied_offsets(list(changes.values())).max())
            self._ceilings[partition] = max(self._ceiling(partition), highest)
        self.end_replay(partition)
        self._write(partition, changes, changelog_offset)

    def replay(
        self,
        partition: int,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        changelog_offset: int,
        *,
        bulk: bool = False,
    ) -> None:
        """Recovery and standby: a run of the changelog, up to `changelog_offset`, as one write (see core.replay).

        bulk: much is to come and nobody reads yet, so RocksDB compacts after `end_replay`.
        A partition that is not open has been revoked: its late records are dropped. Raises StateError, UnknownSchema.
        """
        db = self._dbs.get(partition)
        if db is None:
            return
        known = self._replays.get(partition)
        if known is None:
            known = self._replays[partition] = Replay(self._ceiling(partition))
        changes, regressed = known.absorb(keys, values, db.get)
        self._ceilings[partition] = known.ceiling
        self._defer_compaction(partition, bulk)
        self._write(partition, changes, changelog_offset)
        mine = self.regressed[partition]
        if mine:
            mine.difference_update(changes)
        mine.update(regressed)

    def _write(self, partition: int, changes: Mapping[bytes, bytes | None], changelog_offset: int) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                put(key, value)
        put(CEILING_KEY, b"%d" % self._ceiling(partition))
        put(self.offset_key, b"%d" % changelog_offset)
        self._db_for_partition(partition).write(batch, WRITE)

    def _ceiling(self, partition: int) -> int:
        """No stored record of the partition has a higher applied offset; UNKNOWN in a table of an older version."""
        found = self._ceilings.get(partition)
        if found is None:
            db = self._db_for_partition(partition)
            default = EMPTY if db.get(self.offset_key) is None else UNKNOWN
            found = self._ceilings[partition] = int(db.get(CEILING_KEY) or default)
        return found

    def _defer_compaction(self, partition: int, defer: bool) -> None:
        if (partition in self._uncompacted) != defer:
            db = self._db_for_partition(partition)
            db.set_options({"disable_auto_compactions": "true" if defer else "false"})
            (self._uncompacted.add if defer else self._uncompacted.discard)(partition)

    def end_replay(self, partition: int) -> None:
        """Compact from now on, and forget the latest keys: another writer comes."""
        self._replays.pop(partition, None)
        self._defer_compaction(partition, False)

    # ------------------------------------------------------------------ partitions come and go
    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                db = self._dbs.pop(tp.partition, None)
                self._ceilings.pop(tp.partition, None)
                self._replays.pop(tp.partition, None)
                self._uncompacted.discard(tp.partition)
                if db is not None:
                    db.close()  # Faust waits for the garbage collector to drop the lock

    async def stop(self) -> None:
        for db in self._dbs.values():
            db.close()
        self._dbs.clear()
        self._ceilings.clear()
        self._replays.clear()
        self._uncompacted.clear()

    def sizes(self) -> list[tuple[int, int]]:
        """(bytes on disk and in memtables, records) of each open database; both are RocksDB's estimates."""
        found = []
        for _, db in self.partitions():
            live = db.property_int_value("rocksdb.live-sst-files-size") or 0
            fresh = db.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
            keys = db.property_int_value("rocksdb.estimate-num-keys") or 0
            found.append((live + fresh, keys))
        return found

    def partitions(self) -> Iterator[tuple[int, Any]]:
        """Open databases (active and standby)."""
        yield from list(self._dbs.items())


class BatchTable(Table[bytes, bytes]):
    """A Faust table over a `BatchStore`: membership, assignment, recovery and standbys stay Faust's."""

    def _new_store_by_url(self, url: Any) -> Any:
        return BatchStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            loop=self.loop,
            options=self.options,
        )
