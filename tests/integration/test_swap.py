"""Releases under a running worker: a good one takes over, a bad one is refused, the first one is waited for."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.core.hashing import model_number
from streamer.core.manifest import MANIFEST
from streamer.core.protocol import encode
from streamer.core.state_records import decode_heads
from streamer.serving.artefact import read_manifest, release_record
from streamer.transport.local_broker import free_port
from streamer.transport.log_reader import read_log
from tests.integration.exactness import differences, recompute
from tests.integration.stream import Deployment, events
from tests.integration.workers import wait_until
from tests.tiny_artefact import build

EVENTS, USERS, LATER_MS = 1_500, 50, 1_700_001_000_000


def metric(port: int, name: str) -> float:
    """The value of one sample of /metrics; 0 where it is not there yet."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


def outputs(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    return [json.loads(r.value or b"") for r in read_log(deployment.brokers, deployment.settings.topic(name))]


def heads(deployment: Deployment, hidden: int) -> np.ndarray:
    records = [value for (_, key), value in deployment.changelog().newest.items() if key[:1] == b"h"]
    return decode_heads(records, hidden, 1)[0]


def check_versions(lists: list[dict[str, Any]]) -> None:
    """Per user they never fall; a user lives in one partition, so the order read is the order written."""
    last: dict[str, int] = {}
    for each in lists:
        assert each["version"] >= last.get(each["user_id"], 0)
        last[each["user_id"]] = each["version"]


@pytest.fixture(scope="module", params=[16, 24], ids=["same hidden size", "another hidden size"])
def second(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights than the first artefact's."""
    return build(tmp_path_factory.mktemp("second"), seed=1, hidden=request.param)


def relabelled(artefact: Path, folder: Path, version: str) -> Path:
    """A copy of the artefact under another version."""
    shutil.copytree(artefact, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"version": version}))
    return folder


