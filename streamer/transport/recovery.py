"""Faust's table recovery, with runs instead of records, and with the order mended: seek first, resume afterwards.

Faust orchestrates (which partitions, from which offset to which, then standbys); the records do not pass through its queue
but come from `BatchConsumer.getmany` as record batches of the log, and a run of them becomes one write.

faust-streaming 0.15.3 resumes the stream partitions before it seeks them (`Recovery.on_recovery_completed`); what is
fetched in between lands in queues that `flow_control.resume()` then clears, and the gap is later committed as done.
(Upstream mended only the path without tables: issue #216, PR #217.)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiokafka.errors import IllegalStateError
from faust.tables import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from mode import Service

from streamer import telemetry
from streamer.transport.log_batches import LogBatch
from streamer.transport.state_store import BatchStore

if TYPE_CHECKING:
    from streamer.transport.app import BatchApp

PROGRESS_S = 10.0

log = logging.getLogger("headwater.recovery")


class Latch(asyncio.Event):
    """An event that `clear()` does not clear, only `rearm()`.

    Faust's reader of changelogs sets its end signal and clears it at once on its next round: set before
    `_restart_recovery` waits for it, the signal is lost and the worker hangs. Here only the start of a recovery clears it.
    """

    def clear(self) -> None:
        """Ignore Faust's early clear."""

    def rearm(self) -> None:
        super().clear()


@dataclass(slots=True)
class Tally:
    """What one recovery has read."""

    began_s: float
    said_s: float
    """When its progress was last logged."""
    records: int = 0
    size: int = 0
    """Bytes of keys and values."""

    @classmethod
    def begin(cls) -> Tally:
        now_s = time.monotonic()
        return cls(now_s, now_s)


class RunRecovery(Recovery):
    app: BatchApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_recovery_end = Latch()
        self._tally = Tally.begin()
        self._sought: set[TP] = set()
        """Changelog partitions that are read from where their table ends; not so before their seek in this generation."""

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        self._tally = Tally.begin()
        if isinstance(self._signal_recovery_end, Latch):
            self._signal_recovery_end.rearm()

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        self._sought.clear()
        await super().on_rebalance(*args, **kwargs)

    async def _seek_offsets(self, consumer: Any, tps: set[TP], offsets: Any, title: str) -> None:
        await super()._seek_offsets(consumer, tps, offsets, title)
        self._sought.update(tps)  # they are still paused: nothing has been fetched since

    # ------------------------------------------------------------------ records
    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Faust's reader of its changelog queue, into which nothing comes here: see `replay`."""

    def replay(self, tp: TP, batches: Sequence[LogBatch]) -> None:
        """Apply the next record batches of a changelog partition; an error ends the worker.

        An active partition is read up to the offset that the log ended with when its recovery began: what comes after it is
        another writer's, and the contiguity of our own records is what judges that (see changelog).
        """
        try:
            if tp in self._sought and tp in self.active_tps and self.in_recovery:
                self._active_events_received_at[tp] = time.monotonic()
                self._apply(tp, batches, self.active_offsets, self.active_highwaters[tp])
            elif tp in self._sought and tp in self.standby_tps:
                self._apply(tp, batches, self.standby_offsets, None)
            else:
                telemetry.DROPPED_FETCHES.inc()
                return
            self._maybe_done()
        except Exception as exc:
            self.app.die(exc)  # Faust would log it and go on with a hole in the table
            raise

    def _apply(self, tp: TP, batches: Sequence[LogBatch], offsets: Any, end: int | None) -> None:
        seen: int = -1 if offsets[tp] is None else offsets[tp]
        last = math.inf if end is None else end
        keys: list[bytes] = []
        values: list[bytes | None] = []
        for batch in batches:
            records = list(batch)
            if records and not seen < records[0].offset <= records[-1].offset <= last:
                records = [record for record in records if seen < record.offset <= last]
            keys += [record.key for record in records]
            values += [record.value for record in records]
            seen = max(seen, batch.next_offset - 1)
        if end is not None:
            seen = min(seen, end)
        self._store(tp).replay(tp.partition, keys, values, seen, bulk=end is not None)
        offsets[tp] = seen
        now_s = self._last_flush_at = time.monotonic()
        if end is not None:
            self._tally.records += len(keys)
            self._tally.size += sum(map(len, keys)) + sum(map(len, filter(None, values)))
            if now_s - self._tally.said_s > PROGRESS_S:
                self._tally.said_s = now_s
                left = self.active_remaining_total()
                log.info("recovering: %d records read, about %d to come", self._tally.records, left)

    def _store(self, tp: TP) -> BatchStore:
        store = cast(Any, self.tp_to_table[tp]).data
        assert isinstance(store, BatchStore)
        return store

    def _maybe_done(self) -> None:
        """Say so when the actives, or the standbys, have read all that they must."""
        if self.in_recovery and not self.need_recovery():
            tally, seconds = self._tally, time.monotonic() - self._tally.began_s
            log.info("recovered %d records, %.1f MB, in %.2f s", tally.records, tally.size / 1e6, seconds)
            for tp in self.active_tps:
                self._store(tp).end_replay(tp.partition)
            self._set_recovery_ended()
            self.signal_recovery_end.set()
        if self.in_recovery or self.tables.standbys_ready:
            return
        # Not Faust's sum of what is missing: a standby past the end that its log had counts against the others.
        if all(left <= 0 for left in self.standby_remaining().values()):
            self.tables.on_standbys_ready()

    async def nothing_fetched(self) -> None:
        """The consumer had nothing, and all that it had before is applied: where the log ends in holes, this is its end."""
        for tp, left in self.active_remaining().items() if self.in_recovery else ():
            if left > 0 and tp in self._sought:
                try:
                    position = await self.app.consumer.position(tp)
                except IllegalStateError:  # revoked meanwhile
                    return
                if tp not in self._sought:  # a rebalance meanwhile
                    return
                if position is not None and position > self.active_highwaters[tp]:
                    self.active_offsets[tp] = self.active_highwaters[tp]
        self._maybe_done()

    # ------------------------------------------------------------------ the order
    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """As Faust's, but: seek before resume, errors of callbacks raised, a flowing standby's queue left alone."""
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        await asyncio.gather(
            *(
                table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
                for table in self.tables.values()
            )
        )
        if app.consumer_generation_id != generation_id:
            return
        for tp in self.active_tps:
            await app.on_changelog_recovered(tp, self.active_highwaters[tp] + 1)
        assignment = consumer.assignment()
        if assignment:
            await self._wait(consumer.perform_seek(), timeout=app.conf.broker_request_timeout)
        if app.consumer_generation_id != generation_id:
            return
        if not app.flow_control.is_active():
            app.flow_control.resume()  # empties every queue, so never while a standby flows
        consumer.resume_partitions({tp for tp in assignment if not self._is_changelog_tp(tp)})
        self.completed.set()
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        if not app.assignor.assigned_standbys():
            self.tables.on_standbys_ready()
        app.on_rebalance_end()
        app.on_ready()


class BatchTableManager(TableManager):
    app: BatchApp

    async def on_start(self) -> None:
        """As Faust's, without its second of sleep."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = RunRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
