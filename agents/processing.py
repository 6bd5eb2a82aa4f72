"""What a worker does with events as its settings say, without Kafka and without a store."""

from __future__ import annotations

from collections.abc import Callable

from agents.collaborate import Collaborate
from agents.ingest import Ingest, StateOptions
from agents.recommend import Recommend
from streamer.core.event_types import EventTypes
from streamer.core.events import EventDecoder
from streamer.core.interests import Decay
from streamer.core.partitioner import Partitioner
from streamer.core.put_off import PutOff
from streamer.core.signals.shared import SharedSignals
from streamer.core.stored import Stored
from streamer.serving.champion import Champion
from streamer.serving.micro_batcher import MicroBatcher
from streamer.settings import Settings


def collaborative(settings: Settings, types: EventTypes) -> Collaborate | None:
    """Who blends the model with what other users did; None where that is switched off."""
    if settings.signals == "off":
        return None
    return Collaborate(
        SharedSignals(),
        types,
        events_topic=settings.topic("signal-events"),
        weights_topic=settings.topic("signal-weights"),
        explore=settings.explore_share,
        exclude_seen=settings.exclude_seen,
    )


def event_processor(
    settings: Settings,
    types: EventTypes,
    champion: Callable[[], Champion],
    reader: Callable[[int], Stored],
    texts: MicroBatcher,
    collaborate: Collaborate | None,
    *,
    partitions: int,
) -> Ingest:
    """reader: partition → what is stored of its users; champion: what scores now."""
    s = settings
    recommend = Recommend(
        profiles_topic=s.topic("profiles"),
        recommendations_topic=s.topic("recommendations"),
        per_event=s.refresh == "event",
        top_k=s.top_k,
        exclude_seen=s.exclude_seen,
        diversity=s.diversity,
        exposure_discount=s.exposure_discount,
        collaborate=collaborate,
    )
    partitioner = None if s.partitioner == "off" else Partitioner(s.partitioner)
    return Ingest(
        EventDecoder(types, partitioner, partitions),
        types,
        StateOptions(
            window=s.window,
            grace_ms=int(s.grace_s * 1000),
            decay=Decay(int(s.interest_half_life_short_s * 1000), int(s.interest_half_life_long_s * 1000)),
        ),
        champion,
        reader,
        texts,
        recommend,
        topic=s.topic("events"),
        put_off=PutOff(0 if recommend.per_event else s.max_staleness_s, s.max_batch_events),
        collaborate=collaborate,
    )
