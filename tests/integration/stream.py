"""One deployment on a test's own topics: create them, release a model, fill the catalogue, send events, check the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer

from agents.ingest import Ingest, StateOptions
from agents.recommend import Recommend
from streamer.core.event_types import REFRESH
from streamer.core.events import EventDecoder
from streamer.core.interests import Decay
from streamer.core.partitioner import Partitioner
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemRecord, decode_item_vector, encode
from streamer.core.stored import LookedUp
from streamer.serving.artefact import release_record
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.model import Model
from streamer.serving.text_encoder import TextEncoder
from streamer.settings import Settings
from streamer.transport.log_reader import read_log
from streamer.transport.topics import changelog_topic, ensure_topics
from tests.integration.exactness import ChangelogView, differences, recompute
from tests.integration.workers import WorkerProcess, wait_until

SESSION_S = "6"


class Texts:
    """The text encoder without batching."""

    def __init__(self, artefact: Path) -> None:
        self._encoder = TextEncoder.load(artefact)

    async def encode(self, texts: list[str], priority: object) -> np.ndarray:
        return self._encoder.encode(texts)


@dataclass
class Deployment:
    """Topics under a prefix, an artefact, and worker processes in a folder."""

    brokers: str
    prefix: str
    artefact: Path
    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HEADWATER_BROKERS": self.brokers,
            "HEADWATER_TOPIC_PREFIX": self.prefix,
            "HEADWATER_SESSION_TIMEOUT_S": SESSION_S,
            "HEADWATER_CACHE_DIR": str(self.folder / "cache"),
            **self.options,
        }

    @property
    def settings(self) -> Settings:
        return Settings.load(self.environment)

    def begin(self, items: int = 60) -> Deployment:
        """Create the topics, release the artefact, publish the catalogue."""
        self.create_topics()
        self.release(self.artefact)
        self.publish_items(items)
        return self

    def create_topics(self) -> None:
        asyncio.run(ensure_topics(self.settings))

    def release(self, artefact: Path) -> None:
        self.send("models", [(b"champion", encode(release_record(artefact)))])

    def publish_items(self, items: int = 60) -> None:
        kinds = ["action", "comedy", "drama"]
        records = [
            ItemRecord(f"i{i}", f"Title {i}", categories=[kinds[i % 3], f"c{i % 7}"]) for i in range(items)
        ]
        self.send("items", [(r.item_id.encode(), encode(r)) for r in records])

    def worker(self, name: str, *faults: str, **settings: str) -> WorkerProcess:
        program = [str(Path(__file__).with_name("faulty_worker.py")), *faults] if faults else None
        process = WorkerProcess(name, self.folder, {**self.environment, **settings}, program)
        self.workers.append(process)
        return process

    def wait_for_catalogue(self, items: int = 60, timeout_s: float = 60.0) -> None:
        """Until every item's vector is on `item-vectors` (a started worker puts them there) and could be followed."""
        topic = self.settings.topic("item-vectors")
        wait_until(
            lambda: len({r.key for r in read_log(self.brokers, topic)}) >= items,
            timeout_s,
            "the catalogue",
            0.5,
        )
        time.sleep(1.5)  # followers gather changes for half a second

    def send(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        asyncio.run(self._send(self.settings.topic(topic), list(records), None))

    def send_events(self, events: list[dict[str, object]], rate: float | None = None) -> None:
        """In order, at `rate` events/s (None: at once)."""
        records: list[tuple[bytes | None, bytes | None]]
        records = [(str(e["user_id"]).encode(), json.dumps(e).encode()) for e in events]
        asyncio.run(self._send(self.settings.topic("events"), records, rate))

    async def _send(
        self, topic: str, records: list[tuple[bytes | None, bytes | None]], rate: float | None
    ) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.brokers, enable_idempotence=True, linger_ms=2, request_timeout_ms=60_000,
            max_request_size=4 << 20,
        ) as producer:  # fmt: skip
            started, futures = time.monotonic(), []
            for n, (key, value) in enumerate(records):
                if rate is not None and n % 20 == 0:
                    await asyncio.sleep(max(0.0, started + n / rate - time.monotonic()))
                futures.append(await producer.send(topic, value, key))
            await asyncio.gather(*futures)

    # ------------------------------------------------------------------ the end
    def log_end(self, topic: str) -> int:
        return sum(1 for _ in read_log(self.brokers, self.settings.topic(topic)))

    def changelog(self) -> ChangelogView:
        return ChangelogView.read(self.brokers, changelog_topic(self.settings))

    def absorbed(self) -> int:
        """Events and requests that the changelog's heads have seen, whatever became of them."""
        model = Model.load(self.artefact)
        return self.changelog().events_seen(model.hidden)

    def wait_absorbed(self, events: int, timeout_s: float = 60.0) -> None:
        seen = [0]

        def check() -> bool:
            seen[0] = self.absorbed()
            return seen[0] >= events

        try:
            wait_until(check, timeout_s, f"{events} events absorbed", every_s=1.0)
        except AssertionError as exc:
            logs = "\n".join(f"--- {w.name}:\n{w.log()[-2500:]}" for w in self.workers)
            raise AssertionError(f"{exc}; {seen[0]} were\n{logs}") from None

    def ingest(self) -> Ingest:
        """The worker's own ingest, offline, over the final catalogue."""
        settings, model = self.settings, Model.load(self.artefact)
        catalogue = Catalogue()
        catalogue.apply(
            (r.key.decode(), None if r.value is None else decode_item_vector(r.value))
            for r in read_log(self.brokers, settings.topic("item-vectors"))
            if r.key is not None
        )
        champion = Champion(model, catalogue.snapshot(model), Popularity(10**9), settings.event_types)
        decoder = EventDecoder(settings.event_types, Partitioner("murmur2"), settings.partitions)
        short_s, long_s = settings.interest_half_life_short_s, settings.interest_half_life_long_s
        decay = Decay(int(short_s * 1000), int(long_s * 1000))
        options = StateOptions(settings.window, int(settings.grace_s * 1000), decay)
        recommend = Recommend("profiles", "recommendations", False, settings.top_k, settings.exclude_seen)
        texts: Any = Texts(self.artefact)
        return Ingest(
            decoder,
            settings.event_types,
            options,
            lambda: champion,
            lambda p: LookedUp(lambda key: None),
            texts,
            recommend,
        )

    def check_exact(self) -> None:
        """Every record of the changelog equals the offline recomputation over the whole log of events."""
        topic = self.settings.topic("events")
        expected = recompute(self.ingest(), list(read_log(self.brokers, topic)), topic)
        view = self.changelog()
        for name, table in (("highest applied offset", view.newest), ("last record", view.last)):
            wrong = differences(table, expected, Model.load(self.artefact).hidden)
            assert not wrong, f"by {name}, {len(wrong)} of {len(expected)} records differ: {wrong[:5]}"

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def events(
    n: int,
    users: int,
    seed: int = 0,
    items: int = 60,
    start_ms: int = 1_700_000_000_000,
    requests: float = 0.0,
) -> list[dict[str, object]]:
    """Events of several types in time order, with some duplicates, late ones, unknown items and texts.

    requests: share of requests for a fresh list among them.
    """
    rng = np.random.default_rng(seed)
    made: list[dict[str, object]] = []
    for i in range(n):
        kind = ["view", "click", "rating", "purchase", "search"][int(rng.integers(5))]
        if requests and rng.random() < requests:
            kind = REFRESH
        event: dict[str, object] = {
            "event_id": f"e{seed}-{i}",
            "user_id": f"u{int(rng.integers(users))}",
            "type": kind,
            "timestamp_ms": start_ms + i * 250,
        }
        if kind == "search":
            event["text"] = f"item number {int(rng.integers(items))}"
        else:
            event["item_id"] = f"i{int(rng.integers(items))}" if rng.random() < 0.97 else f"new{i}"
        if kind == "rating":
            event["value"] = float(rng.integers(1, 6))
        if made and rng.random() < 0.01:
            event = made[int(rng.integers(max(0, len(made) - 50), len(made)))]
        elif rng.random() < 0.01:
            event["timestamp_ms"] = start_ms - 10_000_000
        made.append(event)
    return made
