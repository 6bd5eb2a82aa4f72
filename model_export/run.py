"""The trainer's steps put together: encode, train, judge, export, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from model_export.blending import first_blend
from model_export.checkpoint import Checkpoint, version_of
from model_export.encoder_files import quality_of
from model_export.evaluating import (
    F32,
    Catalogue,
    Stepper,
    TorchStepper,
    item_catalogue,
    prequential,
)
from model_export.export import export_artefact
from model_export.interactions import NONE, Interactions
from model_export.model_card import Card
from model_export.slices import Attributes, Judgement, exposure, slices
from model_export.social import GraphConfig, MetUsers, meet
from model_export.text_export import cached_encoder, encode_catalogue
from model_export.tracking import trackers
from model_export.training import Trained, train
from model_export.training_config import TrainingConfig
from model_export.training_screen import TrainingScreen, bar, busy, quality_table
from streamer.core.event_types import EventTypes
from streamer.core.item_text import item_text
from streamer.serving.device import CPU
from streamer.serving.model import Model
from streamer.serving.session import Array
from streamer.serving.text_encoder import TextEncoder

UNFINISHED = "unfinished-training.state"
"""Beside the artefacts while a run lasts: the same command goes on from there after an interruption."""
CARDS = "cards"
VERIFIED_WINDOWS = 32
"""Users whose last events the export is verified with."""


@dataclass(frozen=True)
class Prepared:
    """A log ready to be trained on."""

    data: Interactions
    """Over the items that occur."""
    content: F32
    """(N, 384) text vectors of its items."""
    of_item: Mapping[str, F32]
    """Of every item of the catalogue, by id."""
    texts: F32 | None
    """Those of the events' texts."""
    encoder: Path

    @classmethod
    def of(cls, past: Interactions, encoder: Path, console: Console) -> Prepared:
        data = past.known_items_only()
        with busy(console, "encoding the items' texts"):
            contents, event_texts = encoded_texts(past, encoder)
        encoded = dict(zip(past.item_ids, contents, strict=True))
        content = np.stack([encoded[item_id] for item_id in data.item_ids])
        return cls(data, content, encoded, event_texts, encoder)


def encoded_texts(data: Interactions, encoder: Path) -> tuple[F32, F32 | None]:
    """Text vectors of the items (N, 384), and of the events' texts (texts, 384) if there are any."""
    content = encode_catalogue(list(map(item_text, data.items)), encoder_dir=encoder)
    return content, encode_catalogue(data.texts, encoder_dir=encoder) if data.texts else None


def train_and_export(
    past: Interactions,
    rest: Interactions | None,
    types: EventTypes,
    config: TrainingConfig,
    *,
    out: Path,
    window: int,
    encoder: Path,
    graph: GraphConfig | None = None,
    tensorboard: Path | None = None,
    track: Sequence[str] = (),
    attributes: Attributes | None = None,
    console: Console,
) -> Path:
    """Train on `past`, judge on `rest` (None: on nothing), and publish `out`/<version> with its checkpoint beside it.

    A model card goes to `out`/cards/<version>, TensorBoard's files to `tensorboard` or `out`/tensorboard. `attributes`: name
    → user id → value, whose groups the card compares. With `graph`, known users are introduced by what the graph of friends
    and events says of them, and the artefact knows them.
    """
    prepared = Prepared.of(past, encoder, console)
    data, texts_then, texts_now = prepared.data, prepared.texts, prepared.texts
    meeting = None
    if graph is not None:
        with busy(console, "convolving the graph of friends and events"):
            meeting = meet(past, types, graph)
        data = meeting.log.known_items_only()
        texts_then, texts_now = (meeting.contents(prepared.texts, v) for v in (meeting.then, meeting.now))
    unfinished = out / UNFINISHED
    if unfinished.exists():
        console.print(f"{unfinished} is there: going on with that run if it is the same one")
    board = out / "tensorboard" if tensorboard is None else tensorboard
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with TrainingScreen(console, trackers(board / name, track, config)) as screen:
        trained = train(
            data,
            prepared.content,
            types,
            config,
            texts=texts_then,
            window=window,
            state=unfinished,
            watch=screen.watch,
            advance=screen.advance,
        )
        screen.ended(trained.epochs)
    metrics = quality_of(encoder) | {
        f"validation_{name}": value for name, value in trained.validation.items()
    }
    with busy(console, "learning the first weights of the collaborative blend"):
        blend = first_blend(trained, types, config.seed, texts_then)
    if blend is not None:
        metrics |= blend.metrics
    card = Card(
        version=version_of(trained.model),
        config=config,
        data=data,
        data_hash=data.digest(),
        seconds=trained.seconds,
        best_epoch=trained.epochs,
        epochs=screen.epochs,
        validation=trained.validation,
    )
    if rest is not None:
        contents = np.stack([prepared.of_item[item_id] for item_id in rest.item_ids])
        rest = rest if meeting is None else meeting.introduce(rest)
        judged = _judge_torch(trained, contents, texts_now, past, rest, types, attributes, console)
        metrics |= _flat(judged.report) | judged.exposure
        card = replace(card, judgement=judged)
    checkpoint = Checkpoint(
        model=trained.model,
        version=card.version,
        item_ids=data.item_ids,
        popularity=data.popularity,
        head_labels=trained.head_labels,
        metrics=metrics,
        seed=config.seed,
        data_hash=card.data_hash,
        window=window,
        trained_until_ms=int(data.timestamp_ms.max()),
        blend=None if blend is None else blend.shipped.learner,
        users=None if meeting is None else MetUsers.of(past.users, meeting),
    )
    sequences = real_windows(trained, types, window)
    path = export_checkpoint(checkpoint, out, encoder=prepared.encoder, sequences=sequences, console=console)
    checkpoint.save(out / f"{checkpoint.version}.pt")
    written = card.write(out / CARDS / card.version)
    unfinished.unlink(missing_ok=True)
    console.print(f"trained in {trained.seconds:.0f} s; model card: {written}")
    return path


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    *,
    encoder: Path | None = None,
    sequences: Mapping[str, Array] | None = None,
    console: Console,
) -> Path:
    """Publish `out`/<version>, verified. Raises ArtefactError."""
    with busy(console, "exporting to ONNX and verifying"):
        return export_artefact(
            checkpoint.model,
            out,
            item_ids=checkpoint.item_ids,
            content=checkpoint.model.content.numpy(),
            popularity=checkpoint.popularity,
            head_labels=checkpoint.head_labels,
            metrics=checkpoint.metrics,
            seed=checkpoint.seed,
            data_hash=checkpoint.data_hash,
            window=checkpoint.window,
            trained_until_ms=checkpoint.trained_until_ms,
            blend=checkpoint.blend,
            users=checkpoint.users,
            encoder_dir=cached_encoder() if encoder is None else encoder,
            sequences=sequences,
            version=checkpoint.version,
        )


