"""Learning a UserModel from an event log.

The loss is the full softmax cross-entropy of each next item over the catalogue, without the items that the user had consumed
by then: they would not be recommended either, so no capacity goes into keeping them down (NDCG@10 +8 % on MovieLens-100K).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_export.batches import Batch, Batches
from model_export.evaluating import TorchStepper, lists_after, quality, stream_ranks, trained_catalogue
from model_export.interactions import NONE, Interactions, category_labels, category_targets
from model_export.network import ModelConfig, UserModel
from streamer.core.event_types import EventTypes
from streamer.errors import DataError

F32 = NDArray[np.float32]
CATEGORY, EVENT_TYPE = "category", "event_type"


@dataclass(frozen=True)
class TrainingConfig:
    """What shapes a run. The defaults were chosen on an inner split of MovieLens-100K (train 64 %, judge the next 16 %)."""

    hidden: int = 64
    dim: int = 64
    dropout: float = 0.15
    id_dropout: float = 0.05
    unknown_rate: float = 0.01
    """Share of the events whose item is shown as the unknown one."""
    epochs: int = 12
    patience: int = 3
    """Epochs without a better validation NDCG before training stops."""
    validation_fraction: float = 0.1
    """The last part of the events by time; 0 trains `epochs` epochs unseen."""
    refit: bool = True
    """Train once more on all events, for as many epochs as were best: the newest events are worth most."""
    learning_rate: float = 1e-2
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls as a cosine."""
    batch_events: int = 1500
    chunk: int = 200
    head_weight: float = 0.05
    """Weight of each head's loss beside the next item's."""
    clip: float = 1.0
    seed: int = 7
    threads: int = 1
    """Of torch. Steps over short chunks are small work: a second thread gains little, and loses much on a busy machine."""

    def __post_init__(self) -> None:
        for name in ("hidden", "dim", "epochs", "patience", "batch_events", "chunk", "threads"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("dropout", "id_dropout", "unknown_rate", "validation_fraction", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must lie in [0, 1)")
        if not self.learning_rate > 0:
            raise DataError(f"learning_rate is {self.learning_rate}: it must be positive")


@dataclass(frozen=True)
class Epoch:
    """Progress: one epoch of one fit is over. Losses are means over targets, in nats."""

    fit: str
    """`validate` or `refit`"""
    number: int
    epochs: int
    loss: float
    losses: dict[str, float]
    """next_item and the heads, each for itself."""
    validation: dict[str, float]
    """hit_rate_at_10, ndcg_at_10 and mrr_at_10 on the validation period; empty in the refit."""


@dataclass(frozen=True)
class Trained:
    """A model in eval mode and how it came about. `items` are its catalogue, in its order."""

    model: UserModel
    data: Interactions
    """The training events over the items that the model knows."""
    content: F32
    head_labels: dict[str, list[str]]
    epochs: int
    validation: dict[str, float]
    seconds: float


Watch = Callable[[Epoch], None]
Advance = Callable[[str, int, int], None]
"""(fit, steps done, steps in all)"""


def train(
    data: Interactions,
    content: F32,
    types: EventTypes,
    config: TrainingConfig,
    *,
    texts: F32 | None = None,
    watch: Watch = lambda epoch: None,
    advance: Advance = lambda fit, done, steps: None,
) -> Trained:
    """Fit a model to `data`, in time order over items that all occur (`Interactions.known_items_only`).

    `content` (N, 384) are the items' text vectors, `texts` (texts, 384) those of the events' texts. The same data, config
    and seed give the same weights. Raises DataError when nothing can be learned.
    """
    started_s = time.perf_counter()
    with _deterministic(config):
        fitting = _Fitting(data, content, types, config, texts, watch, advance)
        model, epochs, validation = fitting.run()
    return Trained(
        model.eval(), data, content, fitting.head_labels, epochs, validation, time.perf_counter() - started_s
    )


class _Fitting:
    def __init__(
        self,
        data: Interactions,
        content: F32,
        types: EventTypes,
        config: TrainingConfig,
        texts: F32 | None,
        watch: Watch,
        advance: Advance,
    ) -> None:
        self.data, self.types, self.config = data, types, config
        self.watch, self.advance = watch, advance
        self.content = torch.from_numpy(np.ascontiguousarray(content, np.float32))
        self.texts = texts
        self.head_labels = {EVENT_TYPE: [each.name for each in types]}
        categories = category_labels(data.items)
        if categories:
            self.head_labels[CATEGORY] = categories
        self._categories = torch.from_numpy(category_targets(data.items, categories))  # (N, categories)
        self._type_column = torch.full((32,), NONE, dtype=torch.int64)
        for column, each in enumerate(types):
            self._type_column[each.code] = column

    def run(self) -> tuple[UserModel, int, dict[str, float]]:
        config = self.config
        if not config.validation_fraction:
            return self._fit("refit", self.data, None, config.epochs)
        first, last = self.data.split(1 - config.validation_fraction, config.seed)
        model, epochs, validation = self._fit("validate", first, last, config.epochs)
        if config.refit:
            model, _, _ = self._fit("refit", self.data, None, epochs)
        return model, epochs, validation

    def _new_model(self) -> UserModel:
        config = self.config
        heads = {task: len(labels) for task, labels in self.head_labels.items()}
        torch.manual_seed(config.seed)
        return UserModel(
            ModelConfig(
                items=len(self.data.items),
                hidden=config.hidden,
                dim=config.dim,
                content_dim=self.content.shape[1],
                heads=heads,
                dropout=config.dropout,
                id_dropout=config.id_dropout,
            ),
            self.content,
        )

    def _fit(
        self, fit: str, data: Interactions, validation: Interactions | None, epochs: int
    ) -> tuple[UserModel, int, dict[str, float]]:
        """The model of the best epoch (the last without validation), that epoch's number (from 1) and its quality."""
        config, model = self.config, self._new_model()
        batches = Batches(
            data.histories(self.types),
            len(self.data.items),
            self.types,
            events=config.batch_events,
            chunk=config.chunk,
        )
        rng = np.random.default_rng(config.seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        best, best_epoch, best_quality = None, epochs, {"ndcg_at_10": -1.0}
        for number in range(1, epochs + 1):
            loss, losses = self._epoch(fit, model, optimiser, batches, rng, number - 1, epochs)
            found = {} if validation is None else self._quality(model, validation)
            self.watch(Epoch(fit, number, epochs, loss, losses, found))
            if found and found["ndcg_at_10"] > best_quality["ndcg_at_10"]:
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                best_epoch, best_quality = number, found
            elif found and number - best_epoch >= config.patience:
                break
        if best is None:
            return model, epochs, {}
        model.load_state_dict(best)
        return model, best_epoch, best_quality

    def _epoch(
        self,
        fit: str,
        model: UserModel,
        optimiser: torch.optim.Optimizer,
        batches: Batches,
        rng: np.random.Generator,
        done: int,
        epochs: int,
    ) -> tuple[float, dict[str, float]]:
        """One pass over the data → mean loss, and each task's."""
        model.train()
        arrangement = batches.epoch(rng)
        sums: dict[str, float] = {}
        targets, total = 0, 0.0
        for place, chunks in enumerate(arrangement):
            progress = (done + place / len(arrangement)) / epochs
            for group in optimiser.param_groups:
                group["lr"] = self.config.learning_rate * schedule(progress, self.config.warmup)
            batch = batches.assemble(chunks)
            if not batch.targets:
                continue
            losses = self._losses(model, batch)
            loss = losses["next_item"] + self.config.head_weight * sum(
                losses[task] for task in self.head_labels
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), self.config.clip)
            optimiser.step()
            targets, total = targets + batch.targets, total + loss.item() * batch.targets
            for task, value in losses.items():
                sums[task] = sums.get(task, 0.0) + value.item() * batch.targets
            self.advance(fit, done * len(arrangement) + place + 1, epochs * len(arrangement))
        if not targets:
            raise DataError("no user has two events with an item, so there is no next item to learn")
        return total / targets, {task: value / targets for task, value in sums.items()}

    def _losses(self, model: UserModel, batch: Batch) -> dict[str, Tensor]:
        """Task → mean loss over the batch's targets, each target weighted as its event type."""
        vectors, bias = model.item_table()
        inputs = self._inputs(model, vectors, batch)
        states = model.sequence(inputs, batch.type, batch.gap, batch.value)  # (B, T, H)
        at = batch.next_item != NONE  # (B, T), n of them
        state, item, weight = states[at], batch.next_item[at], batch.weight[at]  # (n, H), (n), (n)
        columns = torch.arange(at.shape[1], dtype=torch.int32)
        consumed = (batch.consumed_at[:, None, :] <= columns[:, None])[at]  # (n, N)
        logits = torch.addmm(bias, model.query(state), vectors.T).masked_fill_(consumed, -torch.inf)  # (n, N)
        losses = {"next_item": _mean(functional.cross_entropy(logits, item, reduction="none"), weight)}
        heads = model.head_logits(state)
        types = self._type_column[batch.next_type[at]]
        losses[EVENT_TYPE] = _mean(
            functional.cross_entropy(heads[EVENT_TYPE], types, reduction="none"), weight
        )
        if CATEGORY in heads:
            wanted = self._categories[item]  # (n, categories), a row without any gives no loss
            losses[CATEGORY] = _mean(
                functional.cross_entropy(heads[CATEGORY], wanted, reduction="none"), weight
            )
        return losses

    def _inputs(self, model: UserModel, vectors: Tensor, batch: Batch) -> Tensor:
        """(B, T, D): the item's vector, now and then the unknown one, zeros without an item; plus the text's."""
        n = len(vectors)
        unknown = torch.rand(batch.item.shape) < self.config.unknown_rate
        item = torch.where(unknown & (batch.item != NONE), n, batch.item)
        item = torch.where(item == NONE, n + 1, item)
        table = torch.cat([vectors, model.unknown[None], torch.zeros(1, vectors.shape[1])])  # (N + 2, D)
        inputs = functional.embedding(item, table)
        with_text = batch.text != NONE
        if self.texts is not None and with_text.any():
            contents = torch.from_numpy(self.texts[batch.text[with_text].numpy()])
            texts = torch.zeros_like(inputs)
            texts[with_text] = model.tower(contents)[0]
            inputs = inputs + texts
        return inputs

    def _quality(self, model: UserModel, validation: Interactions) -> dict[str, float]:
        stepper = TorchStepper(model)
        lists = lists_after(stepper, trained_catalogue(stepper, self.texts), validation, self.types)
        return quality(stream_ranks(lists, validation))


def schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate at `progress` in [0, 1): a linear rise over `warmup`, times a cosine that falls to 0."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return float(max(rise * 0.5 * (1 + np.cos(np.pi * progress)), 1e-4))


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean (n), (n) → ()."""
    return (losses * weight).sum() / weight.sum().clamp(min=1e-9)


@contextmanager
def _deterministic(config: TrainingConfig) -> Iterator[None]:
    """Seeded and repeatable, and everything as before afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads)
    memory: Any = torch.utils.deterministic  # its one setting is not in its type
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # nothing here reads memory that it did not write
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = filled
