"""`signal-events` and `signal-weights` → the counts and the weights that this worker blends with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from streamer import telemetry
from streamer.core.signals.rows import SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.weights import LEARNER_KEY, Published
from streamer.errors import UnknownSchema
from streamer.transport.log_reader import LogRecord

log = logging.getLogger("headwater.signals")


class FollowSignals:
    """Applies records in the executor in which batches are computed: never while a list is being made.

    learns: whether this worker is the one that learns now; it then knows better than the record of a learner.
    """

    def __init__(self, shared: SharedSignals, executor: Executor, learns: Callable[[], bool]) -> None:
        self._shared, self._executor, self._learns = shared, executor, learns
        self.reached: dict[int, int] = {}
        """By partition of `signal-events`, the offset from which on nothing is counted yet; changed in the executor."""
        self.rows = 0
        """Read so far, counted or not."""

    async def on_events(self, records: list[LogRecord]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._count, records)

    async def on_weights(self, records: list[LogRecord]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._adopt, records)

    def _count(self, records: list[LogRecord]) -> None:
        """A record that cannot be read is skipped and said."""
        by_partition: dict[int, list[SignalRows]] = {}
        for record in records:
            self.reached[record.partition] = record.offset + 1
            try:
                rows = SignalRows.decode(record.value or b"")
            except (UnknownSchema, ValueError) as exc:
                log.error("signal-events/%d@%d cannot be read: %s", record.partition, record.offset, exc)
                continue
            by_partition.setdefault(record.partition, []).append(rows)
            self.rows += len(rows)
        repeated = self._shared.repeated
        counted = sum(
            self._shared.absorb(partition, SignalRows.join(parts))
            for partition, parts in by_partition.items()
        )
        telemetry.SIGNAL_ROWS.labels("counted").inc(counted)
        telemetry.SIGNAL_ROWS.labels("repeated").inc(self._shared.repeated - repeated)
        if self._shared.signals is not None:
            telemetry.SIGNAL_EDGES.set(len(self._shared.signals.edges))

    def _adopt(self, records: list[LogRecord]) -> None:
        for record in records:
            if record.key is None or record.value is None:
                continue
            try:
                if record.key != LEARNER_KEY:
                    published = Published.decode(record.key.decode(), record.value)
                    self._shared.serve(published)
                    log.info("weights %s of model %s were published", published.name, published.model)
                elif not self._learns():
                    self._shared.go_on_from(record.value)
            except (ValueError, OSError, KeyError) as exc:
                log.error("signal-weights@%d cannot be read: %s", record.offset, exc)
