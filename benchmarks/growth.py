"""How the cost of an event grows with the catalogue, the window, the users, the partitions and the workers.

`python -m benchmarks.growth [--axes users,window] [--largest 1000000] [--json FILE] [--quick]`

One worker on one core; each point is a run on a fresh broker, first over events that fill the users' states and then over
those that count. `growth` is the steepest of the ratios between an axis's last and first point, in processor time per event;
the catalogue's is apart, since exact scoring is linear in it. 2 workers have a core each where the machine has three, and share
one elsewhere; the events per second of both together count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from benchmarks import figures, outputs
from benchmarks.figures import Figure, Result
from benchmarks.race import follow
from benchmarks.stage import PARTITIONS, Stage
from benchmarks.workloads import ITEMS, USERS, uniform

NAME = "growth"
PATIENCE_S = 900.0
COUNTED = 100_000
LARGEST = 1_000_000
SLOW = 1_000_000 * 1000
"""Items times events that one point may score."""


@dataclass(frozen=True)
class Point:
    """filled: events per user that come before those that count; counted: how many those are."""

    items: int = ITEMS
    window: int = 100
    users: int = USERS
    partitions: int = PARTITIONS
    workers: int = 1
    filled: int = 2
    counted: int = COUNTED
    batch: int = 2000
    """Events per batch; half as many, if each is another user's. So few that no user comes twice in one."""

    @property
    def settings(self) -> dict[str, int]:
        return {"window": self.window, "max_batch_events": self.batch}

    @property
    def events(self) -> tuple[int, int]:
        """How many fill and how many count: fewer where a list takes long to make."""
        affordable = max(2000, SLOW // self.items)
        return min(self.users * self.filled, affordable), min(self.counted, affordable)


@dataclass(frozen=True)
class Cost:
    cpu_us: float
    events_per_s: float


WINDOWED = Point(users=1000, batch=250)
"""Few users, so that their windows fill soon."""
MANY_USERS = Point(users=200_000, filled=1)
"""So many that each of 64 partitions has more of them than a batch takes."""
AXES = {
    "catalogue": [(items, Point(items=items)) for items in (1000, 10_000, 50_000, 100_000, 1_000_000)],
    "window": [
        (window, replace(WINDOWED, window=window, filled=window, counted=50_000))
        for window in (50, 100, 200, 500)
    ],
    "users": [(users, Point(users=users)) for users in (10_000, 100_000, 1_000_000)],
    "partitions": [(partitions, replace(MANY_USERS, partitions=partitions)) for partitions in (1, 8, 64)],
    "workers": [(workers, Point(workers=workers)) for workers in (1, 2)],
}
QUICK = {"users": [(2000, Point(users=2000, counted=10_000)), (10_000, Point(users=10_000, counted=10_000))]}


def cost(point: Point) -> Cost:
    """Of the events that count, until the last output."""
    filling, counted = point.events
    with Stage.open(
        uniform(point.users, point.items), partitions=point.partitions, measured=point.workers
    ) as stage:
        before = stage.ends("recommendations")
        workers = [
            stage.headwater(
                NAME, f"{NAME}-{n}", state_dir=stage.folder / f"state-{n}", **cast(Any, point.settings)
            )
            for n in range(point.workers)
        ]
        try:
            stage.send("events", stage.workload.events(filling, 0))
            outputs.wait_absorbed(stage, workers[0], before, filling, PATIENCE_S)
            stage.send("events", stage.workload.events(counted, filling))
            moments = follow(stage, workers, before, filling + counted, PATIENCE_S)
            last = next(n for n in reversed(range(1, len(moments))) if moments[n].ends != moments[n - 1].ends)
            start, end = moments[0], moments[last]
            first = outputs.absorbed(stage, before, start.ends)
            events = outputs.absorbed(stage, before, end.ends) - first
            return Cost((end.cpu_s - start.cpu_s) / events * 1e6, events / (end.at - start.at))
        finally:
            for worker in workers:
                worker.kill()


def figures_of(axes: dict[str, list[tuple[int, Cost]]]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    ratios: dict[str, float] = {}
    for axis, costs in axes.items():
        for at, each in costs:
            found[f"{axis}_{at}_cpu_us"] = Figure(each.cpu_us, "µs/event")
            found[f"{axis}_{at}_events_per_s"] = Figure(each.events_per_s, "events/s")
        ratios[axis] = costs[-1][1].cpu_us / costs[0][1].cpu_us
        found[f"growth_{axis}"] = Figure(ratios[axis], "×")
    others = [ratio for axis, ratio in ratios.items() if axis != "catalogue"]
    if others:
        found["growth"] = Figure(max(others), "×")
    return found


def measure(axes: Sequence[str] = tuple(AXES), *, largest: int = LARGEST, quick: bool = False) -> Result:
    costs: dict[Point, Cost] = {}
    found: dict[str, list[tuple[int, Cost]]] = {}
    for axis in ["users"] if quick else axes:
        for at, point in (QUICK if quick else AXES)[axis]:
            if at > largest:
                continue
            if point not in costs:
                costs[point] = cost(point)
            each = costs[point]
            print(
                f"{axis} {at:,}: {each.cpu_us:.1f} µs of processor, {each.events_per_s:,.0f} events/s",
                flush=True,
            )
            found.setdefault(axis, []).append((at, each))
    return Result.here(NAME, figures_of(found))


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--axes", default=",".join(AXES), help="some of these, separated by commas")
    parser.add_argument("--largest", type=int, default=LARGEST, help="leave out points above")
    options = parser.parse_args()
    axes = options.axes.split(",")
    if unknown := set(axes) - AXES.keys():
        raise SystemExit(f"{NAME}: {', '.join(sorted(unknown))} is none of {', '.join(AXES)}")
    figures.report(measure(axes, largest=options.largest, quick=options.quick), options)


if __name__ == "__main__":
    main()