def evaluate_artefact(
    artefact: Path,
    past: Interactions,
    rest: Interactions,
    types: EventTypes,
    console: Console,
    attributes: Attributes | None = None,
) -> Judgement:
    """Judge an artefact as the worker runs it, on the CPU; prints a table."""
    model = Model.load(artefact, CPU)
    trained = set(model.item_ids)
    encoder = TextEncoder.load(artefact, CPU)
    new = [row for row, item_id in enumerate(rest.item_ids) if item_id not in trained]
    contents = np.zeros((len(rest.items), model.manifest.content_dim), np.float32)
    with busy(console, "encoding new items and the events' texts"):
        if new:
            contents[new] = encoder.encode([item_text(rest.items[row]) for row in new])
        texts = encoder.encode(rest.texts) if rest.texts else None
    known = model.item_ids, model.item_vectors, model.item_bias
    catalogue = item_catalogue(rest.item_ids, *known, contents, model.tower, texts)
    return _judge(model, catalogue, past, rest, types, attributes, console)


def real_windows(trained: Trained, types: EventTypes, window: int) -> dict[str, Array]:
    """The last events of some users, as the inputs of gru_replay: item (B, T, D), type, gap, value (B, T), lengths (B)."""
    histories = trained.data.histories(types)[:VERIFIED_WINDOWS]
    vectors, _ = TorchStepper(trained.model).items()
    shape = len(histories), min(window, max(map(len, histories)))
    windows: dict[str, Array] = {
        "item": np.zeros((*shape, vectors.shape[1]), np.float32),
        "type": np.zeros(shape, np.int64),
        "gap": np.zeros(shape, np.float32),
        "value": np.zeros(shape, np.float32),
        "lengths": np.array([min(len(history), shape[1]) for history in histories], np.int64),
    }
    for row, (history, n) in enumerate(zip(histories, windows["lengths"].tolist(), strict=True)):
        has_item = (history.item[-n:] != NONE)[:, None]
        windows["item"][row, :n] = np.where(has_item, vectors[history.item[-n:]], 0)
        windows["type"][row, :n] = history.type[-n:]
        windows["gap"][row, :n], windows["value"][row, :n] = history.gap[-n:], history.value[-n:]
    return windows


def _judge_torch(
    trained: Trained,
    contents: F32,
    texts: F32 | None,
    past: Interactions,
    rest: Interactions,
    types: EventTypes,
    attributes: Attributes | None,
    console: Console,
) -> Judgement:
    stepper = TorchStepper(trained.model)
    vectors, bias = stepper.items()
    known = trained.data.item_ids, vectors, bias
    catalogue = item_catalogue(rest.item_ids, *known, contents, stepper.tower, texts)
    return _judge(stepper, catalogue, past, rest, types, attributes, console)


def _judge(
    model: Stepper,
    catalogue: Catalogue,
    past: Interactions,
    rest: Interactions,
    types: EventTypes,
    attributes: Attributes | None,
    console: Console,
) -> Judgement:
    with bar(console, "judging the later events", 2 * len(rest)) as advance:
        judge, lists = prequential(model, catalogue, past, rest, types, advance=advance)
    console.print(quality_table(judge.report(), judge.events))
    return Judgement(
        report=judge.report(),
        events=judge.events,
        slices=slices(past, rest, judge.ranks("stream"), attributes),
        exposure=exposure(lists, _popularity_in(past, rest), rest.item[rest.item != NONE]),
    )


def _popularity_in(past: Interactions, rest: Interactions) -> F32:
    """Training events of the items of `rest`, in its order."""
    counts = dict(zip(past.item_ids, past.popularity.tolist(), strict=True))
    return np.array([counts.get(item_id, 0.0) for item_id in rest.item_ids], np.float32)


def _flat(report: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a manifest: the stream's under their own names, a baseline's with its name in front."""
    return {
        metric if name == "stream" else f"{name}_{metric}": value
        for metric, values in report.items()
        for name, value in values.items()
    }
