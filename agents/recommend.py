"""User state → `profiles` and `recommendations`: one refresh per touched user and batch, or after every event."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agents.collaborate import Blended, Collaborate
from streamer.core.columns import EventColumns
from streamer.core.diversity import CANDIDATES, F32, diverse
from streamer.core.exposure import discounted
from streamer.core.profile import profiles
from streamer.core.ranking import ItemTexts, Rows, because, exclusions, rank, recommendations
from streamer.core.signals.past import Past
from streamer.core.stamp import Stamp
from streamer.core.state_view import StateView
from streamer.core.user_state import Outcome, UserStates
from streamer.serving.champion import Champion
from streamer.transport.sending import Delivery

if TYPE_CHECKING:
    from agents.batch import Batch

REMEMBERED = 100
"""Past events that the collaborative signals look at."""
RECENT = 16
"""Past events among which the reason for a recommendation is sought."""


@dataclass(frozen=True, slots=True)
class Recommend:
    """How lists are made.

    per_event: refresh after every event instead of once per batch. top_k: list length. exclude_seen: leave out what the
    user has consumed. diversity: how much a list shuns items that are like those above them, 0..1. exposure_discount: how
    much it shuns items that everybody takes, 0..1.
    """

    profiles_topic: str
    recommendations_topic: str
    per_event: bool
    top_k: int
    exclude_seen: bool
    collaborate: Collaborate | None = None
    """Who blends the model with what other users did; None = the model alone ranks."""
    diversity: float = 0.0
    exposure_discount: float = 0.0

    @property
    def candidates(self) -> int:
        """Items ranked for each list."""
        return self.top_k * CANDIDATES if self.diversity or self.exposure_discount else self.top_k

    def listed(self, champion: Champion, as_of_ms: int, scores: F32, rows: Rows) -> Rows | None:
        """Places (n, k) of ranked candidates (n, C) that make the lists, None for the first k."""
        if not (self.diversity or self.exposure_discount) or not scores.size:
            return None
        order = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        if self.exposure_discount:
            taken = champion.taken(rows, as_of_ms)
            scores, order = discounted(scores, rows, taken, self.exposure_discount)
        if not self.diversity:
            return order[:, : self.top_k]
        rows = np.take_along_axis(rows, order, 1)
        places = diverse(scores, rows, champion.catalogue.vectors, self.diversity, self.top_k)
        return np.take_along_axis(order, places, 1)

    def begin(self, champion: Champion, states: UserStates, batch: Batch) -> Refresh:
        return Refresh(self, champion, states, batch)


class Refresh:
    """The refreshes of one batch: outputs in the order in which they must leave, per partition."""

    def __init__(self, how: Recommend, champion: Champion, states: UserStates, batch: Batch) -> None:
        self._how, self._champion, self._states, self._batch = how, champion, states, batch
        self._pending = np.ones(len(batch.users), bool)
        self._users: list[Rows] = []
        self._views: list[StateView] = []
        self._applied: list[EventColumns] = []
        self._past: list[Past] = []

    @property
    def per_event(self) -> bool:
        """Whether users are refreshed in each round, and not once in the end."""
        return self._how.per_event

    def after(self, events: EventColumns, outcome: np.ndarray) -> None:
        """Events (n,) were absorbed, one per user at most where users are refreshed per event; outcome (n,).

        Only what a refresh reads is noted here: lists are made for all at once.
        """
        self._applied.append(events.take(np.flatnonzero(outcome == Outcome.APPLIED)))
        if self._how.per_event:
            fresh = events.user[outcome != Outcome.REPLAYED]
            self._note(fresh)
            self._pending[fresh] = False

    def _note(self, users: Rows) -> None:
        if users.size:
            self._users.append(users)
            self._views.append(self._states.view(users, RECENT))
            if self._how.collaborate is not None:
                self._past.append(Past.of(self._states, users, REMEMBERED))

    def count(self) -> None:
        """Count what was applied towards popularity."""
        for events in self._applied:
            self._champion.count(events)

    def finish(self, deliveries: dict[int, Delivery]) -> None:
        """Refresh also who is left. A replayed event's user is: the list may never have left."""
        self._note(np.flatnonzero(self._pending))
        if not self._views:
            return
        users, view = np.concatenate(self._users), StateView.join(self._views)
        keys = [self._batch.users[user] for user in users.tolist()]
        partition = np.array(self._batch.partitions, np.int64)[users]
        stamp = self._stamp(view, keys, partition)
        self._collect(deliveries, self._how.profiles_topic, partition, keys, self._profiles(view, stamp))
        self._collect(
            deliveries, self._how.recommendations_topic, partition, keys, self._lists(view, keys, stamp)
        )

    def _stamp(self, view: StateView, keys: list[bytes], partition: np.ndarray) -> Stamp:
        topics = self._batch.topics
        number = np.zeros(max(topics) + 1, np.int64)
        number[list(topics)] = np.arange(len(topics))
        return Stamp.of(
            view.heads,
            keys,
            self._champion.model.version,
            list(topics.values()),
            number[partition],
            partition,
        )

    def _collect(
        self,
        deliveries: dict[int, Delivery],
        topic: str,
        partition: np.ndarray,
        keys: list[bytes],
        values: list[bytes],
    ) -> None:
        records = list(zip(keys, values, strict=True))
        for each in self._batch.topics:
            of_it = np.flatnonzero(partition == each).tolist()
            deliveries[each].outputs.setdefault(topic, []).extend([records[at] for at in of_it])

    def _profiles(self, view: StateView, stamp: Stamp) -> list[bytes]:
        champion = self._champion
        probabilities = champion.interests(view.heads["gru"].astype(np.float32))
        return profiles(
            view,
            np.arange(stamp.n),
            stamp,
            tasks={task: (champion.task_texts[task], p) for task, p in probabilities.items()},
            categories=champion.category_texts,
            types=champion.types,
        )

    def _lists(self, view: StateView, keys: list[bytes], stamp: Stamp) -> list[bytes]:
        champion, collaborate = self._champion, self._how.collaborate
        if collaborate is not None:
            seen = view.seen if self._how.exclude_seen else (np.zeros(0, np.int64), np.zeros(0, np.uint64))
            past = Past.join(self._past)
            listed = functools.partial(self._how.listed, champion, self._as_of(view))
            blended = collaborate.lists(
                champion, keys, past, view.heads["gru"], seen, self._how.candidates, listed
            )
            if blended is not None:
                return blended_lists(blended, stamp, champion.item_texts)
        scores, rows, usable = self._top_k(view)
        reasons = because(champion.rows_with_vector(view.recent), rows, champion.catalogue.vectors)
        reasons[~usable] = -1
        return recommendations(scores, rows, reasons, usable, stamp, champion.item_texts)

    @staticmethod
    def _as_of(view: StateView) -> int:
        return int(view.heads["watermark"].max())

    def _top_k(self, view: StateView) -> tuple[np.ndarray, Rows, np.ndarray]:
        """Scores (n, k), rows (n, k; -1 = none left), and who (n,) has a usable history; the others get what is popular."""
        champion, heads = self._champion, view.heads
        excluded = np.empty((0, 2), np.int64)
        if self._how.exclude_seen:
            excluded = exclusions(*view.seen, champion.catalogue.rows)
        usable = heads["usable"] > 0
        scores, rows = champion.score(heads["gru"].astype(np.float32), excluded, self._how.candidates)
        if not usable.all() and scores.shape[1]:
            cold = np.flatnonzero(~usable)
            theirs = np.isin(excluded[:, 0], cold)
            renumbered = np.stack([np.searchsorted(cold, excluded[theirs, 0]), excluded[theirs, 1]], axis=1)
            as_of = heads["watermark"][cold]
            scores[cold], rows[cold] = champion.popular(len(cold), renumbered, scores.shape[1], as_of)
        scores, rows, _ = rank(scores, rows)
        places = self._how.listed(champion, self._as_of(view), scores, rows)
        if places is not None:
            scores, rows = np.take_along_axis(scores, places, 1), np.take_along_axis(rows, places, 1)
        return scores, rows, usable


def blended_lists(blended: Blended, stamp: Stamp, items: ItemTexts) -> list[bytes]:
    n = len(blended.row)
    return recommendations(
        blended.score,
        blended.row,
        blended.reason,
        np.ones(n, np.bool_),
        stamp,
        items,
        signals=blended.signal,
        weights=blended.weights,
    )
