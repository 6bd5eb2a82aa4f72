"""Applied events → `signal-events`: what every worker counts; and what the blend learns from some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer import telemetry
from streamer.core.columns import EventColumns
from streamer.core.event_types import REFRESH_CODE
from streamer.core.signals import Contexts
from streamer.core.signals.history import NONE
from streamer.core.signals.past import Past, with_items
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.told import before_each
from streamer.core.user_state import Outcome, UserStates
from streamer.serving.champion import Champion
from streamer.transport.batch_producer import Pair
from streamer.transport.sending import Delivery

if TYPE_CHECKING:
    from agents.collaborate import Collaborate

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

LEARNER_PARTITION = 0
"""Whoever owns this partition of `events` learns, from its events; all others follow the weights."""
ROWS_OF_A_RECORD = 4_000
"""At 190 bytes at most: below the broker's limit of a record."""


class Told:
    """One batch: rows of its applied events, and what is learned from some of them."""

    def __init__(self, how: Collaborate, champion: Champion, states: UserStates, partition: Rows) -> None:
        self._how, self._champion, self._states, self._partition = how, champion, states, partition
        self._rows: list[tuple[Rows, SignalRows]] = []

    def before(self, events: EventColumns) -> tuple[Rows, Hashes, Rows]:
        """The users of `events` (n,), ascending (U,), items and times (U, W) of what they did before; ask before absorbing."""
        users = np.unique(events.user)
        return users, *self._states.recent(users, PAST)

    def after(
        self, events: EventColumns, before: tuple[Rows, Hashes, Rows], outcome: NDArray[np.uint8]
    ) -> None:
        """Events (n,) in source order were absorbed."""
        how = self._how
        applied = np.flatnonzero(outcome == Outcome.APPLIED)
        weight = how.weight[events.type[applied]]
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
        session = Contexts(there, past_ms, time_ms, time_ms).session(how.session_gap_ms)
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
        real = np.flatnonzero(events.type != REFRESH_CODE)
        chosen[real[np.unique(events.user[real], return_index=True)[1]]] = True
        chosen &= self._partition[events.user] == LEARNER_PARTITION
        chosen &= (events.item != 0) & ~events.person & (how.weight[events.type] > 0)
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
                deliveries[each].first[self._how.events_topic] = [
                    (None, rows.take(ordered[start : start + ROWS_OF_A_RECORD]).encode())
                    for start in range(0, len(ordered), ROWS_OF_A_RECORD)
                ]
        if LEARNER_PARTITION in deliveries:
            records: list[Pair] = list(self._how.published())
            if records:
                deliveries[LEARNER_PARTITION].first[self._how.weights_topic] = records
