"""How good a model in training is: it sees whole histories at once, as it was trained, and each next item is ranked.

Axes: B users, T events, n judged events, N items, H state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.batches import Batch, Batches
from model_export.evaluating import quality
from model_export.interactions import NONE, History, Interactions
from model_export.network import UserModel
from model_export.tasks import CATEGORY, EVENT_TYPE, PURCHASE, PURCHASE_LABELS, RATING, Tasks
from streamer.core.evaluation import Ranks
from streamer.core.event_types import EventTypes

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
_EVENTS = 12_000
"""Events of a batch, padding included."""
_LOGITS = 1 << 19
"""Scores that are held at a time."""


@dataclass(frozen=True)
class HeldOut:
    """Histories over the model's items, and the events of each that are judged: those from `first` (B,) on.

    An event without an earlier one in its history has no list before it, and is a miss.
    """

    histories: Sequence[History]
    first: Sequence[int]

    @classmethod
    def stream(cls, data: Interactions, types: EventTypes) -> HeldOut:
        """Every event of `data`, each user from an empty state."""
        histories = data.histories(types)
        return cls(histories, [0] * len(histories))

    @classmethod
    def last_items(cls, data: Interactions, types: EventTypes) -> tuple[Interactions, HeldOut]:
        """Leave-one-out: the events before each user's last one with an item, and those last ones to be judged.

        A user with a single event with an item keeps it.
        """
        has_item = np.flatnonzero(data.item != NONE)
        last = np.full(len(data.users), NONE, np.int64)
        last[data.user[has_item]] = has_item  # the later ones overwrite
        counts = np.bincount(data.user[has_item], minlength=len(data.users))
        last[counts < 2] = NONE
        cut = np.where(last == NONE, len(data), last)[data.user]
        places = np.arange(len(data))
        upto = data.take(places[(places <= cut)])
        histories = [h for h in upto.histories(types) if last[upto.user[h.rows[0]]] != NONE]
        return data.take(places[places < cut]), cls(histories, [len(history) - 1 for history in histories])

    def __len__(self) -> int:
        """Judged events."""
        return sum(
            int((history.item[first:] != NONE).sum())
            for history, first in zip(self.histories, self.first, strict=True)
        )


@dataclass(frozen=True)
class Judged:
    """n judged events: places in the log, items, and the rank of each in the list before it (0: further back than 10)."""

    rows: I64
    item: I64
    ranks: Ranks
    events_before: I64
    """Events of the same user before it."""


def judge(model: UserModel, held_out: HeldOut, types: EventTypes, texts: F32 | None = None) -> Judged:
    """Ranks over all of the model's items but those the user had consumed; `texts` (texts, content_dim) of the events."""
    consumes = np.zeros(32, np.bool_)
    for each in types:
        consumes[each.code] = each.consumes
    rows, items, ranks, before = [], [], [], []
    model.eval()
    with torch.inference_mode():
        vectors, bias = model.item_table()
        for group in _groups(held_out):
            states = states_of(model, vectors, [history for history, _ in group], texts)
            for (history, first), of_user in zip(group, states, strict=True):
                places = np.arange(first, len(history))[history.item[first:] != NONE]
                rows.append(history.rows[places])
                items.append(history.item[places])
                before.append(places)
                ranks.append(_ranks(model, vectors, bias, history, places, of_user, consumes))
    empty = np.zeros(0, np.int64)
    return Judged(*(np.concatenate([empty, *each]) for each in (rows, items, ranks, before)))


