"""`headwater release`: name the artefact that workers shall serve."""

from __future__ import annotations

import argparse
import asyncio

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streamer.core.protocol import Release
from streamer.errors import BrokerUnavailable
from streamer.serving.artefact import release_record, resolve
from streamer.serving.device import choose_device
from streamer.serving.model import Model
from streamer.settings import Settings

SLOTS = ("champion", "challenger")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="folder or file:// URI of the artefact, readable by every worker")
    parser.add_argument(
        "--slot", choices=SLOTS, default=SLOTS[0], help="what it becomes (default %(default)s)"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    path = resolve(args.uri, settings.cache_dir)
    release = release_record(path)
    Model.load(path, choose_device("cpu"))  # what a worker would refuse is not released
    asyncio.run(publish(settings, args.slot, release))
    print(f"{release.version} is the {args.slot}: {release.uri}")
    return 0


async def publish(settings: Settings, slot: str, release: Release | None) -> None:
    """Put a release on `models`; None empties the slot. Raises BrokerUnavailable."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all", **settings.kafka_options())
    try:
        await producer.start()
        value = None if release is None else msgspec.json.encode(release)
        await producer.send_and_wait(settings.topic("models"), value, key=slot.encode())
    except KafkaError as exc:
        raise BrokerUnavailable(
            f"the release did not reach {settings.topic('models')} at {settings.brokers}: {exc}"
        ) from exc
    finally:
        await producer.stop()
