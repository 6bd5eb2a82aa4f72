"""Kafka goes away for ten seconds under a running worker and comes back with its data: nothing is lost, little is said."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from streamer.errors import BrokerUnavailable
from streamer.transport.local_broker import LocalKafka
from tests.integration.stream import Deployment, events
from tests.integration.workers import wait_until

OUTAGE_S = 10.0
RATE, EVENTS = 400.0, 10_000
MOST_LINES = 40


def test_a_broker_that_goes_and_comes_back(artefact: Path, topic_prefix: str, tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka", short_lived=True)
    try:
        broker.start()
    except BrokerUnavailable as exc:
        pytest.skip(f"Apache Kafka cannot be had here: {exc}")
    deployment = Deployment(broker.address, topic_prefix, artefact, tmp_path)
    try:
        go_and_come_back(deployment.begin(), broker)
    finally:
        deployment.close()
        broker.stop_hard()


def go_and_come_back(deployment: Deployment, broker: LocalKafka) -> None:
    worker = deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    assert worker.process is not None
    pid = worker.process.pid
    failures: list[BaseException] = []

    def load() -> None:
        try:
            deployment.send_events(events(EVENTS, 200), RATE)
        except BaseException as exc:
            failures.append(exc)

    sender = threading.Thread(target=load, daemon=True)
    sender.start()
    wait_until(lambda: deployment.absorbed() > 1_000, 30, "some load")
    assert sender.is_alive()
    before = len(worker.log().splitlines())
    broker.stop_hard()
    wait_until(lambda: "broker away" in worker.log(), 20, "the worker says that the broker is away")
    time.sleep(OUTAGE_S)
    assert worker.alive, worker.log()[-3000:]
    said = worker.log().splitlines()[before:]
    broker.start()
    wait_until(lambda: "broker back" in worker.log(), 30, "the worker says that the broker is back")
    sender.join(120)
    assert not sender.is_alive(), "the load has not ended"
    assert not failures, failures
    deployment.wait_absorbed(EVENTS, 90)
    assert deployment.absorbed() == EVENTS
    deployment.check_exact()
    assert worker.alive
    assert worker.process is not None
    assert worker.process.pid == pid
    assert deployment.log_end("recommendations") > 0
    text = worker.log()
    assert text.count("broker away") == text.count("broker back") == 1, text[-6000:]
    assert len(said) < MOST_LINES, "\n".join(said)
    total = text.splitlines()[before:]
    assert len(total) < 2 * MOST_LINES, "\n".join(total)
