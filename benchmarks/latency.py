"""Milliseconds from an event to its recommendation, at a steady rate.

`python -m benchmarks.latency [--rate 1000] [--who headwater] [--json FILE] [--quick]`

Open loop: an event counts from the moment at which it was meant to be sent, so that waiting counts too. One process sends
the events and reads `recommendations`; it knows an event's recommendation by partition and offset of its source. Every
event is another user's, so none is coalesced with a later one. Percentiles are those of an HdrHistogram, three digits.
"""

from __future__ import annotations

from collections.abc import Sequence

from hdrh.histogram import HdrHistogram

from benchmarks import figures
from benchmarks.contestants import HEADWATER, PEERS, WITH_SIGNALS, Contestant
from benchmarks.figures import Figure, Result
from benchmarks.load import Load
from benchmarks.stage import Stage

NAME = "latency"
RATES = (100, 1000, 5000)
WARM_UP_S = 5.0
PERCENTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9}
GOALS = {(1000.0, "p99_ms"): 50.0}
LONGEST_US = 120_000_000


def histogram(waits_s: Sequence[float]) -> HdrHistogram:
    """Of microseconds."""
    made = HdrHistogram(1, LONGEST_US, 3)
    for wait_s in waits_s:
        made.record_value(min(LONGEST_US, max(1, round(wait_s * 1e6))))
    return made


def measure(rate: float = 1000.0, *, who: Contestant = HEADWATER, quick: bool = False) -> Result:
    seconds, rounds = (8.0, 1) if quick else (25.0, 3)
    warm_up, each = int(rate * WARM_UP_S), int(rate * (WARM_UP_S + seconds))
    runs: dict[str, list[float]] = {key: [] for key in PERCENTILES}
    cpu_us = []
    with Stage.open() as stage:
        worker = who.start(stage, "latency")
        try:
            before = stage.log_end("recommendations")
            stage.send("events", stage.workload.events(1, 0))
            stage.wait(lambda: stage.log_end("recommendations") > before, worker, "the first recommendation")
            for number in range(rounds):
                spent = worker.cpu_s()
                events = stage.workload.events(each, 1 + number * each)
                waits = stage.loop.run(Load(stage.brokers, rate).run(events))
                cpu_us.append((worker.cpu_s() - spent) / each * 1e6)
                found = histogram(waits[warm_up:])
                for key, percent in PERCENTILES.items():
                    runs[key].append(found.get_value_at_percentile(percent) / 1000)
                print(", ".join(f"{key} {values[-1]:.1f}" for key, values in runs.items()), flush=True)
        finally:
            worker.kill()
    made = {key: Figure.of(values, "ms", _goal(who, rate, key)) for key, values in runs.items()}
    made["cpu_us"] = Figure.of(cpu_us, "µs/event")
    return Result.here(f"{NAME}-{rate:g}" + ("" if who is HEADWATER else f"-{who.name}"), made)


def _goal(who: Contestant, rate: float, key: str) -> float | None:
    return GOALS.get((rate, key)) if who is HEADWATER else None


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rate", type=float, default=1000.0, help="events per second")
    names = {each.name: each for each in (HEADWATER, WITH_SIGNALS, *PEERS)}
    parser.add_argument("--who", choices=names, default=HEADWATER.name, help="whose worker")
    options = parser.parse_args()
    who = names[options.who]
    if reason := who.missing():
        raise SystemExit(f"{NAME}: {who.name} cannot run here: {reason}")
    figures.report(measure(options.rate, who=who, quick=options.quick), options)


if __name__ == "__main__":
    main()
