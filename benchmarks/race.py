"""Contestants on one stage, one at a time: how fast each absorbs the log, and whether its outputs are right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import outputs
from benchmarks.child import Child
from benchmarks.contestants import Contestant
from benchmarks.stage import Ends, Stage
from streamer.core.protocol import Profile, Recommendations

SAMPLE_S = 0.1
QUIET_S = 1.5
"""After this long without an output we look whether the log is absorbed: some publish in bursts."""
SETTLE_S = 0.5
"""What a killed worker had sent is in the log by then."""
CHECKED = 4000
"""Outputs per partition among which those are sought that answer the same events."""


@dataclass
class Speed:
    """What one contestant did in one run."""

    events_per_s: float
    cpu_us: float
    """Processor time per event, in µs: what a busy machine distorts least."""
    outputs_per_event: float


@dataclass(frozen=True)
class Moment:
    """A look at running workers."""

    at: float
    cpu_s: float
    ends: Ends


class Published(NamedTuple):
    """What the first run of a contestant put out, to compare."""

    lists: dict[outputs.Place, Recommendations]
    profiles: dict[outputs.Place, Profile]


class Race:
    """warm_up_s: of every worker, not counted; a third of the log at most. seconds: how long it is then watched."""

    def __init__(self, stage: Stage, warm_up_s: float, seconds: float) -> None:
        self._stage, self._warm_up_s, self._seconds = stage, warm_up_s, seconds
        self._events = stage.log_end("events")
        self._reference: Published | None = None

    def run(self, contestant: Contestant, number: int) -> Speed:
        """Raises WrongOutput when its outputs should be those of the one who ran first and are not."""
        stage, group = self._stage, f"{contestant.name}-{number}".replace("_", "-")
        starts = {topic: stage.ends(topic) for topic in ("recommendations", "profiles")}
        warm_up_s = self._warm_up_s * contestant.warm_up
        moments = self._watch(contestant.start(stage, group), starts["recommendations"], warm_up_s)
        ends = {topic: stage.ends(topic) for topic in starts}
        if number == 0 and contestant.alike:
            self._check(contestant.name, starts, ends)
        return self._speed(contestant.name, starts["recommendations"], moments, warm_up_s)

    def _watch(self, child: Child, before: Ends, warm_up_s: float) -> list[Moment]:
        """Looks from the first output on until the log is absorbed or the time is over; then it is killed."""
        stage = self._stage
        try:
            stage.wait(lambda: stage.ends("recommendations") != before, child, "the first recommendation")
            return follow(stage, [child], before, self._events, warm_up_s + self._seconds)
        finally:
            child.kill()
            time.sleep(SETTLE_S)

    def _speed(self, name: str, before: Ends, moments: list[Moment], warm_up_s: float) -> Speed:
        start, last = span(moments, warm_up_s)
        if start is last:
            raise RuntimeError(f"{name} had finished before it could be watched: use more events")
        first = outputs.absorbed(self._stage, before, start.ends)
        end = outputs.absorbed(self._stage, before, last.ends)
        published = sum(last.ends.values()) - sum(before.values())
        return Speed(
            (end - first) / (last.at - start.at),
            (last.cpu_s - start.cpu_s) / (end - first) * 1e6,
            published / end,
        )

    def _check(self, name: str, starts: dict[str, Ends], ends: dict[str, Ends]) -> None:
        here = Published(
            self._first("recommendations", Recommendations, starts, ends),
            self._first("profiles", Profile, starts, ends),
        )
        if self._reference is None:
            self._reference = here
            return
        lists = outputs.compare_lists(name, here.lists, self._reference.lists)
        profiles = outputs.compare_profiles(name, here.profiles, self._reference.profiles)
        print(f"{name}: {lists} lists and {profiles} profiles are headwater's", flush=True)

    def _first(
        self, topic: str, kind: type[outputs.Output], starts: dict[str, Ends], ends: dict[str, Ends]
    ) -> dict[outputs.Place, outputs.Output]:
        return outputs.first(self._stage, topic, kind, starts[topic], ends[topic], CHECKED)


def follow(stage: Stage, workers: Sequence[Child], before: Ends, events: int, seconds: float) -> list[Moment]:
    """Looks at workers that began at the start of the log, until its first `events` are absorbed or the time is over."""
    moments, deadline, look_at = [look(stage, workers)], time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < deadline:
        time.sleep(SAMPLE_S)
        for worker in workers:
            worker.must_live()
        moments.append(look(stage, workers))
        if moments[-1].ends != moments[-2].ends:
            look_at = now + QUIET_S
        elif now > look_at:
            if outputs.absorbed(stage, before, moments[-1].ends) >= events:
                break
            look_at = now + QUIET_S
    return moments


def look(stage: Stage, workers: Sequence[Child]) -> Moment:
    return Moment(time.monotonic(), sum(worker.cpu_s() for worker in workers), stage.ends("recommendations"))


def span(moments: Sequence[Moment], warm_up_s: float) -> tuple[Moment, Moment]:
    """The looks between which a worker is measured: behind the warm-up, or a third of the run where that is shorter.

    Who publishes in bursts is looked at after a burst both times, since what is computed but not yet published is not seen.
    """
    grown = [i for i in range(1, len(moments)) if moments[i].ends != moments[i - 1].ends]
    if not grown:
        return moments[0], moments[0]
    begin = moments[0].at + min(warm_up_s, (moments[grown[-1]].at - moments[0].at) / 3)
    counted = [i for i in grown if moments[i].at >= begin]
    after_burst = [i for i in counted if i + 1 not in grown]
    edges = after_burst if len(after_burst) > 1 else counted
    return moments[edges[0]], moments[edges[-1]]
