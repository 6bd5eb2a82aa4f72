"""What a user and an event weigh: changelog, RocksDB, the worker's memory.

`python -m benchmarks.memory [--users 20000] [--events-per-user 32] [--json FILE] [--quick]`

Every event is another user's, in turn. Changelog bytes are those of the broker's log files, so record batches as they came
over the wire, and an event's are counted over the second half of the run, when windows hold sealed segments. A user's
changelog bytes are those that compaction would keep. RocksDB is measured after the worker has stopped in order. Resident memory:
of a worker that is ready and has no event yet, and in the end, there also its own pages and those of files (code) apart.
"""

from __future__ import annotations

import threading
from pathlib import Path

from benchmarks import figures, outputs
from benchmarks.child import Child
from benchmarks.figures import Figure, Result
from benchmarks.stage import Stage
from benchmarks.workloads import USERS, uniform
from streamer.transport.topics import changelog_topic

NAME = "memory"
RSS_EVERY_S = 0.5
PATIENCE_S = 1800.0
EVENTS_PER_USER = 32
GOAL_BYTES_PER_EVENT, GOAL_RSS_MB = 500.0, 600.0
MANY_USERS = 1_000_000
GROUP = "memory"
READY = "ready: generation"


class RssWatch:
    """Samples a worker's resident memory from a thread of its own, in MB."""

    def __init__(self, child: Child) -> None:
        self.samples = [child.rss_mb()]
        self._child, self._over = child, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(RSS_EVERY_S):
            self.samples.append(self._child.rss_mb())

    def end(self) -> list[float]:
        self._over.set()
        self._thread.join()
        return self.samples


def measure(users: int = USERS, events_per_user: int = EVENTS_PER_USER, *, quick: bool = False) -> Result:
    if quick:
        users, events_per_user = min(users, 2000), min(events_per_user, 20)
    total = users * events_per_user
    half = total // 2
    with Stage.open(uniform(users)) as stage:
        topic = changelog_topic(stage.settings(GROUP))
        before = stage.ends("recommendations")
        worker = stage.headwater(GROUP)
        try:
            stage.wait(lambda: worker.said(READY), worker, "a ready worker")
            idle, rss = worker.rss_mb(), RssWatch(worker)
            stage.send("events", stage.workload.events(half, 0))
            outputs.wait_absorbed(stage, worker, before, half, PATIENCE_S)
            bytes_before = stage.bytes_on_disk(topic)
            stage.send("events", stage.workload.events(total - half, half))
            outputs.wait_absorbed(stage, worker, before, total, PATIENCE_S)
            per_event = (stage.bytes_on_disk(topic) - bytes_before) / (total - half)
            settled, (own, files) = worker.rss_mb(), worker.resident_mb()
            samples = rss.end()
            worker.stop()
        finally:
            worker.kill()
        kept = compacted_bytes(stage, topic)
        rocksdb = folder_bytes(stage.folder / GROUP)
    found = {
        "bytes_per_event": Figure(per_event, "bytes/event", GOAL_BYTES_PER_EVENT),
        "bytes_per_user": Figure(rocksdb / users, "bytes/user"),
        "changelog_bytes_per_user": Figure(kept / users, "bytes/user"),
        "rss_mb": Figure(settled, "MB", GOAL_RSS_MB if users >= MANY_USERS else None),
        "rss_own_mb": Figure(own, "MB"),
        "rss_files_mb": Figure(files, "MB"),
        "idle_rss_mb": Figure(idle, "MB"),
        "peak_rss_mb": Figure(max(samples), "MB"),
    }
    return Result.here(f"{NAME}-{users}", found)


def compacted_bytes(stage: Stage, topic: str) -> int:
    """Keys and values of the newest record of every key."""
    ends = stage.ends(topic)
    newest: dict[bytes, int] = {}
    for key, value in stage.records(topic, dict.fromkeys(ends, 0), ends):
        newest[key] = len(value or b"")
    return sum(len(key) + size for key, size in newest.items() if size)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--events-per-user", type=int, default=EVENTS_PER_USER)
    options = parser.parse_args()
    figures.report(measure(options.users, options.events_per_user, quick=options.quick), options)


if __name__ == "__main__":
    main()
