"""Collaborative signals in a worker: what is told of each applied event, what is learned from it, and the blended lists."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer import telemetry
from streamer.core.columns import EventColumns
from streamer.core.event_types import EventTypes
from streamer.core.hashing import event_hash
from streamer.core.signals import Contexts, Extra, Ranked
from streamer.core.signals.context_kernels import products
from streamer.core.signals.exploration import explored
from streamer.core.signals.features import Signal
from streamer.core.signals.history import NONE
from streamer.core.signals.replay import STEP_EVENTS
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.told import before_each
from streamer.core.signals.weights import LEARNER_KEY, Published, encode_learner
from streamer.core.user_state import Outcome, UserStates
from streamer.serving.champion import Champion
from streamer.transport.batch_producer import Pair
from streamer.transport.sending import Delivery

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
F32 = NDArray[np.float32]

LEARNER_PARTITION = 0
"""Whoever owns this partition of `events` learns, from its events; all others follow the weights."""
LEARNED_PER_S, LEARNED_AT_ONCE = 20, 64
"""So many of its events are learned from at most, per second of event time and per batch: a millisecond each."""
MODEL_ITEMS = 100
"""Candidates that the model contributes."""
ROWS_OF_A_RECORD = 4_000
"""At 190 bytes at most: below the broker's limit of a record."""
FIRST_STEPS, STEPS, EVERY_S = 150, 100, 60.0
"""Weights are published after so many steps the first time, then after so many more but not more often than this."""
FRESH_ITEMS = 64
"""Items without interactions among which one is chosen for exploration."""


def with_items(item: Hashes, time_ms: Rows) -> tuple[Hashes, Rows]:
    """Items and times (n, W) of last events without those that have no item (0) between, left-aligned."""
    if (item[:, 1:] != 0)[item[:, :-1] == 0].any():
        order = np.argsort(item == 0, axis=1, kind="stable")
        item, time_ms = np.take_along_axis(item, order, 1), np.take_along_axis(time_ms, order, 1)
    return item, time_ms


@dataclass(slots=True)
class Past:
    """What n users did last: item hashes and times (n, W), newest first, left-aligned, 0 = none; and the clock (n,)."""

    item: Hashes
    time_ms: Rows
    now_ms: Rows
    length: Rows

    @classmethod
    def of(cls, states: UserStates, users: Rows, last: int) -> Past:
        """Of `users` (n,) of a batch, as things stand."""
        item, when = with_items(states.recent_items(users, last), states.windows.recent_times(users, last))
        heads = states.heads
        return cls(
            item, when, heads["watermark"][users].astype(np.int64), heads["version"][users].astype(np.int64)
        )

    @classmethod
    def join(cls, parts: list[Past]) -> Past:
        return cls(
            np.concatenate([each.item for each in parts]),
            np.concatenate([each.time_ms for each in parts]),
            np.concatenate([each.now_ms for each in parts]),
            np.concatenate([each.length for each in parts]),
        )


@dataclass(slots=True)
class Blended:
    """Lists of n users in catalogue rows, best first, -1 where they are shorter."""

    score: F32
    row: Rows
    reason: Rows
    signal: NDArray[np.int64]
    """(n, k) number of the `Signal` that carried each most, -1 where there is none"""
    weights: str
    """Name of the weights"""

    def at(self, places: Rows) -> Blended:
        """The items at places (n, k')."""
        return Blended(
            np.take_along_axis(self.score, places, 1),
            np.take_along_axis(self.row, places, 1),
            np.take_along_axis(self.reason, places, 1),
            np.take_along_axis(self.signal, places, 1),
            self.weights,
        )


