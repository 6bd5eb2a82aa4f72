"""A model trained by `model_export` with its default settings, exported and verified; what is cut is cut to a budget of time."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.quality.log import MAX_EVENTS, Log
from model_export.blending import first_blend
from model_export.checkpoint import Checkpoint, version_of
from model_export.interactions import Interactions
from model_export.run import export_checkpoint
from model_export.social import GraphConfig, Meeting, MetUsers, meet
from model_export.text_export import cached_encoder
from model_export.training import Trained, TrainingConfig, train
from streamer.core.event_types import EventTypes
from streamer.core.item_text import item_text
from streamer.core.manifest import CONTENT_DIM
from streamer.errors import DataError
from streamer.serving.text_encoder import TextEncoder
from streamer.settings import Settings

F32 = NDArray[np.float32]

PROBE_EVENTS = 6_000
"""Trained once, to know what an event costs here."""
ENCODERS = ("gru", "transformer") if "encoder" in TrainingConfig.__dataclass_fields__ else ("gru",)
"""User encoders that the trainer knows; the first is the one that is served."""
FEWEST_EPOCHS = 3
MOST_ITEMS = 50_000
"""That a model may know: its softmax is dense."""
TEXTS_AT_A_TIME = 256


@dataclass(frozen=True)
class Budget:
    """What a run may cost: seconds of one core, events."""

    encoding_s: float = 60.0
    training_s: float = 120.0
    retraining_s: float = 60.0
    """Of all nights together."""
    retrainings: int = 3
    """At most."""
    judged: int = 20_000
    events: int = MAX_EVENTS

    @classmethod
    def of(cls, quick: bool, events: int = 0) -> Budget:
        """Larger logs may take up to four times as long."""
        larger = float(np.clip(events / 100_000, 1, 4))
        return (
            cls(5.0, 10.0, 5.0, 1, 2_000, 20_000)
            if quick
            else cls(60.0 * larger, 120.0 * larger, 60.0 * larger)
        )


def contents(log: Log, budget_s: float) -> tuple[F32, tuple[str, ...]]:
    """(N, 384) vectors of the items' texts, the most frequent items' first; those of no text where the budget ends."""
    encoder = TextEncoder.open(cached_encoder())
    texts = list(map(item_text, log.items))
    counts = np.bincount(log.item, minlength=len(texts))
    order = list(dict.fromkeys(texts[row] for row in np.argsort(-counts, kind="stable").tolist()))
    vectors = {"": encoder.encode([""])[0]}
    until = time.process_time() + budget_s
    for first in range(0, len(order), TEXTS_AT_A_TIME):
        if time.process_time() > until:
            notes = (
                f"{len(order) - first:,} of {len(order):,} texts of items were left unread: {budget_s:.0f} s were over",
            )
            return _stacked(texts, vectors), notes
        some = order[first : first + TEXTS_AT_A_TIME]
        vectors |= dict(zip(some, encoder.encode(some), strict=True))
    return _stacked(texts, vectors), ()


def _stacked(texts: list[str], vectors: dict[str, F32]) -> F32:
    nothing = vectors[""]
    stacked = np.empty((len(texts), CONTENT_DIM), np.float32)
    for row, text in enumerate(texts):
        stacked[row] = vectors.get(text, nothing)
    return stacked


def interactions(log: Log) -> Interactions:
    """The log as the trainer reads it."""
    return Interactions(
        user=log.user,
        item=log.item,
        type=log.type,
        value=np.nan_to_num(log.value),
        timestamp_ms=log.time_ms,
        users=[str(user) for user in range(log.users)],
        items=log.items,
        friends=log.friends,
    )


def meeting(log: Log, seed: int) -> Meeting | None:
    """What the graph of friends and events says of users, None without friends."""
    if not len(log.friends):
        return None
    return meet(interactions(_most_frequent_items(log)[0]), log.types, GraphConfig(seed=seed))


def fit(
    log: Log,
    content: F32,
    budget_s: float,
    seed: int,
    encoder: str = ENCODERS[0],
    met: Meeting | None = None,
) -> tuple[Trained, TrainingConfig, tuple[str, ...]]:
    """Train on all of `log` with default settings, or on as much and as often as the budget allows; `met`: its `meeting`."""
    log, notes = _most_frequent_items(log)
    events = len(log)
    config = replace(TrainingConfig(), seed=seed)
    if encoder != ENCODERS[0]:
        config = replace(config, encoder=encoder)
    passes = budget_s / (seconds_per_event(log, content, config) * len(log))
    if passes < 1.5 * config.epochs:  # it may take every epoch with validation, and half of them again
        if passes < FEWEST_EPOCHS:
            kept = max(int(len(log) * passes / FEWEST_EPOCHS), min(len(log), PROBE_EVENTS))
            log, epochs, refit = log.take(slice(len(log) - kept, None)), FEWEST_EPOCHS, False
        elif passes < 3 * FEWEST_EPOCHS:
            epochs, refit = int(passes), False
        else:
            epochs, refit = min(int(passes / 1.5), config.epochs), True
        config = replace(config, epochs=epochs, refit=refit)
        notes += (
            f"the {encoder} was trained on {len(log):,} events for {epochs} epochs: {budget_s:.0f} s allow no more",
        )
    data, texts = interactions(log), None
    if met is not None:
        ordered = met.log.in_time_order(seed)
        data = ordered.take(slice(max(len(ordered) - len(log), 0), None)) if len(log) < events else ordered
        texts = met.contents(None, met.then)
    data = data.known_items_only()
    rows = np.array([int(item_id) for item_id in data.item_ids])
    return train(data, content[rows], log.types, config, texts=texts), config, notes


@dataclass(frozen=True)
class Nights:
    """Retraining as a nightly job would do it: on all events so far, for as many epochs as were best before the split."""

    log: Log
    content: F32
    config: TrainingConfig
    most_events: int
    """The last events count where the budget allows no more."""
    times: int

    @classmethod
    def of(cls, log: Log, cut: int, content: F32, trained: Trained, budget: Budget, seed: int) -> Nights:
        """As many retrainings as the budget allows, at least one."""
        config = replace(TrainingConfig(), epochs=trained.epochs, validation_fraction=0.0, seed=seed)
        past = _most_frequent_items(log.take(slice(0, cut)))[0]
        each_s = seconds_per_event(past, content, config) * config.epochs
        times = int(np.clip(budget.retraining_s / (each_s * len(log)), 1, budget.retrainings))
        return cls(log, content, config, max(int(budget.retraining_s / times / each_s), PROBE_EVENTS), times)

    def train(self, events: int) -> Trained:
        """On the first `events` of the log."""
        past = _most_frequent_items(self.log.take(slice(max(events - self.most_events, 0), events)))[0]
        data = interactions(past).known_items_only()
        rows = np.array([int(item_id) for item_id in data.item_ids])
        return train(data, self.content[rows], past.types, self.config)


def export(
    trained: Trained, config: TrainingConfig, types: EventTypes, out: Path, users: MetUsers | None = None
) -> Path:
    """The artefact's directory, verified, as `headwater train` leaves it."""
    blend = first_blend(trained, types, config.seed)
    metrics = {f"validation_{name}": value for name, value in trained.validation.items()}
    checkpoint = Checkpoint(
        model=trained.model,
        version=version_of(trained.model),
        item_ids=trained.data.item_ids,
        popularity=trained.data.popularity,
        head_labels=trained.head_labels,
        metrics=metrics if blend is None else metrics | blend.metrics,
        seed=config.seed,
        data_hash=trained.data.digest(),
        window=Settings().window,
        trained_until_ms=int(trained.data.timestamp_ms.max()),
        blend=None if blend is None else blend.shipped.learner,
        users=users,
    )
    console = Console(stderr=True, quiet=True)
    return export_checkpoint(checkpoint, out, encoder=cached_encoder(), console=console)


