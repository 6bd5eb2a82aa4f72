"""Events per second of the whole job on one worker process, beside its peers and beside mere reading.

`python -m benchmarks.throughput [--workload uniform] [--peers quix,kafka_streams] [--json FILE] [--quick]`

Each runs alone on one core, broker and load on another, on the same log from its start; runs are interleaved and the median
counts. After its first output and a warm-up a worker is watched until the log is absorbed or the seconds of a run are over.
How far it came is read from the sources that its outputs name, so an event counts when its user was refreshed, whether by a
list of its own or by that of a later event. What the first run of each puts out is compared with Headwater's, whose collaborative
signals are off for it: no peer has them. `with_signals` is Headwater as it is by default. A worker that lags makes fewer lists
than it takes events (`lists_per_event`), the peers make one for each; `small_batches` makes nearly as many, where users differ.
"""

from __future__ import annotations

from benchmarks import figures
from benchmarks.child import Child
from benchmarks.contestants import HEADWATER, PEERS, VARIANTS, WITH_SIGNALS, Contestant, present
from benchmarks.figures import Figure, Result
from benchmarks.outputs import WrongOutput
from benchmarks.race import Race, Speed
from benchmarks.stage import Stage
from benchmarks.workloads import WORKLOADS, NoData, workload

NAME = "throughput"
EVENTS = {"uniform": 1_200_000, "zipf": 1_500_000, "ml-100k": 2_500_000, "fat-catalogue": 60_000}
QUICK_EVENTS = 60_000
SIGNALS_GOAL = 1 / 3
GOALS = {
    "uniform": {"vs_plain_faust": 25.0, "vs_quix": 2.5, "vs_kafka_streams": 2.0, "share_of_raw": 0.12},
    "zipf": {"vs_plain_faust": 60.0, "vs_quix": 5.0, "share_of_raw": 0.25},
    "ml-100k": {"vs_plain_faust": 60.0, "vs_quix": 5.0, "share_of_raw": 0.25},
}


def raw(stage: Stage, group: str, events: int) -> Speed:
    """The ceiling: reads and decodes."""
    child: Child = stage.python(
        group, ["-m", "benchmarks.peers.raw", stage.brokers, "events", str(events)], {}
    )
    child.process.wait()
    if not child.said("read"):
        raise RuntimeError(child.tail())
    _, n, seconds, cpu = child.log.read_text().split()[-4:]
    return Speed(float(n) / float(seconds), float(cpu) / float(n) * 1e6, 0.0)


def ratios(speeds: dict[str, list[Speed]], workload: str) -> dict[str, Figure]:
    """Ratios are those of the medians; their runs those of each round."""
    goals = GOALS.get(workload, {})
    per_s = {name: [each.events_per_s for each in found] for name, found in speeds.items()}
    ours = per_s[HEADWATER.name]
    found = {"events_per_s": Figure.of(ours, "events/s")}
    for name, runs in per_s.items():
        if name != HEADWATER.name:
            key = "share_of_raw" if name == "raw" else f"vs_{name}"
            by_round = [a / b for a, b in zip(ours, runs, strict=True)]
            value = found["events_per_s"].value / Figure.of(runs, "").value
            found[key] = Figure(value, "of raw" if name == "raw" else "×", goals.get(key), by_round)
            found[f"{name}_events_per_s"] = Figure.of(runs, "events/s")
    for variant in VARIANTS:  # beside Headwater each is a share, as raw is
        if variant.name in per_s:
            runs = per_s[variant.name]
            del found[f"vs_{variant.name}"]
            by_round = [a / b for a, b in zip(runs, ours, strict=True)]
            value = Figure.of(runs, "").value / found["events_per_s"].value
            goal = SIGNALS_GOAL if variant is WITH_SIGNALS else None
            found[f"share_{variant.name}"] = Figure(value, "of headwater", goal, by_round)
            lists = [each.outputs_per_event for each in speeds[variant.name]]
            found[f"{variant.name}_lists_per_event"] = Figure.of(lists, "lists/event")
    for name, found_speeds in speeds.items():
        found[f"{name}_cpu_us"] = Figure.of([each.cpu_us for each in found_speeds], "µs/event")
    for name in per_s.keys() - {HEADWATER.name, "raw"}:
        theirs, mine = found[f"{name}_cpu_us"], found[f"{HEADWATER.name}_cpu_us"]
        by_round = [a / b for a, b in zip(theirs.runs, mine.runs, strict=True)]
        found[f"vs_{name}_cpu"] = Figure(theirs.value / mine.value, "×", None, by_round)
    found["lists_per_event"] = Figure.of([s.outputs_per_event for s in speeds[HEADWATER.name]], "lists/event")
    return found


def race(
    stage: Stage, contestants: list[Contestant], events: int, rounds: int, warm_up_s: float, seconds: float
) -> dict[str, list[Speed]]:
    track = Race(stage, warm_up_s, seconds)
    speeds: dict[str, list[Speed]] = {}
    for number in range(rounds):
        for contestant in contestants:
            speed = track.run(contestant, number)
            if contestant.alike and contestant is not HEADWATER and not 0.95 < speed.outputs_per_event < 1.05:
                raise WrongOutput(
                    f"{contestant.name} published {speed.outputs_per_event:.3f} lists per event"
                )
            _note(speeds, contestant.name, speed)
        _note(speeds, "raw", raw(stage, f"raw-{number}", events))
    return speeds


def _note(speeds: dict[str, list[Speed]], name: str, speed: Speed) -> None:
    print(f"{name}: {speed.events_per_s:,.0f} events/s, {speed.cpu_us:.1f} µs of processor each", flush=True)
    speeds.setdefault(name, []).append(speed)


def measure(name: str = "uniform", *, peers: list[str] | None = None, quick: bool = False) -> Result:
    """Raises NoData when the workload cannot be had."""
    chosen = workload(name)
    events = min(QUICK_EVENTS, EVENTS[name]) if quick else EVENTS[name]
    warm_up_s, seconds, rounds = (0.5, 2.5, 1) if quick else (6.0, 10.0, 3)
    contestants = present(peers)
    with Stage.open(chosen) as stage:
        stage.send("events", chosen.events(events, 0))
        speeds = race(stage, contestants, events, rounds, warm_up_s, seconds)
    return Result.here(f"{NAME}-{name}", ratios(speeds, name))


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="uniform")
    parser.add_argument(
        "--peers", help=f"some of {','.join(each.name for each in (*VARIANTS, *PEERS))}; all by default"
    )
    options = parser.parse_args()
    peers = None if options.peers is None else options.peers.split(",")
    try:
        figures.report(measure(options.workload, peers=peers, quick=options.quick), options)
    except NoData as reason:
        raise SystemExit(f"{NAME}: {reason}") from None


if __name__ == "__main__":
    main()
