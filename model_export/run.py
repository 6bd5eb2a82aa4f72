"""The trainer's steps put together: encode, train, judge, export, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from model_export.checkpoint import Checkpoint, version_of
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
from model_export.text_export import cached_encoder, encode_catalogue
from model_export.training import Trained, train
from model_export.training_config import TrainingConfig
from model_export.training_screen import TrainingScreen, bar, busy, quality_table
from streamer.core.evaluation import PrequentialJudge
from streamer.core.event_types import EventTypes
from streamer.core.item_text import item_text
from streamer.serving.device import CPU
from streamer.serving.model import Model
from streamer.serving.session import Array
from streamer.serving.text_encoder import TextEncoder

UNFINISHED = "unfinished-training.state"
"""Beside the artefacts while a run lasts: the same command goes on from there after an interruption."""
VERIFIED_WINDOWS = 32
"""Users whose last events the export is verified with."""


def train_and_export(
    past: Interactions,
    rest: Interactions | None,
    types: EventTypes,
    config: TrainingConfig,
    *,
    out: Path,
    window: int,
    cache: Path,
    tensorboard: Path | None,
    console: Console,
) -> Path:
    """Train on `past`, judge on `rest` (None: on nothing), and publish `out`/<version> with its checkpoint beside it."""
    data = past.known_items_only()
    with busy(console, "encoding the items' texts"):
        encoder = cached_encoder(cache)
        texts = list(map(item_text, past.items))
        encoded = dict(zip(past.item_ids, encode_catalogue(texts, encoder_dir=encoder), strict=True))
        event_texts = encode_catalogue(past.texts, encoder_dir=encoder) if past.texts else None
    content = np.stack([encoded[item_id] for item_id in data.item_ids])
    with TrainingScreen(console, tensorboard) as screen:
        trained = train(
            data,
            content,
            types,
            config,
            texts=event_texts,
            window=window,
            state=out / UNFINISHED,
            watch=screen.watch,
            advance=screen.advance,
        )
        screen.ended(trained.epochs)
    metrics = {f"validation_{name}": value for name, value in trained.validation.items()}
    if rest is not None:
        contents = np.stack([encoded[item_id] for item_id in rest.item_ids])
        judge = _judge_torch(trained, contents, event_texts, past, rest, types, console)
        metrics |= _flat(judge.report())
    checkpoint = Checkpoint(
        model=trained.model,
        version=version_of(trained.model),
        item_ids=data.item_ids,
        popularity=data.popularity,
        head_labels=trained.head_labels,
        metrics=metrics,
        seed=config.seed,
        data_hash=data.digest(),
        window=window,
    )
    sequences = real_windows(trained, types, window)
    path = export_checkpoint(checkpoint, out, encoder=encoder, sequences=sequences, console=console)
    checkpoint.save(out / f"{checkpoint.version}.pt")
    (out / UNFINISHED).unlink(missing_ok=True)
    console.print(f"trained in {trained.seconds:.0f} s")
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
            encoder_dir=cached_encoder() if encoder is None else encoder,
            sequences=sequences,
            version=checkpoint.version,
        )


def evaluate_artefact(
    artefact: Path, past: Interactions, rest: Interactions, types: EventTypes, console: Console
) -> dict[str, dict[str, float]]:
    """Judge an artefact as the worker runs it, on the CPU; prints a table and returns PrequentialJudge's report."""
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
    return _judge(model, catalogue, past, rest, types, console).report()


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
    console: Console,
) -> PrequentialJudge:
    stepper = TorchStepper(trained.model)
    vectors, bias = stepper.items()
    known = trained.data.item_ids, vectors, bias
    catalogue = item_catalogue(rest.item_ids, *known, contents, stepper.tower, texts)
    return _judge(stepper, catalogue, past, rest, types, console)


def _judge(
    model: Stepper,
    catalogue: Catalogue,
    past: Interactions,
    rest: Interactions,
    types: EventTypes,
    console: Console,
) -> PrequentialJudge:
    with bar(console, "judging the later events", 2 * len(rest)) as advance:
        judge = prequential(model, catalogue, past, rest, types, advance=advance)
    console.print(quality_table(judge.report(), judge.events))
    return judge


def _flat(report: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a manifest: the stream's under their own names, a baseline's with its name in front."""
    return {
        metric if name == "stream" else f"{name}_{metric}": value
        for metric, values in report.items()
        for name, value in values.items()
    }
