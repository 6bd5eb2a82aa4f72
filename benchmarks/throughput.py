"""Events per second of the whole job on one worker process, beside plain Faust and beside mere reading.

`python -m benchmarks.throughput [--workload uniform] [--json FILE] [--quick]`

Each runs alone on one core, broker and load on another, on the same log from its start; runs are interleaved and the
median counts. A worker's time runs from its first output on `recommendations` to the last one of the run: until the log
is absorbed or the seconds of a run are over. In this workload every event of a batch is another user's, so there is one
recommendation per event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import cores, figures
from benchmarks.figures import Figure, Result
from benchmarks.stage import PARTITIONS, Child, Stage, uniform

NAME = "throughput"
SAMPLE_S = 0.1
WORKLOADS = {"uniform": uniform}


@dataclass
class Speed:
    """What one process did in one run."""

    events_per_s: float
    cpu_us: float
    """Processor time per event, in µs: what a busy machine distorts least."""


@dataclass
class Peer:
    name: str
    run: Callable[[str], Speed]
    speeds: list[Speed] = field(default_factory=list)


class Race:
    """The peers on one stage."""

    def __init__(self, stage: Stage, events: int, seconds: float) -> None:
        self._stage, self._events, self._seconds = stage, events, seconds
        self.peers = [
            Peer("headwater", lambda group: self._watch(stage.headwater(group))),
            Peer("plain_faust", lambda group: self._watch(self._plain_faust(group))),
            Peer("raw", self._raw),
        ]

    def run(self, rounds: int) -> dict[str, list[Speed]]:
        for number in range(rounds):
            for peer in self.peers:
                speed = peer.run(f"{peer.name}-{number}".replace("_", "-"))
                print(
                    f"{peer.name}: {speed.events_per_s:,.0f} events/s, {speed.cpu_us:.0f} µs of processor each",
                    flush=True,
                )
                peer.speeds.append(speed)
        return {peer.name: peer.speeds for peer in self.peers}

    def _watch(self, child: Child) -> Speed:
        """Follow a worker's outputs from its first one on; then kill it."""
        stage, pid = self._stage, child.process.pid
        before = stage.log_end("recommendations")
        try:
            stage.wait(lambda: stage.log_end("recommendations") > before, child, "the first recommendation")
            first, started, spent = stage.log_end("recommendations"), time.monotonic(), cores.cpu_seconds(pid)
            seen, last, cpu, deadline = first, started, spent, started + self._seconds
            while seen < before + self._events and time.monotonic() < deadline + 5:
                child.said("\0")
                now, end = time.monotonic(), stage.log_end("recommendations")
                if end > seen:
                    seen, last, cpu = end, now, cores.cpu_seconds(pid)
                    if now > deadline:
                        break
                time.sleep(SAMPLE_S)
        finally:
            child.kill()
        if seen == first:
            raise RuntimeError(f"{child.log.stem} had finished before it could be watched: use more events")
        return Speed((seen - first) / (last - started), (cpu - spent) / (seen - first) * 1e6)

    def _plain_faust(self, group: str) -> Child:
        stage = self._stage
        environment = {
            "PLAIN_GROUP": group,
            "PLAIN_BROKERS": stage.brokers,
            "PLAIN_PARTITIONS": str(PARTITIONS),
            "PLAIN_DATA": str(stage.folder / group),
            "PLAIN_MODEL": str(stage.artefact),
            "PLAIN_ITEMS": str(stage.items_file),
        }
        program = ["-m", "benchmarks.peers.plain_faust", "worker", "-l", "warn", "--without-web"]
        return stage.start(group, program, environment)

    def _raw(self, group: str) -> Speed:
        stage = self._stage
        program = ["-m", "benchmarks.peers.raw", stage.brokers, "events", str(self._events)]
        child = stage.start(group, program, {})
        child.process.wait()
        if not child.said("read"):
            raise RuntimeError(child.log.read_text())
        _, events, seconds, cpu = child.log.read_text().split()[-4:]
        return Speed(float(events) / float(seconds), float(cpu) / float(events) * 1e6)


def ratios(speeds: dict[str, list[Speed]]) -> dict[str, Figure]:
    """Ratios are those of the medians; their runs those of each round."""
    ours, faust, raw = (
        [s.events_per_s for s in speeds[name]] for name in ("headwater", "plain_faust", "raw")
    )
    found = {name: Figure.of(runs, "events/s") for name, runs in zip(KEYS, (ours, faust, raw), strict=True)}
    middle, theirs, ceiling = (found[name].value for name in KEYS)
    by_round = [a / b for a, b in zip(ours, faust, strict=True)]
    of_raw = [a / b for a, b in zip(ours, raw, strict=True)]
    found["vs_plain_faust"] = Figure(middle / theirs, "×", 8.0, by_round)
    found["share_of_raw"] = Figure(middle / ceiling, "of raw", None, of_raw)
    for name in ("headwater", "plain_faust"):
        found[f"{name}_cpu_us"] = Figure.of([s.cpu_us for s in speeds[name]], "µs/event")
    found["vs_plain_faust_cpu"] = Figure(
        found["plain_faust_cpu_us"].value / found["headwater_cpu_us"].value, "×"
    )
    return found


KEYS = ("events_per_s", "plain_faust_events_per_s", "raw_events_per_s")


def measure(stage: Stage, *, workload: str = "uniform", quick: bool = False) -> Result:
    events, seconds, rounds = (60_000, 5.0, 1) if quick else (240_000, 12.0, 3)
    stage.send("events", WORKLOADS[workload](events))
    return Result.here(NAME, ratios(Race(stage, events, seconds).run(rounds)))


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="uniform")
    options = parser.parse_args()
    with Stage.open() as stage:
        result = measure(stage, workload=options.workload, quick=options.quick)
    figures.report(result, options)


if __name__ == "__main__":
    main()
