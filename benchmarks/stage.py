"""Where benchmarks play: a broker, an artefact, a filled catalogue, a log of events, and processes that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import artefact, cores
from benchmarks.artefact import ITEMS
from streamer.core.protocol import ItemRecord, encode
from streamer.serving.artefact import release_record
from streamer.settings import Settings
from streamer.transport.local_broker import LocalKafka
from streamer.transport.topics import ensure_topics

ROOT = Path(__file__).resolve().parents[1]
USERS = 20_000
PARTITIONS = 8
START_MS = 1_700_000_000_000
READY_TIMEOUT_S = 120.0

Record = tuple[bytes | None, bytes | None]


@dataclass
class Child:
    """A started process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self, words: str) -> bool:
        """Whether its log holds `words`. Raises RuntimeError when it has ended without."""
        text = self.log.read_text(errors="replace")
        if words not in text and self.process.poll() is not None:
            raise RuntimeError(f"{self.log.stem} ended with {self.process.returncode}:\n{text[-3000:]}")
        return words in text

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Stage:
    """One broker with the topics of a deployment; every measured process is a consumer group of its own."""

    def __init__(self, folder: Path, brokers: str, working: set[int]) -> None:
        self.folder, self.brokers, self._working = folder, brokers, working
        self.loop = asyncio.Runner()
        self._watcher: Any = None
        self.artefact = folder / "artefact"
        self.items_file = folder / "items.json"

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Stage]:
        """A broker on one core, with topics, model and catalogue; the measured processes run on the other."""
        working, serving = cores.choose()
        before = os.sched_getaffinity(0) if serving else set()
        folder = Path(tempfile.mkdtemp(prefix="headwater-bench-"))
        try:
            cores.pin(serving)
            with LocalKafka(folder / "kafka", say=print) as broker:
                stage = cls(folder, broker.address, working)
                try:
                    stage.fill()
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
            "HEADWATER_PARTITIONS": str(PARTITIONS),
            "HEADWATER_STATE_DIR": str(self.folder / group),
            "HEADWATER_CACHE_DIR": str(self.folder / "cache"),
            "HEADWATER_METRICS_PORT": "0",
            "HEADWATER_DEVICE": "cpu",
        }

    def fill(self) -> None:
        """Release a model and publish the catalogue; a worker embeds it once, for all later ones."""
        self.artefact = artefact.build(self.folder / "model")
        items = [ItemRecord(f"i{i}", f"Title number {i}", categories=categories(i)) for i in range(ITEMS)]
        self.items_file.write_bytes(msgspec.json.encode({item.item_id: item.categories for item in items}))
        self.loop.run(ensure_topics(self.settings()))
        self.send("models", [(b"champion", encode(release_record(self.artefact)))])
        self.send("items", [(item.item_id.encode(), encode(item)) for item in items])
        embedder = self.headwater("embedder", skip=())
        try:
            self.wait(lambda: self.log_end("item-vectors") >= ITEMS, embedder, "the catalogue")
        finally:
            embedder.kill()

    def log_end(self, topic: str) -> int:
        """Records of all partitions, those of other runs included."""
        return sum(self.loop.run(self._ends(topic)).values())

    async def _ends(self, topic: str) -> dict[Any, int]:
        if self._watcher is None:
            self._watcher = AIOKafkaConsumer(bootstrap_servers=self.brokers)
            await self._watcher.start()
        return dict(await self._watcher.end_offsets(await _partitions(self._watcher, topic)))

    async def _leave(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    # ------------------------------------------------------------------ who works
    def headwater(self, group: str, skip: Sequence[str] = ("items",)) -> Child:
        """A `headwater worker` at the start of `events`, but at the ends of the topics to `skip`."""
        self.loop.run(ensure_topics(self.settings(group)))
        for topic in skip:
            self.loop.run(self._commit_end(topic, group))
        return self.start(group, ["-m", "streamer", "worker"], self.environment(group))

    def start(self, name: str, program: list[str], environment: Mapping[str, str]) -> Child:
        """A Python process on the core of who is measured."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *program],
                env={**clean, "PYTHONPATH": str(ROOT), **environment},
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
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not done():
            child.said("\0")
            if time.monotonic() > deadline:
                log = child.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{what} did not come within {READY_TIMEOUT_S:.0f} s:\n{log}")
            time.sleep(0.2)

    # ------------------------------------------------------------------ what flows
    def send(self, topic: str, records: Iterable[Record]) -> None:
        self.loop.run(self._send(topic, records))

    async def _send(self, topic: str, records: Iterable[Record]) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.brokers, linger_ms=5, max_batch_size=256 << 10
        ) as producer:
            last = None
            for key, value in records:
                last = await producer.send(topic, value, key)
            await producer.flush()
            if last is not None:
                await last


async def _partitions(consumer: Any, topic: str) -> list[Any]:
    # The first metadata of a client without topics names none.
    await consumer._client.add_topic(topic)
    return [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]


def categories(item: int) -> list[str]:
    """Two of some twenty, as films have."""
    return [f"genre-{item % 17}", f"mood-{item % 5}"]


def uniform(n: int, first: int = 0, start_ms: int = START_MS) -> Iterator[tuple[bytes, bytes]]:
    """Events `first` to `first + n`, about 180 bytes each: every one another of USERS users, in turn."""
    rng = np.random.default_rng(first)
    items, stars = rng.integers(ITEMS, size=n).tolist(), rng.integers(1, 6, size=n).tolist()
    kinds = rng.choice(["view", "click", "rating", "purchase"], size=n, p=[0.4, 0.3, 0.2, 0.1]).tolist()
    encode_json = msgspec.json.encode
    for i, (item, star, kind) in enumerate(zip(items, stars, kinds, strict=True), first):
        user = f"user-{i % USERS:06d}"
        event = {
            "event_id": uuid.UUID(int=i).hex,
            "user_id": user,
            "type": kind,
            "timestamp_ms": start_ms + i,
            "item_id": f"i{item}",
            "session_id": f"session-{i % USERS:08d}",
        }
        if kind == "rating":
            event["value"] = float(star)
        yield user.encode(), encode_json(event)