class Collaborate:
    """One per worker; used in the executor only.

    session_gap_ms: a longer pause ends a session. explore: share of the lists whose last place goes to an item without
    interactions. exclude_seen: whether lists leave out what the user has consumed.
    """

    def __init__(
        self,
        shared: SharedSignals,
        types: EventTypes,
        *,
        events_topic: str,
        weights_topic: str,
        session_gap_ms: int = 30 * 60 * 1000,
        explore: float = 0.0,
        exclude_seen: bool = True,
    ) -> None:
        self.shared = shared
        self._exclude_seen = exclude_seen
        self._events_topic, self._weights_topic = events_topic, weights_topic
        self._session_gap_ms, self._explore = session_gap_ms, explore
        self._weight = np.zeros(32, np.float32)
        for each in types:
            self._weight[each.code] = each.weight
        self._published_steps, self._published_s = 0, -EVERY_S
        self._learned_ms = 0
        self._catalogue: tuple[Champion, int, Rows, NDArray[np.bool_]] | None = None

    def begin(self, champion: Champion, states: UserStates, partitions: list[int]) -> Told:
        self._meet(champion)
        return Told(self, champion, states, np.array(partitions, np.int64))

    def _meet(self, champion: Champion) -> None:
        """Weights belong to a model."""
        if self.shared.model != champion.model.version:
            self.shared.meet(champion.model.version, champion.model.blend)

    def rows_of(self, champion: Champion) -> tuple[Rows, NDArray[np.bool_]]:
        """Of every numbered item its catalogue row, -1 = none, and whether it is barred from lists."""
        numbers = self.shared.numbers
        if (
            self._catalogue is None
            or self._catalogue[0] is not champion
            or self._catalogue[1] != len(numbers)
        ):
            numbers.add(champion.catalogue.hashes)
            rows = champion.catalogue.rows(numbers.hashes)
            barred = (rows < 0) | ~np.isfinite(champion.catalogue.bias[rows])
            self._catalogue = champion, len(numbers), rows, barred
        return self._catalogue[2], self._catalogue[3]

    def contexts(self, past: Past) -> Contexts:
        """It is as late as the newest event of all, whoever's."""
        now_ms = np.maximum(past.now_ms, self.shared.clock_ms)
        return Contexts(self.shared.numbers.rows(past.item), past.time_ms, now_ms, past.length)

    def sample(self, at: Rows, time_ms: Rows) -> Rows:
        """Some of the places `at` (n,) of events, evenly, as many as event time and the batch allow."""
        if not at.size:
            return at
        newest = int(time_ms[at].max())
        passed_s = max(newest - self._learned_ms, 0) / 1000
        allowed = min(int(passed_s * LEARNED_PER_S), LEARNED_AT_ONCE)
        if not allowed:
            return at[:0]
        self._learned_ms = max(self._learned_ms, newest)
        return at[:: -(-len(at) // allowed)]

    def seen(self, states: UserStates, users: Rows) -> tuple[Rows, Hashes]:
        """What lists of `users` (n,) must leave out: positions (m,), item hashes (m,)."""
        if self._exclude_seen:
            return states.seen(users)
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)

    def model(self, champion: Champion, gru: F32, excluded: Rows) -> Extra:
        """What the GRU says to n users; excluded (M, 2): pairs of (user, catalogue row)."""
        catalogue = champion.catalogue
        _, best = champion.score(gru, excluded, min(MODEL_ITEMS, max(len(catalogue.ids), 1)))
        query, rows = champion.model.query(gru), self.rows_of(champion)[0]
        number = np.full(len(catalogue.bias), NONE, np.int64)
        listed = np.flatnonzero(rows >= 0)
        number[rows[listed]] = listed

        def score(at: Rows, items: Rows) -> F32:
            said = np.empty(items.shape, np.float32)
            products(query, at, items, rows, catalogue.vectors, catalogue.bias, said)
            return said

        return Extra(np.where(best >= 0, number[best], NONE), score)

    def lists(
        self,
        champion: Champion,
        keys: list[bytes],
        past: Past,
        gru: F32,
        seen: tuple[Rows, Hashes],
        k: int,
        choose: Callable[[Champion, F32, Rows], Rows | None],
    ) -> Blended | None:
        """None while there is nothing to blend with. seen: positions (m,) and item hashes (m,) that must not be listed.

        choose: of scores and catalogue rows (n, k) the places that make the lists, None = all.
        """
        shared = self.shared
        self._meet(champion)
        if not shared.ready or not len(champion.catalogue.ids):
            return None
        signals, published = shared.signals, shared.published
        assert signals is not None
        assert published is not None
        rows, barred = self.rows_of(champion)
        listed = champion.catalogue.rows(seen[1])
        excluded = np.stack([seen[0], listed], axis=1)[listed >= 0]
        numbered = shared.numbers.rows(seen[1])
        theirs = np.stack([seen[0], numbered], axis=1)[numbered != NONE]
        extra = {"gru": self.model(champion, gru, excluded)}
        ranked = signals.rank(self.contexts(past), k, theirs, extra, barred)
        row = np.where(ranked.item != NONE, rows[ranked.item], -1)
        reason = np.where(ranked.because != NONE, rows[ranked.because], -1)
        code = np.where(row >= 0, ranked.signal, -1).astype(np.int64)
        blended = Blended(ranked.score, row, reason, code, published.name)
        places = choose(champion, ranked.score, row)
        if places is not None:
            blended = blended.at(places)
            code = blended.signal
        if self._explore > 0:
            self._put_fresh(blended, ranked, champion, keys, past, gru, excluded)
        for signal, count in enumerate(np.bincount(code[code >= 0], minlength=len(Signal)).tolist()):
            if count:
                telemetry.SIGNAL_CARRIED.labels(Signal(signal).name.lower()).inc(count)
        return blended

    def _put_fresh(
        self,
        blended: Blended,
        ranked: Ranked,
        champion: Champion,
        keys: list[bytes],
        past: Past,
        gru: F32,
        excluded: Rows,
    ) -> None:
        """An item that nobody has taken yet in the last place of some lists."""
        signals, catalogue = self.shared.signals, champion.catalogue
        assert signals is not None
        rows, barred = self.rows_of(champion)
        taken = np.zeros(len(rows), np.bool_)
        counted = signals.counts.count[-1] > 0
        taken[: len(counted)] = counted[: len(rows)]
        fresh = rows[np.flatnonzero(~taken & ~barred)[-FRESH_ITEMS:]]
        if not len(fresh) or not blended.row.shape[1]:
            return
        suits = champion.model.query(gru) @ catalogue.vectors[fresh].T + catalogue.bias[fresh]
        suits[(blended.row[:, :, None] == fresh).any(axis=1)] = -np.inf
        for user, row in excluded[np.isin(excluded[:, 1], fresh)].tolist():
            suits[user, fresh == row] = -np.inf
        names = np.array([event_hash(key.decode()) for key in keys], np.uint64) << np.uint64(32)
        chosen = explored(names + past.length.astype(np.uint64), self._explore, fresh, suits)
        lists = np.flatnonzero((chosen != NONE) & (blended.row[:, -1] >= 0))
        blended.row[lists, -1], blended.reason[lists, -1] = chosen[lists], -1
        blended.signal[lists, -1] = Signal.TEXT
        telemetry.SIGNAL_EXPLORED.inc(len(lists))

    def published(self) -> list[tuple[bytes, bytes]]:
        """Records for `signal-weights` if it is time for them; they serve here from now on."""
        signals, shipped = self.shared.signals, self.shared.unpublished
        if shipped is not None:
            self.shared.unpublished, self._published_steps = None, 0
            self.shared.serve(shipped)
            return [(shipped.name.encode(), shipped.encode())]
        if signals is None:
            return []
        blend, guard = signals.blend, signals.safeguard
        due = FIRST_STEPS if self.shared.published is None else self._published_steps + STEPS
        changed = self.shared.published is not None and self.shared.published.alone != guard.serving
        early = time.monotonic() < self._published_s + EVERY_S and self.shared.published is not None
        if not changed and (blend.version < due or early):
            return []
        published = Published.of(blend, guard.serving, self.shared.model)
        self._published_steps, self._published_s = blend.version, time.monotonic()
        self.shared.serve(published)
        telemetry.SIGNAL_LEARNED.set(blend.version * STEP_EVENTS)
        learner = encode_learner(blend, self.shared.model)
        return [(published.name.encode(), published.encode()), (LEARNER_KEY, learner)]


class Told:
    """One batch: rows of its applied events, and what is learned from some of them."""

    def __init__(self, how: Collaborate, champion: Champion, states: UserStates, partition: Rows) -> None:
        self._how, self._champion, self._states, self._partition = how, champion, states, partition
        self._rows: list[tuple[Rows, SignalRows]] = []

    def before(self, events: EventColumns) -> tuple[Rows, Hashes, Rows]:
        """The users of `events` (n,), ascending (U,), items and times (U, W) of what they did before; ask before absorbing."""
        users, states = np.unique(events.user), self._states
        return users, states.recent_items(users, PAST), states.windows.recent_times(users, PAST)

    def after(
        self, events: EventColumns, before: tuple[Rows, Hashes, Rows], outcome: NDArray[np.uint8]
    ) -> None:
        """Events (n,) in source order were absorbed."""
        how = self._how
        applied = np.flatnonzero(outcome == Outcome.APPLIED)
        weight = how._weight[events.type[applied]]
        told = np.flatnonzero((events.item[applied] != 0) & ~events.person[applied] & (weight > 0))
        if not told.size:
            return
        users, stored_item, stored_ms = before
        user, item, time_ms = events.user[applied], events.item[applied], events.time[applied]
        # Events without an item take places among the last ones, too, however the log is cut into batches.
        past = before_each(np.searchsorted(users, user), item, time_ms, stored_item, stored_ms)
        past_item, past_ms = with_items(past[0][told], past[1][told])
        at, item, time_ms = applied[told], item[told], time_ms[told]
        there = np.where(past_item != 0, np.int64(0), np.int64(NONE))
        session = Contexts(there, past_ms, time_ms, time_ms).session(how._session_gap_ms)
        wide = np.zeros((len(item), PAST), np.uint64)
        wide[:, : past_item.shape[1]] = past_item
        rows = SignalRows(events.offset[at], time_ms, item, weight[told], session, wide)
        self._rows.append((self._partition[events.user[at]], rows))

    def learn(self, events: EventColumns) -> None:
        """A step on a sample of events, before they are absorbed; only where the learner's partition is.

        Events (n,) in source order, of which each user's first is judged: by the state that its list was made from. What the
        model was trained on is left out: of that it knows more than it will know of anything.
        """
        how, states, champion = self._how, self._states, self._champion
        signals = how.shared.signals
        if signals is None or not len(champion.catalogue.ids):
            return
        chosen = np.zeros(len(events), np.bool_)
        chosen[np.unique(events.user, return_index=True)[1]] = True
        chosen &= self._partition[events.user] == LEARNER_PARTITION
        chosen &= (events.item != 0) & ~events.person & (how._weight[events.type] > 0)
        chosen &= events.time > champion.model.manifest.trained_until_ms
        at = np.flatnonzero(chosen & (events.offset > states.heads["applied"][events.user]))
        at = how.sample(at, events.time)
        if not at.size:
            return
        if not champion.recurrent:
            champion.rebuild_stale(states)
        users = events.user[at]
        barred = how.rows_of(champion)[1]
        position, hashes = how.seen(states, users)
        listed, numbered = champion.catalogue.rows(hashes), how.shared.numbers.rows(hashes)
        excluded = np.stack([position, listed], axis=1)[listed >= 0]
        theirs = np.stack([position, numbered], axis=1)[numbered != NONE]
        past = how.contexts(Past.of(states, users, signals.options.remembered))
        extra = {"gru": how.model(champion, states.heads["gru"][users], excluded)}
        falls = signals.safeguard.falls
        signals.judge(past, how.shared.numbers.rows(events.item[at]), theirs, extra, barred=barred)
        telemetry.SIGNAL_FALLS.inc(signals.safeguard.falls - falls)
        telemetry.SIGNAL_JUDGED.inc(len(at))

    def deliver(self, deliveries: dict[int, Delivery]) -> None:
        """Put the batch's records in front of its state records: an event whose state is stored has been told."""
        if self._rows:
            partition = np.concatenate([each for each, _ in self._rows])
            rows = SignalRows.join([each for _, each in self._rows])
            for each in np.unique(partition).tolist():
                mine = np.flatnonzero(partition == each)
                ordered = mine[np.argsort(rows.offset[mine], kind="stable")]
                deliveries[each].first[self._how._events_topic] = [
                    (None, rows.take(ordered[start : start + ROWS_OF_A_RECORD]).encode())
                    for start in range(0, len(ordered), ROWS_OF_A_RECORD)
                ]
        if LEARNER_PARTITION in deliveries:
            records: list[Pair] = list(self._how.published())
            if records:
                deliveries[LEARNER_PARTITION].first[self._how._weights_topic] = records
