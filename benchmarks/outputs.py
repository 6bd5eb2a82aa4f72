"""What a worker has published: how far it came, and whether its lists and profiles are the right ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from benchmarks.child import Child
from benchmarks.stage import Ends, Stage
from streamer.core.protocol import Label, Profile, Recommendations, Source

TAIL = 1000
"""Records of a partition among which the newest source is sought: a batch leaves in no certain order of offsets."""
TOLERANCE = 2e-2
"""Numbers may differ by that much: Headwater keeps states in half precision, its peers in single (at most 0.01 was seen)."""

SAME_REASONS = 0.98
"""Share of the reasons that must be the same: two past items can support an item (nearly) equally."""

Place = tuple[int, int]
"""Partition and offset of an event."""
Output = TypeVar("Output", Recommendations, Profile)


class Sourced(msgspec.Struct):
    """What an output says about itself."""

    source: Source


class WrongOutput(Exception):
    """A contestant does not do the same job."""


def absorbed(stage: Stage, starts: Ends, ends: Ends) -> int:
    """Events behind the recommendations from `starts` to before `ends`, of a worker that began at the start of the log."""
    decode = msgspec.json.Decoder(Sourced).decode
    furthest: dict[int, int] = {}
    tails = {partition: max(starts[partition], end - TAIL) for partition, end in ends.items()}
    for value in stage.values("recommendations", tails, ends):
        source = decode(value).source
        furthest[source.partition] = max(furthest.get(source.partition, -1), source.offset)
    return sum(offset + 1 for offset in furthest.values())


def wait_absorbed(stage: Stage, child: Child, before: Ends, events: int, within_s: float) -> None:
    """Until a worker that began at the start of the log has refreshed for its first `events` events.

    Raises RuntimeError when it ends or the time runs out first.
    """
    last: list[Ends] = []

    def done() -> bool:
        ends = stage.ends("recommendations")
        settled = last[-1:] == [ends]  # looking at the sources is for when nothing comes any more
        last[:] = [ends]
        return settled and ends != before and absorbed(stage, before, ends) >= events

    child.wait(done, f"the refresh for event {events:,}", within_s, every_s=1.0)


def first(
    stage: Stage, topic: str, kind: type[Output], starts: Ends, ends: Ends, sample: int
) -> dict[Place, Output]:
    """Up to `sample` outputs per partition, the first ones behind `starts`, by the event that they answer."""
    decode = msgspec.json.Decoder(kind).decode
    stops = {partition: min(end, starts[partition] + sample) for partition, end in ends.items()}
    outputs = map(decode, stage.values(topic, starts, stops))
    return {(each.source.partition, each.source.offset): each for each in outputs}


def compare_lists(
    name: str, theirs: Mapping[Place, Recommendations], ours: Mapping[Place, Recommendations]
) -> int:
    """How many lists were compared: those that answer the same events.

    Raises WrongOutput when one differs in more than the order of (nearly) equal scores, or its reasons in more than a few.
    """
    common = theirs.keys() & ours.keys()
    reasons = same_reasons = 0
    for place in common:
        one, other = theirs[place], ours[place]
        if (one.user_id, one.version) != (other.user_id, other.version) or not same_list(one, other):
            raise WrongOutput(f"{name} and headwater differ at event {place}:\n{one}\n{other}")
        because = {item.item_id: item.because for item in other.items}
        for item in one.items:
            if item.item_id in because:
                reasons += 1
                same_reasons += item.because == because[item.item_id]
    if not common:
        raise WrongOutput(
            f"no list of {name} answers the same event as one of headwater's: nothing to compare ({len(theirs)} "
            f"and {len(ours)} lists were read)"
        )
    if same_reasons < SAME_REASONS * reasons:
        raise WrongOutput(f"only {same_reasons} of {name}'s {reasons} reasons are headwater's")
    return len(common)


def same_list(one: Recommendations, other: Recommendations) -> bool:
    """Whether the scores are the same, and the items too where the scores tell them apart."""
    if len(one.items) != len(other.items):
        return False
    scores = {item.item_id: item.score for item in other.items}
    last = other.items[-1].score if other.items else 0.0
    return all(
        close(a.score, b.score) and close(scores.get(a.item_id, last), a.score)
        for a, b in zip(one.items, other.items, strict=True)
    )


def compare_profiles(name: str, theirs: Mapping[Place, Profile], ours: Mapping[Place, Profile]) -> int:
    """How many profiles were compared. Raises WrongOutput when one lacks something, or the model's heads say otherwise."""
    common = theirs.keys() & ours.keys()
    for place in common:
        one, other = theirs[place], ours[place]
        tasks = other.interests.keys() - {"short_term", "long_term"}
        if (
            one.version != other.version
            or one.interests.keys() != other.interests.keys()
            or one.activity.keys() != other.activity.keys()
            or not all(same_labels(one.interests[task], other.interests[task]) for task in tasks)
        ):
            raise WrongOutput(f"{name} and headwater differ at event {place}:\n{one}\n{other}")
    if not common:
        raise WrongOutput(f"{name} has no profile that answers the same event as one of headwater's")
    return len(common)


def same_labels(one: list[Label], other: list[Label]) -> bool:
    known = {each.label: each.p for each in other}
    return len(one) == len(other) and all(close(known.get(each.label, each.p), each.p) for each in one)


def close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a))
