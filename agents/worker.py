"""Composition root of a worker: which agent listens to which topic, and what they share."""

from __future__ import annotations

import asyncio
import gc
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import faust
from faust.auth import Credentials
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from agents import kernels
from agents.batch import DecodedRun
from agents.embed_items import EmbedItems
from agents.follow_items import FollowItems
from agents.follow_signals import FollowSignals
from agents.keep_counts import KeepCounts
from agents.processing import collaborative, event_processor
from agents.swap_model import SwapModel
from agents.tell import LEARNER_PARTITION
from streamer import telemetry
from streamer.allocator import give_back
from streamer.core.batch_size import BatchSize
from streamer.core.pace import Pace
from streamer.core.popularity import Popularity
from streamer.core.signals.shared import SharedSignals
from streamer.core.state_records import is_head_key, user_of_key
from streamer.serving.catalogue import CatalogueSnapshot
from streamer.serving.champion import Champion
from streamer.serving.device import choose_device
from streamer.serving.micro_batcher import MicroBatcher, Priority
from streamer.serving.model import Model
from streamer.serving.text_encoder import TextEncoder
from streamer.settings import Settings
from streamer.transport.app import BatchApp, state_folder
from streamer.transport.batch_producer import BatchProducer
from streamer.transport.changelog import Changelog
from streamer.transport.fatal import FATAL_EXIT_CODE
from streamer.transport.log_reader import LogFollower, OnRecords
from streamer.transport.pipeline import Pipeline, Processor
from streamer.transport.sending import Delivery
from streamer.transport.state_store import BatchStore
from streamer.transport.topics import TABLE, app_id

P = TypeVar("P")

log = logging.getLogger("headwater.worker")

GAUGES_EVERY_S = 10.0
COUNTED_EVERY_MS = 100
"""At low load `signal-events` come so often, not with every batch of every worker: a fetch costs as much as counting dozens."""
RUN_RECORDS = 2000
"""Records that are decoded, and marked as done, together."""


