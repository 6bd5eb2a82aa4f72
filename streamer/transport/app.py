"""An ordinary Faust app whose hot topics arrive as runs: membership, assignment, recovery, standbys stay Faust's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import faust
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from streamer import telemetry
from streamer.core.pace import Pace
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.changelog import Changelog
from streamer.transport.consumer import BatchConsumer, BatchTransport
from streamer.transport.fatal import hard_exit_after
from streamer.transport.pipeline import Pipeline
from streamer.transport.recovery import BatchTableManager, RunRecovery
from streamer.transport.state_store import BatchStore, BatchTable

log = logging.getLogger("headwater.worker")

CRASH_GRACE_S = 5.0
STOP_GRACE_S = 20.0
SETTLE_S = 4.0


class BatchApp(faust.App):
    """A Faust app with batch topics, one users table, and pipelines that end its runs.

    batch_topics: topics delivered as one message per fetch, the runs of its partitions.
    run_records: records per run at most.
    pace: how far apart fetches are sent.
    on_begin, on_end: called before anything is consumed, and after everything stopped.
    """

    def __init__(
        self,
        app_id: str,
        *,
        batch_topics: frozenset[str],
        run_records: int,
        pace: Pace,
        producer: BatchProducer,
        on_begin: Callable[[], Awaitable[None]] | None = None,
        on_end: Callable[[], Awaitable[None]] | None = None,
        **conf: Any,
    ) -> None:
        self.batch_topics, self.run_records, self.batch_producer = batch_topics, run_records, producer
        self.pace = pace
        self.pipelines: list[Pipeline[Any]] = []
        self.changelog: Changelog | None = None
        self.fatal: BaseException | None = None
        self._on_begin, self._on_end = on_begin, on_end
        self._crashing: asyncio.Future[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        super().__init__(
            app_id,
            store="rocksdb://",
            TableManager=BatchTableManager,
            Table=BatchTable,
            agent_supervisor=CrashingSupervisor,
            stream_wait_empty=True,
            consumer_auto_offset_reset="earliest",
            key_serializer="raw",
            value_serializer="raw",
            web_enabled=False,
            topic_disable_leader=True,
            stream_recovery_delay=0.0,
            **conf,
        )

    def _new_transport(self) -> Any:
        return BatchTransport(self.conf.broker_consumer, self)

    @property
    def batch_consumer(self) -> BatchConsumer:
        consumer = self.consumer
        assert isinstance(consumer, BatchConsumer)
        return consumer

    @property
    def recovery(self) -> RunRecovery:
        recovery = cast(Any, self.tables).recovery
        assert isinstance(recovery, RunRecovery)
        return recovery

    def users_table(self, name: str, partitions: int) -> BatchTable:
        """The table of user records; values are raw bytes."""
        table = self.Table(
            name,
            default=bytes,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            help="head, sealed segments and seen chunks of every user",
        )
        assert isinstance(table, BatchTable)
        return table

    # ------------------------------------------------------------------ life
    async def on_start(self) -> None:
        await super().on_start()
        await self.batch_producer.start()
        if self._on_begin is not None:
            await self._on_begin()
        self._loops = [asyncio.ensure_future(p.run_forever()) for p in self.pipelines]

    async def on_stop(self) -> None:
        hard_exit_after(STOP_GRACE_S)
        await super().on_stop()
        for loop in self._loops:
            loop.cancel()
        if self._on_end is not None:
            await self._on_end()
        await self.batch_producer.stop()

    def on_ready(self) -> None:
        """Recovery is done and the stream flows."""
        telemetry.READY.set(1)
        topics = {table.changelog_topic_name for table in self.tables.values()}
        mine = sorted(tp.partition for tp in self.assignor.assigned_actives() if tp.topic in topics)
        log.info("ready: generation %d, partitions %s", self.consumer_generation_id, mine)

    def die(self, exc: BaseException) -> None:
        """Crash without acknowledging. (Faust's default supervisor would restart the agent behind the failed run.)"""
        if self.fatal is None:
            self.fatal = exc
            log.critical("the worker cannot go on: %s", exc, exc_info=exc)
            for name in (
                "faust",
                "mode",
                "streamer.transport",
            ):  # their tracebacks tell of the shutdown, not of the cause
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            hard_exit_after(CRASH_GRACE_S)
            self._crashing = asyncio.ensure_future(self.crash(exc))

    # ------------------------------------------------------------------ called by consumer and recovery
    async def settle(self) -> None:
        await asyncio.gather(*(p.settle(SETTLE_S) for p in self.pipelines))

    async def abandon(self) -> None:
        unfinished = [await p.abandon() for p in self.pipelines]
        if any(unfinished):
            await self.batch_producer.abandon()
        for table in self.tables.values():
            if isinstance(table.data, BatchStore):
                table.data.drop_staged()

    async def on_changelog_recovered(self, tp: TP, next_offset: int) -> None:
        if self.changelog is not None:
            await self.changelog.recovered(tp.partition, next_offset)


def state_folder(state_dir: Path) -> Path:
    """Where the table's partition databases lie below a worker's state folder."""
    return state_dir / "tables"
