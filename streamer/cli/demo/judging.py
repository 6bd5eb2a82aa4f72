"""The demo's quality: each event judged by what had been published for its user before it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from streamer.cli.demo.replay import Arrival
from streamer.cli.produce import Sent
from streamer.core.evaluation import PrequentialJudge
from streamer.core.protocol import Recommendations
from streamer.datasets import Interaction

SOON = 50
"""Events: an event that follows the same user's last one within so many is what a nightly batch cannot serve."""


@dataclass(frozen=True)
class Quality:
    """Figures between 0 and 1."""

    hit_rate_at_10: dict[str, float]
    ndcg_at_10: dict[str, float]
    follows_soon: float
    """Share of events within SOON events of the same user's previous one."""
    unseen_users: float
    """Share of events of users that training never saw."""


class PublishedBefore:
    """For an event at offset o: its user's last recommendation whose source.offset is smaller than o."""

    def __init__(self, outputs: Iterable[Recommendations]) -> None:
        self._by_user: dict[str, list[tuple[int, Recommendations]]] = {}
        for output in outputs:
            self._by_user.setdefault(output.user_id, []).append((output.source.offset, output))
        for published in self._by_user.values():
            published.sort(key=_source_offset)  # stable: of equal offsets the later published stays last

    def at(self, user: str, offset: int) -> Recommendations | None:
        """None when nothing was published for the user before the event."""
        published = self._by_user.get(user, [])
        place = bisect.bisect_left(published, offset, key=_source_offset)
        return published[place - 1][1] if place else None


def _source_offset(published: tuple[int, Recommendations]) -> int:
    return published[0]


def judge(
    training: Sequence[Interaction],
    replayed: Sequence[Interaction],
    sent: Sequence[Sent],
    arrivals: Sequence[Arrival],
    item_ids: Sequence[str],
    advance: Callable[[int], None] = lambda n: None,
) -> Quality:
    """Stream, popularity and item-kNN on the same events, in the order of the replay."""
    judged = PrequentialJudge(item_ids)
    judged.warm((event.user_id, event.item_id) for event in training)
    before = PublishedBefore(arrival.output for arrival in arrivals)
    for position, (event, record) in enumerate(zip(replayed, sent, strict=True), 1):
        published = before.at(event.user_id, record.offset)
        items = None if published is None else [item.item_id for item in published.items]
        judged.judge(event.user_id, event.item_id, items)
        if position % 100 == 0:
            advance(position)
    report = judged.report()
    known = {event.user_id for event in training}
    return Quality(
        report["hit_rate_at_10"],
        report["ndcg_at_10"],
        share_soon([event.user_id for event in replayed]),
        sum(event.user_id not in known for event in replayed) / max(len(replayed), 1),
    )


def share_soon(users: Sequence[str]) -> float:
    """Share of events that come at most SOON events after the same user's previous one (the first has none)."""
    last: dict[str, int] = {}
    soon = 0
    for position, user in enumerate(users):
        soon += position - last.get(user, -SOON - 1) <= SOON
        last[user] = position
    return soon / max(len(users), 1)