def _groups(held_out: HeldOut) -> Iterator[list[tuple[History, int]]]:
    """Histories alike in length."""
    pairs = sorted(zip(held_out.histories, held_out.first, strict=True), key=lambda pair: len(pair[0]))
    group: list[tuple[History, int]] = []
    for pair in pairs:
        if group and len(pair[0]) * (len(group) + 1) > _EVENTS:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def states_of(model: UserModel, vectors: Tensor, histories: Sequence[History], texts: F32 | None) -> Tensor:
    """(B, T, H)"""
    shape = len(histories), max(map(len, histories))
    item, text = np.full(shape, NONE, np.int64), np.full(shape, NONE, np.int64)
    type, gap, value = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, history in enumerate(histories):
        n = len(history)
        item[row, :n], text[row, :n], type[row, :n] = history.item, history.text, history.type
        gap[row, :n], value[row, :n] = history.gap, history.value
    inputs = event_vectors(model, vectors, torch.from_numpy(item), torch.from_numpy(text), texts)
    return model.sequence(inputs, *map(torch.from_numpy, (type, gap, value)))


def event_vectors(model: UserModel, vectors: Tensor, item: Tensor, text: Tensor, texts: F32 | None) -> Tensor:
    """item, text (B, T) rows, NONE without → (B, T, D): the item's vector plus the text's; row N is the unknown item."""
    n = len(vectors)
    table = torch.cat([vectors, model.unknown[None], torch.zeros_like(vectors[:1])])  # (N + 2, D)
    inputs = torch.nn.functional.embedding(torch.where(item == NONE, n + 1, item), table)
    with_text = text != NONE
    if texts is not None and bool(with_text.any()):
        contents = torch.from_numpy(texts[text[with_text].cpu().numpy()]).to(inputs.device)
        of_texts = torch.zeros_like(inputs)
        of_texts[with_text] = model.tower(contents)[0]
        inputs = inputs + of_texts
    return inputs


