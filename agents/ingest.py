"""`events` → user state: decode, group by user, absorb event by event, step the GRU; then `recommend` refreshes.

A request for a fresh list goes the same way at its place among the user's events, so that cutting batches leaves no trace of it.

Where something happens after every event, a batch goes in *rounds*: round r holds the r-th event of every user in the batch,
so each round touches a user at most once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.batch import Batch, DecodedRun
from agents.collaborate import Collaborate
from agents.embed_items import bury
from agents.recommend import Recommend
from streamer import telemetry
from streamer.core.columns import EventColumns, rounds
from streamer.core.event_fields import EventFields
from streamer.core.event_types import EventTypes
from streamer.core.events import EventDecoder
from streamer.core.features import gap_feature, value_feature
from streamer.core.interests import Decay
from streamer.core.put_off import PutOff
from streamer.core.runs import Runs
from streamer.core.stored import Stored
from streamer.core.user_state import Outcome, UserStates
from streamer.serving.champion import MET_BEFORE_MS, Champion
from streamer.serving.micro_batcher import MicroBatcher, Priority
from streamer.transport.consumer import Run
from streamer.transport.sending import Delivery

REFRESHED_AT_ONCE = 2000
"""Users whose refreshes, once put off, are made in one go: what is in memory at a time."""


@dataclass(frozen=True, slots=True)
class StateOptions:
    """window: events kept per user; grace_ms: how far behind the watermark an event still counts."""

    window: int
    grace_ms: int
    decay: Decay


class Ingest:
    """A `Processor` of event runs.

    reader: partition → what is stored of its users. topic: where events come from. put_off: which refreshes may
    be put off; None = none. collaborate: what tells all workers of applied events, and learns; None = nothing does.
    champion: what scores now; read once per batch, so a swap falls between batches.
    """

    def __init__(
        self,
        decoder: EventDecoder,
        types: EventTypes,
        options: StateOptions,
        champion: Callable[[], Champion],
        reader: Callable[[int], Stored],
        batcher: MicroBatcher,
        recommend: Recommend,
        *,
        topic: str = "events",
        put_off: PutOff | None = None,
        collaborate: Collaborate | None = None,
    ) -> None:
        self._collaborate = collaborate
        self._topic = topic
        self._put_off = PutOff(0, 0) if put_off is None else put_off
        self._decoder, self._types, self._options = decoder, types, options
        self._champion, self._reader, self._batcher, self._recommend = champion, reader, batcher, recommend

    # ------------------------------------------------------------------ on the event loop
    def prepare(self, run: Run) -> DecodedRun | Awaitable[DecodedRun]:
        decoded = self.decode(run)
        return self._with_texts(decoded) if decoded.text_at else decoded

    async def _with_texts(self, decoded: DecodedRun) -> DecodedRun:
        telemetry.ENCODER_TEXTS.labels("event").inc(len(decoded.texts))
        decoded.text_content = await self._batcher.encode(decoded.texts, Priority.EVENT)
        decoded.texts = []
        return decoded

    def decode(self, run: Run) -> DecodedRun:
        """Split a run into good events and dead letters."""
        records, n = run.records, len(run.records)
        keys = [record.key for record in records]
        offsets = np.fromiter([record.offset for record in records], np.int64, n)
        times_ms = np.fromiter([record.timestamp for record in records], np.int64, n)
        values = [record.value for record in records]
        found = self._decoder.decode_run(values, keys, run.tp.partition, times_ms)
        decoded = DecodedRun(run.tp.topic, found.fields, keys, offsets, times_ms)
        if found.rejected:
            decoded.keys = [keys[at] for at in found.good.tolist()]
            decoded.offsets, decoded.record_times_ms = offsets[found.good], times_ms[found.good]
            decoded.dead_letters = [bury(run.tp, records[at], why) for at, why in found.rejected]
            telemetry.EVENTS.labels("rejected").inc(len(found.rejected))
        decoded.text_at, decoded.texts = [at for at, _ in found.texts], [text for _, text in found.texts]
        return decoded

    # ------------------------------------------------------------------ in the executor
    def compute(self, work: dict[int, list[DecodedRun]], lagging: bool = False) -> dict[int, Delivery]:
        """Absorb the runs of several partitions at a time; a delivery per partition.

        While `lagging`, refreshes may be put off. When they are made up for, partitions without runs have deliveries too.
        """
        started, now_s = time.perf_counter(), time.monotonic()
        deliveries = {partition: Delivery() for partition in work}
        put_off = lagging and self._put_off.may(now_s)
        batches = Batch.join(work)
        for batch in batches:
            if batch.size:
                self._absorb(batch, deliveries, put_off)
            telemetry.BATCH_EVENTS.observe(batch.size)
            if put_off:
                for partition, users in batch.by_partition():
                    self._put_off.add(partition, users, now_s)
        if put_off:
            for delivery in deliveries.values():
                delivery.put_off = True
        else:
            self._make_up(batches, deliveries)
        telemetry.REFRESHES_WAITING.set(len(self._put_off))
        for partition, runs in work.items():
            deliveries[partition].dead_letters = [letter for run in runs for letter in run.dead_letters]
            deliveries[partition].on_published = lag_observer(
                [int(t) for run in runs for t in run.record_times_ms[:1]]
            )
        telemetry.BATCH_SECONDS.observe(time.perf_counter() - started)
        return deliveries

    def _make_up(self, batches: list[Batch], deliveries: dict[int, Delivery]) -> None:
        """The refreshes that were put off, but for users whom these batches refreshed."""
        if self._put_off.due_at_s() is None:
            return
        refreshed = (part for batch in batches for part in batch.by_partition())
        for partition, users in self._put_off.take(refreshed).items():
            delivery = deliveries.setdefault(partition, Delivery())
            for start in range(0, len(users), REFRESHED_AT_ONCE):
                self._refresh(partition, users[start : start + REFRESHED_AT_ONCE], delivery)

    def due_at_s(self) -> float | None:
        """When refreshes that were put off will be due (monotonic seconds); None while there are none."""
        return self._put_off.due_at_s()

    def forget(self) -> None:
        """Nothing computed so far counts any more: its events will be replayed by whoever owns their partitions."""
        self._put_off.take()

    def refresh(self, partition: int, users: list[bytes]) -> Delivery:
        """Outputs of stored users of a partition, without an event."""
        delivery = Delivery()
        self._refresh(partition, users, delivery)
        return delivery

    def _refresh(self, partition: int, users: list[bytes], delivery: Delivery) -> None:
        batch = Batch(users=users, partitions=[partition] * len(users), topics={partition: self._topic})
        champion = self._champion()
        states = self._load(champion, batch)
        champion.rebuild_stale(states)
        self._recommend.begin(champion, states, batch).finish({partition: delivery})

    def _load(self, champion: Champion, batch: Batch) -> UserStates:
        o = self._options
        return UserStates.load(
            batch.users,
            batch.readers(self._reader),
            champion.model.hidden,
            o.window,
            self._types,
            grace_ms=o.grace_ms,
            decay=o.decay,
        )

    def _absorb(self, batch: Batch, deliveries: dict[int, Delivery], put_off: bool) -> None:
        champion = self._champion()
        states = self._load(champion, batch)
        champion.rebuild_stale(states)
        columns = EventColumns.of(
            EventFields.join(batch.fields),
            np.array(batch.user, np.int64),
            np.concatenate(batch.offsets),
            np.concatenate(batch.record_times_ms),
            champion.item_facts,
        )
        text_vectors = self._text_vectors(champion, batch)
        refresh = self._recommend.begin(champion, states, batch)
        told = self._collaborate and self._collaborate.begin(champion, states, batch.partitions)
        # Who is refreshed after every event needs the events one by one.
        every = rounds(columns.user) if refresh.per_event else [np.arange(len(columns))]
        for rows in every:
            events = columns if len(rows) == len(columns) else columns.take(rows)
            texts = None if text_vectors is None else text_vectors[rows]
            if told:
                told.learn(events)
                before = told.before(events)
            outcome = self._apply(champion, states, events, texts)
            if told:
                told.after(events, before, outcome)
            if refresh.per_event:
                champion.rebuild_stale(states)
            refresh.after(events, outcome)
        if told:
            told.deliver(deliveries)
        refresh.count()
        if not put_off:
            champion.rebuild_stale(states)
            refresh.finish(deliveries)
        batch.deliver(states.changes(), deliveries)

    def _apply(
        self, champion: Champion, states: UserStates, events: EventColumns, text_vectors: np.ndarray | None
    ) -> np.ndarray:
        """Absorb events (n,) and step their users' states. Returns Outcome codes (n,)."""
        last_time, version = states.heads["last_time"].copy(), states.heads["version"].copy()
        outcome = states.absorb_all(events)
        rows = np.flatnonzero(outcome == Outcome.APPLIED)
        if rows.size and champion.model.users is not None:
            begun = np.unique(events.user[rows][version[events.user[rows]] == 0])
            met = champion.meet(states, begun)
            first = rows[np.unique(events.user[rows], return_index=True)[1]]
            first = first[np.isin(events.user[first], met)]
            last_time[events.user[first]] = events.time[first] - MET_BEFORE_MS
        if rows.size and champion.recurrent:
            runs = Runs.of(events.user[rows])
            rows = rows[runs.order]
            applied = events.take(rows)
            item = champion.event_vectors(applied.item)
            if text_vectors is not None:
                item += text_vectors[rows]
            gap = gap_feature(applied.time, runs.before(last_time[runs.users], applied.time))
            value = value_feature(applied.value, applied.type, self._types)
            champion.step_runs(states.heads, runs, item, applied.type.astype(np.int64), gap, value)
        elif rows.size:  # before the next refresh it is computed from the window
            states.heads["model"][events.user[rows]] = 0
        for code, count in enumerate(np.bincount(outcome, minlength=len(Outcome)).tolist()):
            if count:
                telemetry.EVENTS.labels(Outcome(code).name.lower()).inc(count)
        return outcome

    def _text_vectors(self, champion: Champion, batch: Batch) -> np.ndarray | None:
        """(events, D) f32: tower of each event's text, zeros where there is none; None where no event has a text."""
        if not batch.text_at:
            return None
        vectors = np.zeros((batch.size, champion.model.dim), np.float32)
        vectors[batch.text_at] = champion.model.tower(np.concatenate(batch.text_content))[0]
        return vectors


def lag_observer(record_times_ms: Sequence[int]) -> Callable[[], None]:
    """Observes, when called, how long ago the oldest record of each run was written to Kafka."""

    def observe() -> None:
        now = time.time()
        for recorded in record_times_ms:
            telemetry.LAG_SECONDS.observe(max(0.0, now - recorded / 1000))

    return observe
