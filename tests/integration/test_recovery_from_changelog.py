"""A worker's table comes back from the changelog byte for byte, and is not read again when its folder was kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import rocksdict

from streamer.transport.app import state_folder
from streamer.transport.state_store import partition_path
from streamer.transport.topics import TABLE
from tests.integration.stream import Deployment, events
from tests.integration.workers import WorkerProcess

OWN_KEYS = b"__"
EVENTS, USERS = 6_000, 120


def database(worker: WorkerProcess, partition: int) -> Path:
    return partition_path(state_folder(worker.state_dir), TABLE, partition)


def stored(worker: WorkerProcess, partitions: int) -> dict[tuple[int, bytes], bytes]:
    """(partition, key) → record of a stopped worker's databases, without the offset and the ceiling."""
    found: dict[tuple[int, bytes], bytes] = {}
    for partition in range(partitions):
        options = rocksdict.Options(raw_mode=True)
        path = str(database(worker, partition))
        db = rocksdict.Rdict(path, options, access_type=rocksdict.AccessType.read_only())
        for key, value in db.items():
            assert isinstance(key, bytes)
            if not key.startswith(OWN_KEYS):
                found[partition, key] = value
        db.close()
    return found


def run_and_stop(worker: WorkerProcess) -> None:
    """Start, recover, leave in order."""
    worker.start().wait_ready()
    assert worker.stop() == 0


def test_wiped_folder_comes_back_equal_and_a_kept_one_is_not_read_again(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(HEADWATER_WINDOW="32")  # so that segments fall out and there are seen chunks too
    partitions = deployment.settings.partitions
    worker = deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue()
    sent = events(EVENTS, USERS)
    deployment.send_events(sent)
    deployment.wait_absorbed(EVENTS)
    assert worker.stop() == 0
    before, outputs = stored(worker, partitions), deployment.log_end("recommendations")
    assert {record[1:2] for record in before.values()} == {b"h", b"s", b"c"}
    assert {partition for partition, _ in before} == set(range(partitions))
    assert before == deployment.changelog().newest

    worker.wipe()
    assert not database(worker, 0).exists()
    run_and_stop(worker)
    assert stored(worker, partitions) == before
    assert deployment.log_end("recommendations") == outputs, "events were processed again"

    # A record taken out of a kept table stays out: the changelog is read on from where the table ends.
    taken = next(key for key, record in before.items() if record[1:2] == b"s")
    db = rocksdict.Rdict(str(database(worker, taken[0])), rocksdict.Options(raw_mode=True))
    db.delete(taken[1])
    db.close()
    run_and_stop(worker)
    kept = stored(worker, partitions)
    assert taken not in kept, "the changelog was replayed from its beginning"
    assert kept == {key: value for key, value in before.items() if key != taken}

    worker.wipe()
    worker.start().wait_ready()
    deployment.send_events(events(3_000, USERS, seed=1, start_ms=1_700_002_000_000))
    deployment.wait_absorbed(EVENTS + 3_000)
    assert deployment.absorbed() == EVENTS + 3_000
    deployment.check_exact()
