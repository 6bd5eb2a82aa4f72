"""Where benchmarks play: a broker, an artefact, a filled catalogue, a log of events, and processes that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import artefact, cores
from benchmarks.child import Child
from benchmarks.workloads import Workload, uniform
from streamer.core.manifest import CONTENT_DIM
from streamer.core.partitioner import Partitioner
from streamer.core.protocol import ItemVector, encode
from streamer.serving.artefact import read_manifest, release_record
from streamer.settings import Settings
from streamer.transport.local_broker import LocalKafka
from streamer.transport.topics import ensure_topics

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 8
READY_TIMEOUT_S = 120.0
BATCH_BYTES = 512 << 10

Record = tuple[bytes, bytes]
Ends = dict[int, int]
"""Partition → the offset behind its last record."""


class Stage:
    """One broker with the topics of a deployment; every measured process is a consumer group of its own.

    artefact: what is released, for the workload's items. items_file: JSON, item id → categories.
    """

    def __init__(
        self, folder: Path, brokers: str, working: set[int], workload: Workload, partitions: int, model: Path
    ) -> None:
        self.folder, self.brokers, self.workload, self.partitions = folder, brokers, workload, partitions
        self.artefact, self.items_file = model, folder / "items.json"
        self.loop = asyncio.Runner()
        self._working = working
        self._watcher: Any = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        workload: Workload | None = None,
        *,
        partitions: int = PARTITIONS,
        model: Path | None = None,
        measured: int = 1,
    ) -> Iterator[Stage]:
        """A broker on one core, with topics, model and catalogue; the measured processes run on another.

        measured: cores for those, where the machine has one more.
        model: an artefact to release instead of one with random weights for the workload's items.
        """
        workload = workload or uniform()
        model = model or artefact.built(len(workload.items))
        working, serving = cores.choose(measured)
        before = os.sched_getaffinity(0) if serving else set()
        folder = Path(tempfile.mkdtemp(prefix="headwater-bench-"))
        try:
            cores.pin(serving)
            with LocalKafka(folder / "kafka", say=print) as broker:
                stage = cls(folder, broker.address, working, workload, partitions, model)
                try:
                    stage._fill()
                    yield stage
                finally:
                    stage.loop.run(stage._leave())
                    stage.loop.close()
        finally:
            cores.pin(before)
            shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------------ what is there
    def settings(self, group: str = "headwater") -> Settings:
        return Settings.load(self.environment(group))

    def environment(self, group: str) -> dict[str, str]:
        return {
            "HEADWATER_BROKERS": self.brokers,
            "HEADWATER_GROUP": group,
            "HEADWATER_PARTITIONS": str(self.partitions),
            "HEADWATER_STATE_DIR": str(self.folder / group),
            "HEADWATER_CACHE_DIR": str(self.folder / "cache"),
            "HEADWATER_METRICS_PORT": "0",
            "HEADWATER_DEVICE": "cpu",
        }

    def _fill(self) -> None:
        """Release the model, and publish what a worker would make of the workload's items."""
        items = self.workload.items
        self.items_file.write_bytes(msgspec.json.encode({item.item_id: item.categories for item in items}))
        self.loop.run(ensure_topics(self.settings()))
        encoder = read_manifest(self.artefact).encoder
        content = np.zeros(CONTENT_DIM, np.float16).tobytes()  # trained items have the model's own vectors
        self.send("models", [(b"champion", encode(release_record(self.artefact)))])
        self.send(
            "item-vectors",
            (
                (item.item_id.encode(), encode(vector))
                for offset, item in enumerate(items)
                for vector in [
                    ItemVector(item.item_id, encoder, content, item.available, item.categories, 0, offset)
                ]
            ),
        )

    # ------------------------------------------------------------------ what the log holds
    def ends(self, topic: str) -> Ends:
        """Records of other runs included."""
        return {where.partition: end for where, end in self.loop.run(self._ends(topic)).items()}

    def log_end(self, topic: str) -> int:
        """Records of all partitions."""
        return sum(self.ends(topic).values())

    async def _ends(self, topic: str) -> dict[Any, int]:
        watcher = await self._watching()
        return dict(await watcher.end_offsets(await _partitions(watcher, topic)))

    def values(self, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[bytes]:
        """The values of the records from `starts` to before `ends`, by partition."""
        return (value for _, value in self.records(topic, starts, ends))

    def records(self, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[Record]:
        """Keys and values, like `values`."""
        for partition, end in ends.items():
            where, at = TopicPartition(topic, partition), starts[partition]
            while at < end:
                fetched = self.loop.run(self._fetch(where, at))
                yield from ((record.key, record.value) for record in fetched if record.offset < end)
                at = fetched[-1].offset + 1 if fetched else at

    async def _fetch(self, where: Any, at: int) -> list[Any]:
        """Some records from offset `at` on, none when they take a second to come."""
        watcher = await self._watching()
        if watcher.assignment() != {where}:
            watcher.assign([where])
        watcher.seek(where, at)
        found: list[Any] = (await watcher.getmany(where, timeout_ms=1000)).get(where, [])
        return found

    def bytes_on_disk(self, topic: str) -> int:
        """What the broker's log holds of a topic: record batches as they came over the wire."""
        logs = (self.folder / "kafka" / LocalKafka.LOG).glob(f"{topic}-*/*.log")
        return sum(path.stat().st_size for path in logs)

    async def _watching(self) -> Any:
        if self._watcher is None:
            self._watcher = AIOKafkaConsumer(
                bootstrap_servers=self.brokers, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
            )
            await self._watcher.start()
        return self._watcher

    async def _leave(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    # ------------------------------------------------------------------ who works
    def headwater(
        self, group: str, name: str | None = None, *, skip: Sequence[str] = (), **settings: Any
    ) -> Child:
        """A `headwater worker` at the start of `events`, but at the ends of the topics to `skip`; `settings` on top.

        name: of its log; the group's by default.
        """
        self.loop.run(ensure_topics(self.settings(group)))
        for topic in skip:
            self.loop.run(self._commit_end(topic, group))
        given = {f"HEADWATER_{name.upper()}": str(value) for name, value in settings.items()}
        return self.python(name or group, ["-m", "streamer", "worker"], self.environment(group) | given)

    def python(self, name: str, program: Sequence[str], environment: Mapping[str, str]) -> Child:
        """A Python process on the core of who is measured."""
        return self.start(name, [sys.executable, *program], {"PYTHONPATH": str(ROOT), **environment})

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """A process on the core of who is measured."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                list(command),
                env={**clean, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                preexec_fn=cores.pinned(self._working),
            )
        return Child(process, log)

    async def _commit_end(self, topic: str, group: str) -> None:
        async with AIOKafkaConsumer(
            bootstrap_servers=self.brokers, group_id=group, enable_auto_commit=False
        ) as consumer:
            partitions = await _partitions(consumer, topic)
            consumer.assign(partitions)
            await consumer.commit(await consumer.end_offsets(partitions))

    def wait(self, done: Callable[[], bool], child: Child, what: str) -> None:
        """Raises RuntimeError when `child` ends or time runs out first."""
        child.wait(done, what, READY_TIMEOUT_S)

    # ------------------------------------------------------------------ what flows
    def send(self, topic: str, records: Iterable[Record]) -> None:
        self.loop.run(self._send(topic, records))

    async def _send(self, topic: str, records: Iterable[Record]) -> None:
        """In batches of our own making: several times faster than a call to `send` for each record."""
        async with AIOKafkaProducer(bootstrap_servers=self.brokers, max_batch_size=BATCH_BYTES) as producer:
            partitions = len(await producer.partitions_for(topic))
            partition_of = functools.cache(Partitioner("murmur2").partition)
            batches: dict[int, Any] = {}
            sent = []
            for key, value in records:
                partition = partition_of(key, partitions)
                batch = batches.get(partition)
                if batch is None or batch.append(timestamp=None, key=key, value=value) is None:
                    if batch is not None:
                        sent.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = batches[partition] = producer.create_batch()
                    batch.append(timestamp=None, key=key, value=value)
            for partition, batch in batches.items():
                sent.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*sent)


async def _partitions(consumer: Any, topic: str) -> list[Any]:
    # The first metadata of a client without topics names none.
    await consumer._client.add_topic(topic)
    return [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
