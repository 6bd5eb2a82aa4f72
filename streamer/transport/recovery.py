"""Faust's table recovery, with the order mended: seek first, resume afterwards.

faust-streaming 0.15.3 resumes the stream partitions before it seeks them (`Recovery.on_recovery_completed`); what is
fetched in between lands in queues that `flow_control.resume()` then clears, and the gap is later committed as done.
(Upstream mended only the path without tables: issue #216, PR #217.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from faust.tables import TableManager
from faust.tables.recovery import Recovery

if TYPE_CHECKING:
    from streamer.transport.app import BatchApp


class Latch(asyncio.Event):
    """An event that `clear()` does not clear, only `rearm()`.

    Faust's reader of changelogs sets its end signal and clears it at once on its next round: set before
    `_restart_recovery` waits for it, the signal is lost and the worker hangs. Here only the start of a recovery clears it.
    """

    def clear(self) -> None:
        """Ignore Faust's early clear."""

    def rearm(self) -> None:
        super().clear()


class SeekFirstRecovery(Recovery):
    app: BatchApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_recovery_end = Latch()

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        if isinstance(self._signal_recovery_end, Latch):
            self._signal_recovery_end.rearm()

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

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = SeekFirstRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
