"""Brokers that we start ourselves: the light one everywhere, Apache Kafka where it can be had."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from streamer.errors import BrokerUnavailable, SettingsError
from streamer.settings import Settings
from streamer.transport import kafka_jars, local_broker
from streamer.transport.local_broker import LightBroker, LocalKafka, free_port, start_broker
from streamer.transport.topics import (
    LARGEST_RECORD_BYTES,
    describe_topics,
    ensure_topics,
    topic_specs,
)


def settings_for(address: str, prefix: str = "", partitions: int = 2) -> Settings:
    return replace(Settings(), brokers=address, topic_prefix=prefix, partitions=partitions)


async def put(address: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", max_request_size=8 << 20)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def first(address: str, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        value: bytes | None = (await consumer.getone()).value
        return value
    finally:
        await consumer.stop()


async def test_topics_are_created_once_as_they_are_specified(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    assert all(state.partitions == 0 for state in await describe_topics(settings))
    made = await ensure_topics(settings)
    assert all(state.created for state in made)
    assert not any(state.created for state in await ensure_topics(settings))
    found = await describe_topics(settings)
    assert [state.spec for state in found] == topic_specs(settings)
    for state in found:
        assert (state.partitions, state.replication_factor) == (state.spec.partitions, 1)
        assert dict(state.config) == dict(state.spec.config), state.spec.name


async def test_topics_are_served_as_soon_as_they_are_created(kafka: str, topic_prefix: str) -> None:
    await ensure_topics(settings_for(kafka, topic_prefix, partitions=12))
    await put(kafka, topic_prefix + "events", b"at once")
    assert await first(kafka, topic_prefix + "events") == b"at once"


async def test_existing_topics_with_other_partitions_are_refused(kafka: str, topic_prefix: str) -> None:
    await ensure_topics(settings_for(kafka, topic_prefix, partitions=2))
    with pytest.raises(SettingsError, match="set HEADWATER_PARTITIONS=2"):
        await ensure_topics(settings_for(kafka, topic_prefix, partitions=3))


async def test_a_topic_that_the_broker_refuses_is_a_sentence(kafka: str, topic_prefix: str) -> None:
    too_many = replace(settings_for(kafka, topic_prefix), replication_factor=3)
    with pytest.raises(
        SettingsError, match=rf"Topic {topic_prefix}events could not be created: .*replication"
    ):
        await ensure_topics(too_many)


async def test_the_largest_event_fits_into_a_dead_letter(kafka: str, topic_prefix: str) -> None:
    await ensure_topics(settings_for(kafka, topic_prefix))
    oversized = b"x" * (LARGEST_RECORD_BYTES + 1000)
    with pytest.raises(MessageSizeTooLargeError):
        await put(kafka, topic_prefix + "events", oversized)
    await put(kafka, topic_prefix + "dead-letters", oversized)


async def test_nobody_answering_is_broker_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match="start one with `headwater broker`"):
        await describe_topics(settings_for(f"127.0.0.1:{free_port()}"))


async def check_restart(broker: local_broker.LocalBroker) -> None:
    """Killed and started again a broker has its port, its data and its topics."""
    settings = settings_for(broker.address)
    await ensure_topics(settings)
    await put(broker.address, "events", b"kept")
    address = broker.address
    broker.stop_hard()
    assert broker.pid is None
    broker.start()
    assert broker.address == address
    assert await first(broker.address, "events") == b"kept"
    assert not any(state.created for state in await ensure_topics(settings))


async def test_kafka_survives_a_kill_and_a_new_process_over_its_folder(tmp_path: Path) -> None:
    try:
        broker = LocalKafka(tmp_path / "log", short_lived=True).start()
    except BrokerUnavailable as exc:
        pytest.skip(f"Apache Kafka cannot be had here: {exc}")
    with broker:
        await check_restart(broker)
    assert broker.pid is None
    with LocalKafka(tmp_path / "log", short_lived=True) as again:
        assert await first(again.address, "events") == b"kept"


async def test_light_broker_keeps_topics_over_a_stop(tmp_path: Path) -> None:
    with LightBroker(tmp_path) as broker:
        settings = settings_for(broker.address)
        await ensure_topics(settings)
        await put(broker.address, "events", b"kept")
        broker.stop()
        broker.start()
        assert await first(broker.address, "events") == b"kept"


def test_a_temporary_folder_goes_with_the_broker() -> None:
    with LightBroker() as broker:
        assert broker.data.is_dir()
    assert not broker.data.exists()


async def test_starting_twice_is_starting_once() -> None:
    with LightBroker() as broker:
        pid = broker.pid
        assert broker.start().pid == pid


def test_a_taken_port_is_a_sentence_and_no_reason_to_fall_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for light in (True, False, None):
            with pytest.raises(BrokerUnavailable, match=f"port {port} is taken"):
                start_broker(light, port=port)


def test_without_jars_the_light_broker_takes_over_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_registry(say: local_broker.Say) -> list[Path]:
        raise BrokerUnavailable("Kafka's jars could not be fetched (no network)")

    monkeypatch.setattr(kafka_jars, "fetch", no_registry)
    said: list[str] = []
    with start_broker(say=said.append) as broker:
        assert isinstance(broker, LightBroker)
    assert "no network" in said[0]
    assert "light broker" in said[1]
    with pytest.raises(BrokerUnavailable, match="no network"):
        start_broker(light=False, say=said.append)


def test_a_folder_with_kafka_s_log_is_not_left_to_the_light_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LocalKafka.LOG).mkdir()
    (tmp_path / LocalKafka.LOG / local_broker.META).touch()
    monkeypatch.setattr(kafka_jars, "find_java", no_java)
    with pytest.raises(BrokerUnavailable, match="no java"):
        start_broker(data=tmp_path)


def no_java() -> Path:
    raise BrokerUnavailable("no java is on the PATH")


def test_a_broker_that_ends_while_starting_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LightBroker, "_command", lambda self: ["sh", "-c", "echo no space left; exit 3"])
    with pytest.raises(BrokerUnavailable, match=r"ended with code 3 while starting: no space left"):
        LightBroker(tmp_path).start()


def test_missing_jars_are_named() -> None:
    wanted = ["org.a:b:1.0", "org.a:c:2.0"]
    assert kafka_jars.lacking(wanted, [Path("x/b-1.0.jar"), Path("y/other-3.jar")]) == ["org.a:c:2.0"]


def test_an_old_java_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    old.chmod(0o755)
    assert kafka_jars.java_version(old) == 8
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert kafka_jars.find_java() != old


def test_waiting_for_a_broker_ends_when_it_is_stopped() -> None:
    broker = LightBroker().start()
    codes: list[int] = []
    waiter = threading.Thread(target=lambda: codes.append(broker.wait()))
    waiter.start()
    broker.stop()
    waiter.join(10)
    assert len(codes) == 1
