"""How fast a worker comes back: its table from the changelog, and the first recommendation, beside Faust's own recovery.

`python -m benchmarks.recovery [--users 100000] [--rounds 3] [--json FILE] [--quick]`

A changelog of N users with a full window each (real records, see benchmarks.states) is recovered in turn by
  headwater  the worker, from an empty folder
  warm       the worker, from a folder that lacks the last hundredth of the log
  faust      a plain Faust app with a RocksDB table, its buffers tuned, from an empty folder; for a minute at most
each alone on one core. Time of a recovery: from its beginning (partitions assigned, ends of the log known) to the last record
written, as the process says itself. `seconds_to_first`: from the start of the process to the first recommendation.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import figures
from benchmarks.child import Child
from benchmarks.figures import Figure, Result
from benchmarks.memory import folder_bytes
from benchmarks.stage import PARTITIONS, Stage
from benchmarks.states import END_MS, LIVED, Pair, lived, records, user_name
from benchmarks.workloads import ITEMS
from streamer.core.partitioner import Partitioner
from streamer.serving.artefact import read_manifest
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.topics import changelog_topic, ensure_topics

NAME = "recovery"
USERS, QUICK_USERS = 100_000, 10_000
ROUNDS = 3
GROUP = "recovery"
LATER = 100
"""One user in so many has newer records than the warm folder knows."""
EVENTS = 80
CHUNK_USERS = 10_000
FAUST_S = 60.0
PATIENCE_S = 900.0
GOAL_RATIO, GOAL_MB_PER_S, GOAL_RSS_MB = 10.0, 60.0, 600.0
MANY_USERS = 1_000_000
RECOVERED = re.compile(r"recovered (\d+) records, ([\d.]+) MB, in ([\d.]+) s")
COMPLETE = "nothing is missing any more"
READ = re.compile(r"read (\d+) records in ([\d.]+) s")


class Log:
    """The changelog: writes it, and knows what is in it."""

    def __init__(self, stage: Stage, users: int) -> None:
        self._stage, self.users = stage, users
        settings = stage.settings(GROUP)
        self._topic, self._compression = changelog_topic(settings), settings.changelog_compression
        self._lives = lived(min(LIVED, users), read_manifest(stage.artefact).hidden, ITEMS)
        self.records = self.bytes = 0
        stage.loop.run(ensure_topics(settings))

    def write(self, users: range, applied: int) -> None:
        self._stage.loop.run(self._write(users, applied))

    async def _write(self, users: range, applied: int) -> None:
        producer = BatchProducer(bootstrap_servers=self._stage.brokers)
        await producer.start()
        partitioner = Partitioner("murmur2")
        for start in range(users.start, users.stop, CHUNK_USERS):
            part = range(start, min(start + CHUNK_USERS, users.stop))
            places = [partitioner.partition(user_name(i), PARTITIONS) for i in part]
            pairs: list[list[Pair]] = [[] for _ in range(PARTITIONS)]
            for place, (_, of_user) in zip(places, records(self._lives, part, applied + start), strict=True):
                pairs[place] += of_user
            self.records += sum(map(len, pairs))
            self.bytes += sum(len(key) + len(value) for of_place in pairs for key, value in of_place)
            await asyncio.gather(
                *(
                    producer.send(self._topic, place, some, compression=self._compression)
                    for place, some in enumerate(pairs)
                )
            )
        await producer.stop()


def events(users: int, first: int) -> Iterator[Pair]:
    """EVENTS events of users in the table (of those without newer records), later than all that these have seen."""
    for number in range(first, first + EVENTS):
        user = user_name(users // 2 + number * 997 % (users // 2))
        event = {
            "event_id": f"recovery-{number}",
            "user_id": user.decode(),
            "type": "view",
            "timestamp_ms": END_MS + number,
            "item_id": f"i{number % ITEMS}",
        }
        yield user, msgspec.json.encode(event)


class Comeback:
    """One start of a Headwater worker."""

    def __init__(self, stage: Stage, users: int, first: int) -> None:
        """first: number of the first of the events that wait for the worker."""
        stage.send("events", events(users, first))
        before = stage.log_end("recommendations")
        started = time.monotonic()
        child = stage.headwater(GROUP, f"{GROUP}-{first}", skip=())
        try:
            child.wait(
                lambda: stage.log_end("recommendations") > before, "the first recommendation", PATIENCE_S
            )
            self.seconds_to_first = time.monotonic() - started
            found = RECOVERED.findall(child.log.read_text())
            if not found:
                raise RuntimeError(f"the worker has recovered nothing:\n{child.tail()}")
            self.records, self.mb, self.seconds = int(found[-1][0]), float(found[-1][1]), float(found[-1][2])
            self.peak_rss_mb = peak_rss_mb(child)
            child.stop()
        finally:
            child.kill()
        self.disk_bytes = folder_bytes(stage.folder / GROUP)


def peak_rss_mb(child: Child) -> float:
    """Largest resident memory so far, 10^6 bytes; NaN where the system does not tell."""
    try:
        status = Path(f"/proc/{child.process.pid}/status").read_text()
    except OSError:
        return float("nan")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def faust_records_per_s(stage: Stage, name: str) -> float:
    """Of Faust's recovery of the group's changelog, whole or for FAUST_S."""
    data = stage.folder / name
    environment = {
        "PLAIN_GROUP": GROUP,
        "PLAIN_BROKERS": stage.brokers,
        "PLAIN_PARTITIONS": str(PARTITIONS),
        "PLAIN_DATA": str(data),
    }
    program = ["-m", "benchmarks.peers.faust_recovery", "worker", "-l", "warn", "--without-web"]
    child = stage.python(name, program, environment)

    def read() -> list[tuple[int, float]]:
        return [(int(n), float(s)) for n, s in READ.findall(child.log.read_text(errors="replace"))]

    def enough() -> bool:
        seen = read()
        return bool(seen) and seen[-1][1] > FAUST_S

    try:
        child.wait(lambda: child.said(COMPLETE) or enough(), "Faust's recovery", PATIENCE_S)
        (first, began), (last, ended) = read()[0], read()[-1]
        child.stop()
    finally:
        child.kill()
        shutil.rmtree(data, ignore_errors=True)
    return (last - first) / (ended - began)


def measure(users: int = USERS, rounds: int = ROUNDS, *, quick: bool = False) -> Result:
    if quick:
        users, rounds = min(users, QUICK_USERS), 1
    cold: list[Comeback] = []
    warm: list[Comeback] = []
    faust: list[float] = []
    with Stage.open() as stage:
        log = Log(stage, users)
        log.write(range(users), -2 * users)
        for number in range(rounds):
            shutil.rmtree(stage.folder / GROUP, ignore_errors=True)
            cold.append(Comeback(stage, users, 2 * number * EVENTS))
            if cold[-1].records < log.records:
                raise RuntimeError(f"{cold[-1].records} of {log.records} records were recovered")
            later = users // LATER
            log.write(range(later), -users + number * later)
            warm.append(Comeback(stage, users, (2 * number + 1) * EVENTS))
            faust.append(faust_records_per_s(stage, f"faust-{number}"))
            print(
                f"headwater {cold[-1].records / cold[-1].seconds:,.0f} records/s, first after "
                f"{cold[-1].seconds_to_first:.1f} s (warm {warm[-1].seconds_to_first:.1f} s); faust {faust[-1]:,.0f}",
                flush=True,
            )
        user_bytes = log.bytes / users
    speeds = [run.records / run.seconds for run in cold]
    found = {
        "records_per_s": Figure.of(speeds, "records/s"),
        "mb_per_s": Figure.of([run.mb / run.seconds for run in cold], "MB/s", GOAL_MB_PER_S),
        "faust_records_per_s": Figure.of(faust, "records/s"),
        "vs_faust": Figure.of([a / b for a, b in zip(speeds, faust, strict=True)], "×", GOAL_RATIO),
        "seconds_to_first": Figure.of([run.seconds_to_first for run in cold], "s"),
        "warm_seconds_to_first": Figure.of([run.seconds_to_first for run in warm], "s"),
        "warm_recovery_s": Figure.of([run.seconds for run in warm], "s"),
        "peak_rss_mb": Figure.of(
            [run.peak_rss_mb for run in cold], "MB", GOAL_RSS_MB if users >= MANY_USERS else None
        ),
        "changelog_bytes_per_user": Figure(user_bytes, "bytes/user"),
        "bytes_per_user": Figure.of([run.disk_bytes / users for run in cold], "bytes/user"),
    }
    return Result.here(f"{NAME}-{users}", found)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    figures.report(measure(options.users, options.rounds, quick=options.quick), options)


if __name__ == "__main__":
    main()