class Worker:
    """One worker process: the Faust app, the followers of `models` and `item-vectors`, and the champion."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.executor = ThreadPoolExecutor(1, "compute")
        self.loader = ThreadPoolExecutor(1, "loader")
        self.device = choose_device(settings.device, half=settings.half_precision)
        self.popularity = Popularity(int(settings.popularity_half_life_s * 1000))
        self.champion: Champion | None = None
        self.app = self._app()
        self.table = self.app.users_table(TABLE, settings.partitions)
        assert isinstance(self.table.data, BatchStore)
        self.store = self.table.data

    def _app(self) -> BatchApp:
        s = self.settings
        return BatchApp(
            app_id(s),
            broker=[f"kafka://{address}" for address in s.brokers.split(",")],
            batch_topics=frozenset({s.topic("events"), s.topic("items")}),
            run_records=min(RUN_RECORDS, s.max_batch_events),
            pace=Pace(s.batch_wait_ms / 1000),
            producer=BatchProducer(
                bootstrap_servers=s.brokers,
                **s.kafka_options(),
            ),
            broker_credentials=faust_credentials(s.kafka_options()),
            on_begin=self._begin,
            on_end=self._end,
            datadir=str(s.state_dir),
            tabledir=str(state_folder(s.state_dir)),
            topic_partitions=s.partitions,
            topic_replication_factor=s.replication_factor,
            table_standby_replicas=s.standby_replicas,
            broker_session_timeout=float(s.session_timeout_s),
            broker_heartbeat_interval=min(1.0, s.session_timeout_s / 5),
            broker_commit_interval=1.0,
            broker_max_poll_records=s.max_batch_events,
            stream_buffer_maxsize=2,
        )

    def build(self) -> BatchApp:
        """Wire agents, pipelines and table together; nothing is started."""
        s, app = self.settings, self.app
        self.swap = SwapModel(self.device, s.cache_dir, self.loader, self._on_champion)
        self.texts = MicroBatcher(lambda texts: self.swap.serving_encoder().encode(texts))
        self.items = FollowItems(self.loader, self._on_snapshot)
        self.collaborate = collaborative(s, s.event_types)
        self.followers = [
            self._follower("models", self.swap.on_records),
            self._follower("item-vectors", self.items.on_records),
        ]
        self.counts: KeepCounts | None = None
        if self.collaborate is not None:
            self._follow_signals(self.collaborate.shared)
        app.pipelines = [self._events_pipeline(), self._items_pipeline()]
        for topic, pipeline in zip(("events", "items"), app.pipelines, strict=True):
            self._agent(topic, pipeline)
        app.timer(GAUGES_EVERY_S)(self._measure)
        return app

    def _follow_signals(self, shared: SharedSignals) -> None:
        s = self.settings
        signals = FollowSignals(shared, self.executor, self._learns)
        self.followers.append(self._follower("signal-weights", signals.on_weights))
        self.signal_events = self._follower("signal-events", signals.on_events, gather_ms=COUNTED_EVERY_MS)
        self.counts = KeepCounts(
            shared,
            signals,
            self.executor,
            self.loader,
            self._learns,
            brokers=s.brokers,
            topic=s.topic("signal-counts"),
            security=s.kafka_options(),
            every_s=s.signal_snapshot_s,
        )

    def _follower(self, name: str, on_records: OnRecords, gather_ms: int = 0) -> LogFollower:
        """One whose failure ends the worker: without it lists would be made of what was true then, for ever."""
        s = self.settings
        return LogFollower(
            s.brokers,
            s.topic(name),
            on_records,
            s.kafka_options(),
            gather_ms=gather_ms,
            on_failure=self.app.die,
        )

    async def _measure(self) -> None:
        sizes = self.store.sizes()
        telemetry.TABLE_BYTES.set(sum(size for size, _ in sizes))
        telemetry.ENCODER_QUEUE.set(sum(self.texts.queued(priority) for priority in Priority))
        telemetry.TABLE_RECORDS.set(sum(records for _, records in sizes))
        await asyncio.to_thread(give_back)

    def _agent(self, name: str, pipeline: Pipeline[Any]) -> None:
        channel = self.app.topic(
            self.settings.topic(name),
            key_type=bytes,
            value_type=bytes,
            value_serializer="raw",
            internal=False,
        )

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                consumer = self.app.batch_consumer
                consumer.ack(event.message)  # for Faust it is done; what may be committed, lanes say
                await pipeline.handle(event.value, consumer)

        self.app.agent(channel, name=f"headwater.{name}")(agent)

    def _events_pipeline(self) -> Pipeline[DecodedRun]:
        s, store = self.settings, self.store
        self.ingest = event_processor(
            s,
            s.event_types,
            self._current,
            store.reader,
            self.texts,
            self.collaborate,
            partitions=s.partitions,
        )
        changelog = Changelog(
            self.table.changelog_topic.get_topic_name(),
            store,
            self.app.batch_producer,
            compression=s.changelog_compression,
            bootstrap_servers=s.brokers,
            **s.kafka_options(),
        )
        changelog.republish = self._republish
        self.app.changelog = changelog
        # With a list after every event a batch costs what its events cost, whoever's they are.
        most = min(RUN_RECORDS, s.max_batch_events) if s.refresh == "event" else s.max_batch_events
        return self._pipeline(
            self.ingest, BatchSize(most), store=store, changelog=changelog, pace=self.app.pace
        )

    def _learns(self) -> bool:
        """Whether this worker owns the partition from whose events the blend learns."""
        try:
            assigned = self.app.batch_consumer.assignment()
        except ConsumerNotStarted:
            return False
        return TP(self.settings.topic("events"), LEARNER_PARTITION) in assigned

    def _items_pipeline(self) -> Pipeline[Delivery]:
        embed = EmbedItems(self.settings.topic("item-vectors"), self.texts, self.swap.serving_encoder)
        return self._pipeline(embed, BatchSize(min(RUN_RECORDS, self.settings.max_batch_events)))

    def _pipeline(self, processor: Processor[P], size: BatchSize, **more: Any) -> Pipeline[P]:
        return Pipeline(
            processor,
            producer=self.app.batch_producer,
            executor=self.executor,
            die=self.app.die,
            dead_letter_topic=self.settings.topic("dead-letters"),
            depth=self.settings.pipeline_depth,
            size=size,
            **more,
        )

    # ------------------------------------------------------------------ life
    async def _begin(self) -> None:
        """Before anything is consumed: read `models` and all that is followed to their ends, and have a champion."""
        for follower in self.followers:
            await follower.start()
        if self.counts is not None:
            await self.signal_events.start(await self.counts.begin())
            self.followers.append(self.signal_events)
        for follower in self.followers:
            await follower.caught_up()
        if self.counts is not None:
            self.counts.start(self.signal_events.positions)
        while not self.swap.has_champion.is_set() and not self.app.should_stop:
            log.warning(
                "no champion on %s yet: waiting; release one with `headwater release URI`",
                self.settings.topic("models"),
            )
            await self.app.wait_for_stopped(self.swap.has_champion.wait(), timeout=10.0)
        if self.swap.model is not None:
            await self.items.bind(self.swap.model)
            await self.items.start()
        collect_rarely()

    async def _end(self) -> None:
        await self.items.stop()
        await self.texts.close()
        if self.counts is not None:
            await self.counts.stop()
        for follower in self.followers:
            await follower.stop()
        self.executor.shutdown(wait=False)
        self.loader.shutdown(wait=False)

    # ------------------------------------------------------------------ the champion
    def _current(self) -> Champion:
        assert self.champion is not None, "consuming starts after the first champion"
        return self.champion

    def _on_champion(self, model: Model, encoder: TextEncoder) -> None:
        self.items.rebind(model)

    def _on_snapshot(self, model: Model, catalogue: CatalogueSnapshot) -> None:
        self.champion = Champion(model, catalogue, self.popularity, self.settings.event_types)

    async def _republish(self, partition: int, keys: list[bytes]) -> None:
        """Send the outputs of these table keys again: a zombie's older ones went out after ours."""
        users = sorted({user_of_key(key) for key in keys if is_head_key(key)})
        loop = asyncio.get_running_loop()
        delivery = await loop.run_in_executor(self.executor, self.ingest.refresh, partition, users)
        for topic, records in delivery.outputs.items():
            await self.app.batch_producer.send(topic, partition, records)