def _ranks(
    model: UserModel,
    vectors: Tensor,
    bias: Tensor,
    history: History,
    places: I64,
    states: Tensor,
    consumes: NDArray[np.bool_],
) -> Ranks:
    """1-based rank of each judged item (n,), 0 beyond 10, without a list before it, or where it was consumed before."""
    ranks = np.zeros(len(places), np.int64)
    taken = np.flatnonzero(consumes[history.type] & (history.item != NONE))[::-1]
    consumed_at = np.full(len(vectors), len(history), np.int64)
    consumed_at[history.item[taken]] = taken  # backwards, so that the first time stays
    listed = np.flatnonzero((places > 0) & (consumed_at[history.item[places]] >= places))
    size = max(1, _LOGITS // len(vectors))
    for start in range(0, len(listed), size):
        block = listed[start : start + size]
        at, item = places[block], torch.from_numpy(history.item[places[block]])
        scores = torch.addmm(bias, model.query(states[torch.from_numpy(at - 1)]), vectors.T)
        scores.masked_fill_(torch.from_numpy(consumed_at[None, :] < at[:, None]), -torch.inf)
        found = 1 + (scores > scores.gather(1, item[:, None])).sum(1).numpy()
        ranks[block] = np.where(found <= 10, found, 0)
    return ranks


def task_metrics(
    model: UserModel, held_out: HeldOut, types: EventTypes, tasks: Tasks, texts: F32 | None = None
) -> dict[str, float]:
    """Of each task on the judged events: mean losses, and what can be read: accuracy, hit@1, AUC, RMSE on the value's scale.

    Beside each stands what its base rate or mean over the same events would get (`…_without_model`), which is a little
    flattering to it. Events without an item are left out.
    """
    columns: dict[str, list[Tensor]] = {}
    batches = Batches(
        held_out.histories, len(model.id_bias), types, events=_EVENTS, chunk=1 << 20, outlook=tasks.targets
    )
    model.eval()
    with torch.inference_mode():
        vectors, _ = model.item_table()
        for group in batches.epoch(np.random.default_rng(0)):
            for name, column in _task_columns(model, vectors, batches.assemble(group), tasks, texts).items():
                columns.setdefault(name, []).append(column)
    joined = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
    return _read(joined) if joined else {}


def _task_columns(
    model: UserModel, vectors: Tensor, batch: Batch, tasks: Tasks, texts: F32 | None
) -> dict[str, Tensor]:
    at = batch.next_item != NONE
    if not bool(at.any()):
        return {}
    inputs = event_vectors(model, vectors, batch.item, batch.text, texts)
    state = model.sequence(inputs, batch.type, batch.gap, batch.value)[at]
    item, kind = batch.next_item[at], batch.next_type[at]
    outlook = {name: each[at] for name, each in batch.outlook.items()}
    columns: dict[str, Tensor] = {}
    for task, (losses, has) in tasks.losses(model, state, item, kind, vectors, outlook).items():
        columns[f"{task}/loss"], columns[f"{task}/has"] = losses, has
    logits = model.head_logits(state)
    columns[f"{EVENT_TYPE}/right"] = (logits[EVENT_TYPE].argmax(1) == tasks.columns(kind)).float()
    columns[f"{EVENT_TYPE}/target"] = tasks.columns(kind).float()
    for task in logits:
        if task.startswith(CATEGORY):
            columns[f"{task}/wanted"] = tasks.categories(item) if task == CATEGORY else outlook[task]
    if CATEGORY in logits:  # of many long-term categories any guess is one
        wanted, guess = columns[f"{CATEGORY}/wanted"], logits[CATEGORY].argmax(1, keepdim=True)
        columns[f"{CATEGORY}/right"] = (wanted.gather(1, guess)[:, 0] > 0).float()
    if PURCHASE in logits:
        columns[f"{PURCHASE}/target"] = outlook[PURCHASE]
        columns[f"{PURCHASE}/score"] = logits[PURCHASE][:, PURCHASE_LABELS.index("purchase")]
        columns[f"{PURCHASE}/score"] -= logits[PURCHASE][:, PURCHASE_LABELS.index("none")]
    if RATING in outlook:
        columns[f"{RATING}/target"] = outlook[RATING]
    return columns


def _read(columns: dict[str, F32]) -> dict[str, float]:
    found: dict[str, float] = {}
    for task in {name.split("/")[0] for name in columns}:
        has = columns[f"{task}/has"] > 0
        if not has.any():
            continue
        loss = float(columns[f"{task}/loss"][has].mean())
        found[f"{task}_{'rmse' if task == RATING else 'log_loss'}"] = loss**0.5 if task == RATING else loss
        if f"{task}/right" in columns:
            found[f"{task}_hit_rate_at_1"] = float(columns[f"{task}/right"][has].mean())
        if f"{task}/wanted" in columns:
            wanted = columns[f"{task}/wanted"][has]
            found[f"{task}_log_loss_without_model"] = _cross_entropy(wanted)
    if f"{EVENT_TYPE}/target" in columns:
        kinds = columns[f"{EVENT_TYPE}/target"].astype(np.int64)
        found[f"{EVENT_TYPE}_log_loss_without_model"] = _cross_entropy(np.eye(32, dtype=np.float32)[kinds])
    if f"{PURCHASE}/target" in columns:
        found |= _purchase_metrics(columns[f"{PURCHASE}/target"] > 0, columns[f"{PURCHASE}/score"])
    if f"{RATING}/target" in columns:
        rated = columns[f"{RATING}/target"]
        found[f"{RATING}_rmse_without_model"] = float(np.nanstd(rated))
    return found


def _cross_entropy(wanted: F32) -> float:
    """Mean cross-entropy of rows (n, C) with their own mean: nothing that knows no user can do better."""
    mean = wanted.mean(axis=0, dtype=np.float64)
    present = mean > 0
    return float(-(mean[present] * np.log(mean[present] / mean.sum())).sum())


def _purchase_metrics(bought: NDArray[np.bool_], score: F32) -> dict[str, float]:
    yes, no = int(bought.sum()), int((~bought).sum())
    if not yes or not no:
        return {}
    order = np.argsort(np.argsort(score, kind="stable"), kind="stable") + 1.0
    rate = yes / (yes + no)
    return {
        f"{PURCHASE}_auc": float((order[bought].sum() - yes * (yes + 1) / 2) / (yes * no)),
        f"{PURCHASE}_log_loss_without_model": float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))),
    }


def summary(judged: Judged) -> dict[str, float]:
    """hit_rate_at_10, ndcg_at_10, mrr_at_10"""
    return quality(judged.ranks)
