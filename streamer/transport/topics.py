"""The topics of the protocol: what they are called, how they are kept, and making and checking them.

`events`, `profiles`, `recommendations` and the changelog must have the same number of partitions, since a record goes to the
partition that its event came from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streamer.errors import BrokerUnavailable, SettingsError

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

LARGEST_RECORD_BYTES = 1_048_588
"""Kafka's own default for one record batch."""
LARGEST_DEAD_LETTER_BYTES = 4_194_304
"""A dead letter is the whole original plus headers, so it must be able to be larger than an event."""

COPARTITIONED = ("events", "profiles", "recommendations", "signal-events", "changelog")
"""Roles whose partition counts must agree."""
SINGLE = ("models", "signal-weights", "signal-counts")
"""Roles of one partition."""
SNAPSHOTS = {"segment.bytes": str(16 << 20), "min.cleanable.dirty.ratio": "0.2"}
"""What is replaced every few minutes is compacted soon: only closed segments are, and by default not before half is old."""
NAMES = (
    "events",
    "items",
    "item-vectors",
    "profiles",
    "recommendations",
    "dead-letters",
    "models",
    "signal-events",
    "signal-weights",
    "signal-counts",
)
TABLE = "users"

LEADERS_TIMEOUT_S = 30.0
RETRY_S = 0.1


class TopicSettings(Protocol):
    """The settings that topics depend on."""

    @property
    def brokers(self) -> str: ...
    @property
    def topic_prefix(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def replication_factor(self) -> int: ...
    def kafka_options(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it should be. `role` is its name without prefix, or "changelog"."""

    role: str
    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it; `partitions` 0 = it does not exist. `created`: by this call."""

    spec: TopicSpec
    partitions: int
    replication_factor: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    """Only the keys that the spec names; empty where the broker does not tell."""
    created: bool = False


def app_id(settings: TopicSettings) -> str:
    """Consumer group and Faust app id of the workers; Faust names the changelog after it."""
    return settings.topic_prefix + settings.group


def changelog_topic(settings: TopicSettings) -> str:
    return f"{app_id(settings)}-{TABLE}-changelog"


def topic_specs(settings: TopicSettings) -> list[TopicSpec]:
    """Every topic that a deployment needs."""
    compacted = {"cleanup.policy": "compact"}
    records = {"max.message.bytes": str(LARGEST_RECORD_BYTES)}
    configs: dict[str, dict[str, str]] = {
        "events": {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)} | records,
        "items": compacted | records,
        "item-vectors": compacted,
        "profiles": compacted,
        "recommendations": compacted,
        "dead-letters": {
            "cleanup.policy": "delete",
            "retention.ms": str(30 * DAY_MS),
            "max.message.bytes": str(LARGEST_DEAD_LETTER_BYTES),
        },
        "models": compacted,
        "signal-events": {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)} | records,
        "signal-weights": compacted,
        "signal-counts": compacted | SNAPSHOTS | records,
    }
    specs = [
        TopicSpec(
            role,
            settings.topic_prefix + role,
            1 if role in SINGLE else settings.partitions,
            settings.replication_factor,
            config,
        )
        for role, config in configs.items()
    ]
    # A zombie's records must stay readable until whoever is ahead has repaired them, so nothing young is compacted away.
    lag = {"min.compaction.lag.ms": str(HOUR_MS)}
    specs.append(
        TopicSpec(
            "changelog",
            changelog_topic(settings),
            settings.partitions,
            settings.replication_factor,
            compacted | lag | records,
        )
    )
    return specs


def mistakes(settings: TopicSettings, states: Iterable[TopicState]) -> list[str]:
    """What is wrong with existing topics, a sentence each."""
    existing = [state for state in states if state.partitions]
    found = []
    counts = {s.spec.name: s.partitions for s in existing if s.spec.role in COPARTITIONED}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        found.append(
            f"These topics must have the same number of partitions but have: {shown}. A partition cannot be taken away "
            "without losing who belongs where: create the topics anew under another HEADWATER_TOPIC_PREFIX."
        )
    elif counts and set(counts.values()) != {settings.partitions}:
        count = next(iter(counts.values()))
        found.append(
            f"HEADWATER_PARTITIONS is {settings.partitions}, but {', '.join(counts)} exist with {count}: "
            f"set HEADWATER_PARTITIONS={count}, or create the topics anew under another HEADWATER_TOPIC_PREFIX."
        )
    for state in existing:
        wanted = state.spec.config
        for key in ("cleanup.policy", "min.compaction.lag.ms", "max.message.bytes"):
            if key in wanted and key in state.config and not _serves(key, wanted[key], state.config[key]):
                found.append(
                    f"Topic {state.spec.name} has {key}={state.config[key]} where {wanted[key]} is needed: "
                    f"kafka-configs.sh --alter --topic {state.spec.name} --add-config {key}={wanted[key]}"
                )
    return found