def test_another_model_takes_over(deploy: Callable[..., Deployment], artefact: Path, second: Path) -> None:
    deployment = deploy()
    worker = deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    deployment.send_events(events(EVENTS, USERS))
    deployment.wait_absorbed(EVENTS)
    old, new = read_manifest(artefact), read_manifest(second)
    assert old.version != new.version
    hidden = new.hidden
    before = {head["version"] for head in heads(deployment, old.hidden)}
    deployment.release(second)
    wait_until(
        lambda: f"model {new.version} serves" in worker.log(), 60, f"the swap:\n{worker.log()[-2000:]}"
    )
    wait_for_model(deployment, new.version)

    topic_end = deployment.log_end("recommendations")
    deployment.send_events(events(EVENTS, USERS, seed=2, start_ms=LATER_MS))
    total = len(list(read_log(deployment.brokers, deployment.settings.topic("events"))))
    wait_until(
        lambda: deployment.changelog().events_seen(hidden) >= total, 60, "the events after the swap", 0.5
    )
    wait_until(lambda: deployment.log_end("recommendations") > topic_end, 30, "their lists")
    found = heads(deployment, hidden)
    assert deployment.changelog().events_seen(hidden) == total
    assert len(found) >= USERS
    assert (found["model"] == model_number(new.version)).all()
    touched = found[found["version"] > min(before)]
    assert (touched["rebuilt"][touched["version"] > EVENTS // USERS] > 0).all()
    assert np.isfinite(found["gru"]).all()
    assert np.abs(found["gru"]).max(axis=1).min() > 0, "a state was left at zero"
    lists = outputs(deployment, "recommendations")
    check_versions(lists)
    last = {each["user_id"]: each["model_version"] for each in lists}
    assert set(last.values()) == {new.version}
    assert {each["model_version"] for each in lists} == {old.version, new.version}
    assert {each["model_version"] for each in outputs(deployment, "profiles")} == {old.version, new.version}
    deployment.artefact = second
    check_replayed(deployment, hidden)
    assert worker.stop() == 0


def wait_for_model(deployment: Deployment, version: str) -> None:
    """Send an event now and then until a list names the new model."""
    sent = [0]

    def served() -> bool:
        sent[0] += 1
        probe = {
            "event_id": f"p{sent[0]}",
            "user_id": "probe",
            "type": "view",
            "timestamp_ms": LATER_MS,
            "item_id": "i1",
        }
        deployment.send_events([probe])
        lists = outputs(deployment, "recommendations")
        return any(each["model_version"] == version for each in lists)

    wait_until(served, 60, f"a list by {version}", 1.0)


def check_replayed(deployment: Deployment, hidden: int) -> None:
    """Everything but what the models computed is as if there had been no swap: nothing was lost or applied twice."""
    topic = deployment.settings.topic("events")
    expected = recompute(deployment.ingest(), list(read_log(deployment.brokers, topic)), topic)
    found = differences(deployment.changelog().newest, expected, hidden, tolerance=1e9)
    assert not [each for each in found if ": rebuilt is " not in each and ": revision is " not in each], (
        found[:5]
    )


def test_a_damaged_release_is_refused(
    deploy: Callable[..., Deployment], artefact: Path, tmp_path: Path
) -> None:
    deployment, port = deploy(), free_port()
    worker = deployment.worker("worker", HEADWATER_METRICS_PORT=str(port)).start().wait_ready()
    deployment.wait_for_catalogue()
    champion = read_manifest(artefact).version
    damaged = relabelled(artefact, tmp_path / "damaged", "damaged")
    release = release_record(damaged)
    scorer = bytearray((damaged / "scorer.onnx").read_bytes())
    scorer[len(scorer) // 2] ^= 0xFF
    (damaged / "scorer.onnx").write_bytes(scorer)
    refused = 'headwater_swaps_total{result="refused"}'
    before = metric(port, refused)
    bad = [
        encode(release),
        encode(release).replace(release.uri.encode(), b"file:///nowhere"),
        encode(release).replace(release.sha256.encode(), b"0" * 64),
        b"no release",
    ]
    for number, value in enumerate(bad, 1):
        deployment.send("models", [(b"champion", value)])
        wait_until(lambda n=number: metric(port, refused) == before + n, 40, f"release {number} is refused")  # type: ignore[misc]
    assert "release refused" in worker.log()
    assert "scorer.onnx" in worker.log()
    deployment.send_events(events(EVENTS, USERS))
    deployment.wait_absorbed(EVENTS)
    deployment.check_exact()
    assert {each["model_version"] for each in outputs(deployment, "recommendations")} == {champion}
    assert worker.alive
    deployment.release(relabelled(artefact, tmp_path / "good", "good"))
    wait_until(lambda: "model good serves" in worker.log(), 60, "the next good release")


def test_a_worker_without_a_champion_waits_for_one(
    kafka: str, topic_prefix: str, artefact: Path, tmp_path: Path
) -> None:
    deployment = Deployment(kafka, topic_prefix, artefact, tmp_path)
    try:
        deployment.create_topics()
        idle, worker = deployment.worker("idle").start(), deployment.worker("worker").start()
        for each in (idle, worker):
            wait_until(lambda w=each: "no champion on" in w.log(), 60, f"{each.name} says that it waits")  # type: ignore[misc]
        assert idle.stop() == 0, idle.log()[-2000:]
        deployment.publish_items()
        deployment.send_events(events(EVENTS, USERS))
        assert worker.alive
        assert worker.ready_count() == 0
        deployment.release(artefact)
        worker.wait_ready()
        deployment.wait_absorbed(EVENTS)
        deployment.wait_for_catalogue()
        deployment.send_events(events(10, 3, seed=1, start_ms=LATER_MS))
        deployment.wait_absorbed(EVENTS + 10)
        lists = outputs(deployment, "recommendations")
        assert {each["model_version"] for each in lists} == {read_manifest(artefact).version}
        assert any(each["items"] for each in lists)
    finally:
        deployment.close()