def _most_frequent_items(log: Log) -> tuple[Log, tuple[str, ...]]:
    counts = np.bincount(log.item, minlength=len(log.items))
    if np.count_nonzero(counts) <= MOST_ITEMS:
        return log, ()
    kept = np.zeros(len(counts), bool)
    kept[np.argsort(-counts, kind="stable")[:MOST_ITEMS]] = True
    note = f"the model knows the {MOST_ITEMS:,} most frequent of {np.count_nonzero(counts):,} items"
    return log.take(np.flatnonzero(kept[log.item])), (note,)


def seconds_per_event(log: Log, content: F32, config: TrainingConfig) -> float:
    """Of one pass, over all items: a short training is timed, after a shorter one that warms torch up."""
    once = replace(config, epochs=1, refit=False, validation_fraction=0.0)
    for events in (PROBE_EVENTS // 20, PROBE_EVENTS):
        probe = log.take(slice(max(len(log) - events, 0), None))
        data = interactions(probe).known_items_only()
        rows = np.array([int(item_id) for item_id in data.item_ids])
        started = time.process_time()
        with suppress(DataError):  # the shorter one may hold no user twice
            train(data, content[rows], log.types, once)
        rate = (time.process_time() - started) / len(probe)
    items = np.count_nonzero(np.bincount(log.item))
    return rate * (500 + items) / (500 + len(rows))