def _serves(key: str, wanted: str, found: str) -> bool:
    """Numbers are lower limits."""
    return found == wanted if key == "cleanup.policy" else int(found) >= int(wanted)


async def describe_topics(settings: TopicSettings) -> list[TopicState]:
    """Every topic of `topic_specs` as the broker has it. Raises BrokerUnavailable."""
    async with _admin(settings) as admin:
        return await _states(admin, topic_specs(settings))


async def ensure_topics(settings: TopicSettings) -> list[TopicState]:
    """Create what is missing, check what is there, and wait until every partition is served.

    Raises SettingsError with a sentence for each topic that does not fit, BrokerUnavailable.
    """
    async with _admin(settings) as admin:
        before = await _states(admin, topic_specs(settings))
        found = mistakes(settings, before)
        if found:
            raise SettingsError("\n".join(found))
        missing = [state.spec for state in before if not state.partitions]
        if missing:
            await _create(admin, missing)
            await _until_led(settings, missing)
        created = {spec.name for spec in missing}
        after = await _states(admin, topic_specs(settings))
        return [
            TopicState(s.spec, s.partitions, s.replication_factor, s.config, s.spec.name in created)
            for s in after
        ]


@asynccontextmanager
async def _admin(settings: TopicSettings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.brokers, **settings.kafka_options())
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError) as exc:
        raise BrokerUnavailable(
            f"no broker answers at {settings.brokers} ({exc}): start one with `headwater broker`, "
            "or set HEADWATER_BROKERS to where yours is"
        ) from exc
    finally:
        await admin.close()


async def _states(admin: Any, specs: list[TopicSpec]) -> list[TopicState]:
    # Asked for all topics: asking for one by name would create it on brokers that create topics by themselves.
    described = {each["topic"]: each["partitions"] for each in await admin.describe_topics()}
    there = [spec for spec in specs if spec.name in described]
    configs = await _configs(admin, there) if there else {}
    return [
        TopicState(
            spec,
            len(partitions := described.get(spec.name, [])),
            len(partitions[0]["replicas"]) if partitions else 0,
            {key: value for key, value in configs.get(spec.name, {}).items() if key in spec.config},
        )
        for spec in specs
    ]


async def _configs(admin: Any, specs: list[TopicSpec]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, spec.name) for spec in specs]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for resource in response.to_object()["resources"]:
            found[resource["resource_name"]] = {
                entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]
            }
    return found


async def _create(admin: Any, specs: list[TopicSpec]) -> None:
    topics = [
        NewTopic(spec.name, spec.partitions, spec.replication_factor, topic_configs=dict(spec.config))
        for spec in specs
    ]
    response = await admin.create_topics(topics)
    failed = []
    for name, code, *rest in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process may have been quicker
            message = rest[0] if rest and rest[0] else error.description
            failed.append(f"Topic {name} could not be created: {message}")
    if failed:
        raise SettingsError("\n".join(failed))


async def _until_led(settings: TopicSettings, specs: list[TopicSpec]) -> None:
    """Right after a topic's creation its partitions answer NotLeaderForPartition for a moment."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.brokers, **settings.kafka_options())
    await consumer.start()
    wanted = [TopicPartition(spec.name, number) for spec in specs for number in range(spec.partitions)]
    deadline = time.monotonic() + LEADERS_TIMEOUT_S
    try:
        while True:
            try:
                await consumer.end_offsets(wanted)
                return
            except (KafkaError, AssertionError) as exc:
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        f"{LEADERS_TIMEOUT_S:.0f} s after their creation some of {', '.join(s.name for s in specs)} "
                        f"have no leader: {exc!r}"
                    ) from exc
                await asyncio.sleep(RETRY_S)
    finally:
        await consumer.stop()
