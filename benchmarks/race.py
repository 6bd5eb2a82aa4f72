"""Contestants on one stage, one at a time: how fast each absorbs the log, and whether its outputs are right."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks import outputs
from benchmarks.child import Child
from benchmarks.contestants import Contestant
from benchmarks.stage import Ends, Stage
from streamer.core.protocol import Profile, Recommendations

SAMPLE_S = 0.1
QUIET_S = 1.5
"""After this long without an output we look whether the log is absorbed: some publish in bursts."""
CHECKED = 400
"""Outputs per partition that are compared."""


@dataclass
class Speed:
    """What one contestant did in one run."""

    events_per_s: float
    cpu_us: float
    """Processor time per event, in µs: what a busy machine distorts least."""
    outputs_per_event: float


@dataclass(frozen=True)
class Moment:
    """A look at a running worker."""

    at: float
    cpu_s: float
    ends: Ends


@dataclass
class Published:
    """What the first run of a contestant put out, to compare."""

    lists: dict[outputs.Place, Recommendations] = field(default_factory=dict)
    profiles: dict[outputs.Place, Profile] = field(default_factory=dict)


class Race:
    """warm_up_s: of every worker, not counted; a third of the log at most. seconds: how long it is then watched."""

    def __init__(self, stage: Stage, warm_up_s: float, seconds: float) -> None:
        self._stage, self._warm_up_s, self._seconds = stage, warm_up_s, seconds
        self._events = stage.log_end("events")
        self._published: dict[str, Published] = {}

    def run(self, contestant: Contestant, number: int) -> Speed:
        """Raises WrongOutput when its outputs are not those of the one who ran first."""
        stage, group = self._stage, f"{contestant.name}-{number}".replace("_", "-")
        starts = {topic: stage.ends(topic) for topic in ("recommendations", "profiles")}
        moments = self._watch(contestant.start(stage, group), starts["recommendations"])
        ends = {topic: stage.ends(topic) for topic in starts}
        if number == 0:
            self._check(contestant.name, starts, ends)
        return self._speed(contestant.name, starts["recommendations"], moments)

    def _watch(self, child: Child, before: Ends) -> list[Moment]:
        """Looks from the first output on until the log is absorbed or the time is over; then it is killed."""
        stage = self._stage
        try:
            stage.wait(lambda: stage.ends("recommendations") != before, child, "the first recommendation")
            moments, deadline = [self._look(child)], time.monotonic() + self._warm_up_s + self._seconds
            look_at = 0.0
            while (now := time.monotonic()) < deadline:
                time.sleep(SAMPLE_S)
                child.must_live()
                moment = self._look(child)
                if moment.ends != moments[-1].ends:
                    moments.append(moment)
                    look_at = now + QUIET_S
                elif now > look_at:
                    if outputs.absorbed(stage, before, moment.ends) >= self._events:
                        break
                    look_at = now + QUIET_S
            return moments
        finally:
            child.kill()

    def _look(self, child: Child) -> Moment:
        return Moment(time.monotonic(), child.cpu_s(), self._stage.ends("recommendations"))

    def _speed(self, name: str, before: Ends, moments: list[Moment]) -> Speed:
        last = moments[-1]
        warm_up_s = min(self._warm_up_s, (last.at - moments[0].at) / 3)
        start = next(moment for moment in moments if moment.at >= moments[0].at + warm_up_s)
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
        if self._published:
            reference = next(iter(self._published.values()))
            lists = outputs.compare_lists(name, here.lists, reference.lists)
            profiles = outputs.compare_profiles(name, here.profiles, reference.profiles)
            print(f"{name}: {lists} lists and {profiles} profiles are headwater's", flush=True)
        self._published[name] = here

    def _first(
        self, topic: str, kind: type[outputs.Output], starts: dict[str, Ends], ends: dict[str, Ends]
    ) -> dict[outputs.Place, outputs.Output]:
        return outputs.first(self._stage, topic, kind, starts[topic], ends[topic], CHECKED)
