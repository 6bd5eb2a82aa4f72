"""The demo's steps up to a worker that is ready: data, broker, topics, model, release, worker, catalogue."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from streamer import datasets
from streamer.cli.demo.processes import Child, headwater, read_metric, run_to_end
from streamer.cli.demo.steps import DemoFailed, Screen
from streamer.cli.produce import Pace, item_record, open_producer, send_all
from streamer.core.protocol import ItemRecord
from streamer.errors import ArtefactError
from streamer.serving.artefact import read_manifest, verify_files
from streamer.settings import Settings
from streamer.transport.local_broker import LightBroker, LocalBroker, start_broker
from streamer.transport.topics import ensure_topics

DATASET = "ml-100k"
TRAINING_SHARE = 0.8
CATALOGUE_TIMEOUT_S = 180.0
"""Between two items that become recommendable."""


@dataclass(frozen=True)
class Data:
    """The data set, what the trainer sees of it, and what is replayed, in time order."""

    folder: Path
    dataset: datasets.Dataset
    training: list[datasets.Interaction]
    replayed: list[datasets.Interaction]

    @cached_property
    def titles(self) -> dict[str, str]:
        return {item.item_id: item.title for item in self.dataset.items}


def data(folder: Path | None, cache: Path, seed: int, events: int | None, screen: Screen) -> Data:
    """Fetch and split by time; of the later part the first `events`."""
    with screen.step("MovieLens-100K") as step:
        found = datasets.fetch(DATASET, cache, folder, say=step.say)
        dataset = datasets.load(DATASET, found)
        training, later = datasets.time_split(dataset, TRAINING_SHARE, seed)
        replayed = later[:events]
        if not replayed:
            raise DemoFailed(f"nothing to replay: --events is {events}")
        step.say(f"{len(training):,} events to train on, the {len(replayed):,} after them to stream")
    return Data(found, dataset, training, replayed)


def broker(light: bool, folder: Path, screen: Screen) -> LocalBroker:
    """Apache Kafka, or the light broker when asked for or when nothing else can be had (the screen says so).

    It is started; to be used as a context manager, which stops it.
    """
    said: list[str] = []
    with screen.step("broker") as step:

        def say(sentence: str) -> None:
            said.append(sentence)
            step.say(sentence)

        started = start_broker(True if light else None, folder, say=say)
        step.say(f"{started.name} on {started.address}")
    if isinstance(started, LightBroker) and not light:
        for sentence in said:
            screen.note(sentence)
    return started


def topics(settings: Settings, screen: Screen) -> None:
    with screen.step("topics") as step:
        states = asyncio.run(ensure_topics(settings))
        step.say(f"{len(states)} topics, {settings.partitions} partitions for events")


def model(
    source: Data, seed: int, options: Sequence[str], kept: Path, settings: Settings, screen: Screen
) -> Path:
    """The artefact of exactly this data, seed and code: kept from an earlier run, or trained now.

    `options`: further arguments of `headwater train`.
    """
    folder = kept / _model_key(source.folder, seed, options)
    found = _artefact_below(folder)
    if found is not None:
        with screen.step("model") as step:
            step.say(f"kept from an earlier run, in {found}")
        return found
    arguments = ["--data", str(source.folder), "--out", str(folder)]
    arguments += ["--until-fraction", str(TRAINING_SHARE), "--seed", str(seed)]
    arguments += ["--window", str(settings.window), "--cache", str(settings.cache_dir), *options]
    with screen.step("training a GRU on the first 80 % by time", own_output=True) as step:
        run_to_end("the trainer", headwater("train", *arguments), settings)
        found = _artefact_below(folder)
        if found is None:
            raise DemoFailed(f"the trainer ended without an artefact in {folder}")
        step.result = f"exported and verified, in {found}"
    return found


def _artefact_below(folder: Path) -> Path | None:
    """The newest artefact whose files are what they were when exported."""
    manifests = sorted(folder.rglob("manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (manifest.parent for manifest in manifests):
        try:
            verify_files(path, read_manifest(path))
        except ArtefactError:
            continue
        return path
    return None


def _model_key(folder: Path, seed: int, options: Sequence[str]) -> str:
    """16 hex digits that change with the data, the options and the code that trains."""
    digest = hashlib.sha256(f"{TRAINING_SHARE} {seed} {options}".encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".inter", ".item", ".data")):
        digest.update(path.read_bytes())
    for package in ("model_export", "streamer.core"):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec is not None else []:
            for path in sorted(Path(location).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def release(artefact: Path, settings: Settings, logs: Path, screen: Screen) -> str:
    """Make the artefact the champion; returns its version."""
    with screen.step("release") as step:
        run_to_end("`headwater release`", headwater("release", str(artefact)), settings, logs / "release.log")
        version = read_manifest(artefact).version
        step.say(f"{version} is the champion")
    return version


def worker(settings: Settings, log: Path) -> Child:
    """A worker process; to be used as a context manager."""
    return Child("worker", headwater("worker"), settings, log)


def catalogue(items: Sequence[ItemRecord], settings: Settings, process: Child, screen: Screen) -> None:
    """Publish the items and wait until the worker may recommend every one of them."""
    with screen.step("worker reads the catalogue", total=len(items)) as step:
        asyncio.run(_publish(items, settings))
        known, moved_s = -1, time.monotonic()
        while known < len(items):
            process.check()
            found = int(read_metric(settings.metrics_port, "headwater_catalogue_items") or 0)
            if found != known:
                known, moved_s = found, time.monotonic()
                step.advance_to(known)
            elif time.monotonic() - moved_s > CATALOGUE_TIMEOUT_S:
                raise process.failure(f"only {known} of {len(items)} items can be recommended")
            time.sleep(0.1)
        step.say(f"{known:,} items, each encoded by MiniLM")


async def _publish(items: Sequence[ItemRecord], settings: Settings) -> None:
    producer = open_producer(settings)
    await producer.start()
    try:
        await send_all(producer, settings.topic("items"), map(item_record, items), Pace())
    finally:
        await producer.stop()