def faust_credentials(kafka_options: dict[str, Any]) -> Credentials | None:
    """aiokafka's security options as Faust wants them; None where there are none."""
    context = kafka_options.get("ssl_context")
    if "sasl_mechanism" in kafka_options:
        return faust.SASLCredentials(
            username=kafka_options["sasl_plain_username"],
            password=kafka_options["sasl_plain_password"],
            mechanism=kafka_options["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def collect_rarely() -> None:
    """Spare the garbage collector what is loaded, and let a batch's many short-lived objects die without it.

    With Python's own threshold it takes a quarter of the computing time of a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def run(settings: Settings) -> int:
    """Run a worker until it is stopped by a signal. Returns the exit code; 70 after a crash (nothing was acknowledged)."""
    telemetry.serve(settings)
    kernels.ready()
    worker = Worker(settings)
    app = worker.build()
    process = faust.Worker(
        app,
        loglevel=settings.log_level,
        quiet=True,
        override_logging=False,
        redirect_stdouts=False,
        workdir=".",
    )
    process.spinner = None  # it writes escape sequences, into a log file too
    try:
        process.execute_from_commandline()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    except BaseException:
        if app.fatal is None:
            raise
        code = FATAL_EXIT_CODE  # said already; what Faust raises here is the shutdown's own cancellation
    return FATAL_EXIT_CODE if app.fatal is not None else code
