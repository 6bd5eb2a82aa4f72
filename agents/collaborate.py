"""Collaborative signals in a worker: the blended lists, and the weights that are published for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.tell import Told
from streamer import telemetry
from streamer.core.event_types import EventTypes
from streamer.core.hashing import event_hash
from streamer.core.signals import Contexts, Extra, Ranked
from streamer.core.signals.context_kernels import products
from streamer.core.signals.exploration import explored
from streamer.core.signals.features import Signal
from streamer.core.signals.history import NONE
from streamer.core.signals.past import Past
from streamer.core.signals.replay import STEP_EVENTS
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.weights import LEARNER_KEY, Published, encode_learner
from streamer.core.user_state import UserStates
from streamer.serving.champion import Champion

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
F32 = NDArray[np.float32]

LEARNED_PER_S, LEARNED_AT_ONCE = 20, 64
"""So many of its events are learned from at most, per second of event time and per batch: a millisecond each."""
SESSION_GAP_MS = 30 * 60 * 1000
"""A longer pause ends a session."""
MODEL_ITEMS = 100
"""Candidates that the model contributes."""
FIRST_STEPS, STEPS, EVERY_S = 150, 100, 60.0
"""Weights are published after so many steps the first time, then after so many more but not more often than this."""
FRESH_ITEMS = 64
"""Items without interactions among which one is chosen for exploration."""


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
        session_gap_ms: int = SESSION_GAP_MS,
        explore: float = 0.0,
        exclude_seen: bool = True,
    ) -> None:
        self.shared = shared
        self._exclude_seen = exclude_seen
        self.events_topic, self.weights_topic = events_topic, weights_topic
        self.session_gap_ms, self._explore = session_gap_ms, explore
        self.weight = np.zeros(32, np.float32)
        for each in types:
            self.weight[each.code] = each.weight
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
        choose: Callable[[F32, Rows], Rows | None],
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
        code = np.where(row >= 0, ranked.signal.astype(np.int64), -1)  # of bytes NumPy would make -1 a 255
        blended = Blended(ranked.score, row, reason, code, published.name)
        places = choose(ranked.score, row)
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
