"""What the stream would have recommended: a model taken event by event through a log, as the worker does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.interactions import NONE, History, Interactions
from model_export.network import UserModel
from streamer.core.evaluation import PrequentialJudge, Ranks, hit_at_k, mrr_at_k, ndcg_at_k
from streamer.core.event_types import EventTypes

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Tower = Callable[[F32], tuple[F32, F32]]
"""content (N, content_dim) → vectors (N, D), bias (N)"""


class Stepper(Protocol):
    """What of a model is needed here; `streamer.serving.model.Model` has it, and TorchStepper below."""

    @property
    def hidden(self) -> int: ...

    @property
    def recurrent(self) -> bool:
        """Whether there is a step; else the window is replayed for every event."""
        ...

    @property
    def window(self) -> int:
        """Events that a replay is given."""
        ...

    def replay(self, item: F32, type: I64, gap: F32, value: F32, lengths: I64) -> F32: ...

    def step(self, state: F32, item: F32, type: I64, gap: F32, value: F32) -> F32: ...

    def score(self, state: F32, items: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]: ...


@dataclass(frozen=True)
class Catalogue:
    """The items of a log as one model sees them, in the log's order."""

    vectors: F32
    """(N, D)"""
    bias: F32
    """(N)"""
    texts: F32
    """(texts, D) vectors of the events' texts."""

    def inputs(self, item: I64, text: I64) -> F32:
        """(n,) rows → (n, D): the item's vector plus the text's, zeros for NONE."""
        found: F32 = np.where((item != NONE)[:, None], self.vectors[item], np.float32(0))
        if len(self.texts):
            found = found + np.where((text != NONE)[:, None], self.texts[text], np.float32(0))
        return found


class TorchStepper:
    """A UserModel behind the worker's interface."""

    def __init__(self, model: UserModel) -> None:
        self._model = model.eval()

    @property
    def hidden(self) -> int:
        return self._model.config.hidden

    @property
    def recurrent(self) -> bool:
        return "step" in self._model.config.operations

    @property
    def window(self) -> int:
        return self._model.config.window

    def replay(self, item: F32, type: I64, gap: F32, value: F32, lengths: I64) -> F32:
        with torch.inference_mode():
            state: F32 = self._model.replay(*map(torch.from_numpy, (item, type, gap, value, lengths))).numpy()
        return state

    def step(self, state: F32, item: F32, type: I64, gap: F32, value: F32) -> F32:
        with torch.inference_mode():
            stepped: F32 = self._model.step(*map(torch.from_numpy, (state, item, type, gap, value))).numpy()
        return stepped

    def score(self, state: F32, items: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        tensors = map(torch.from_numpy, (state, items, bias, excluded, np.array([min(k, len(items))])))
        with torch.inference_mode():
            scores, rows = self._model.score(*tensors)
        return scores.numpy(), torch.where(scores.isneginf(), NONE, rows).numpy()

    def items(self) -> tuple[F32, F32]:
        """vectors (N, D), bias (N)"""
        with torch.inference_mode():
            vectors, bias = self._model.item_table()
        return vectors.numpy(), bias.numpy()

    def tower(self, content: F32) -> tuple[F32, F32]:
        with torch.inference_mode():
            vectors, bias = self._model.tower(torch.from_numpy(content))
        return vectors.numpy(), bias.numpy()


def item_catalogue(
    item_ids: Sequence[str],
    trained_ids: Sequence[str],
    vectors: F32,
    bias: F32,
    contents: F32,
    tower: Tower,
    texts: F32 | None = None,
) -> Catalogue:
    """The vectors of `item_ids` (N,) as the worker has them: trained ones, and the others from their content.

    vectors (n, D) and bias (n,) belong to `trained_ids`; contents (N, content_dim) are read where an item is not among
    them; texts (texts, content_dim) are those of the events.
    """
    found, found_bias = tower(contents)
    rows = {item_id: row for row, item_id in enumerate(trained_ids)}
    known = np.array([rows.get(item_id, NONE) for item_id in item_ids], np.int64)
    trained = known != NONE
    found[trained], found_bias[trained] = vectors[known[trained]], bias[known[trained]]
    return Catalogue(found, found_bias, _text_vectors(texts, tower, vectors.shape[1]))


def trained_catalogue(model: TorchStepper, texts: F32 | None) -> Catalogue:
    """The items that the model was trained on, in its order."""
    vectors, bias = model.items()
    return Catalogue(vectors, bias, _text_vectors(texts, model.tower, vectors.shape[1]))


def _text_vectors(texts: F32 | None, tower: Tower, dim: int) -> F32:
    return np.zeros((0, dim), np.float32) if texts is None or not len(texts) else tower(texts)[0]


def lists_after(
    model: Stepper,
    catalogue: Catalogue,
    data: Interactions,
    types: EventTypes,
    k: int = 10,
    advance: Callable[[int], None] = lambda events: None,
) -> I64:
    """Rows (n, k) of the list that is published after each event of `data`, NONE where fewer items are left.

    Users start with an empty state; what they consumed in `data` is excluded. All users take their t-th event together.
    """
    consumes = np.array([code in types.by_code and types.by_code[code].consumes for code in range(32)])
    histories = sorted(data.histories(types), key=len, reverse=True)
    lists = np.full((len(data), k), NONE, np.int64)
    state = np.zeros((len(histories), model.hidden), np.float32)
    excluded = np.zeros((0, 2), np.int64)
    for t in range(len(histories[0])):
        active = [history for history in histories[: len(state)] if len(history) > t]
        state = state[: len(active)]  # the longest come first
        column = _column(active, t)
        if model.recurrent:
            inputs = catalogue.inputs(column.item, column.text)
            state = model.step(state, inputs, column.type, column.gap, column.value)
        else:
            state = model.replay(*_windows(active, t, model.window, catalogue))
        taken = np.flatnonzero(consumes[column.type] & (column.item != NONE))
        pairs = np.stack([taken, column.item[taken]], axis=1)
        excluded = np.concatenate([excluded[excluded[:, 0] < len(active)], pairs])
        rows = model.score(state, catalogue.vectors, catalogue.bias, excluded, k)[1]
        lists[column.rows, : rows.shape[1]] = rows
        advance(len(active))
    return lists


def _windows(
    histories: Sequence[History], t: int, most: int, catalogue: Catalogue
) -> tuple[F32, I64, F32, F32, I64]:
    """The last events up to the t-th, as the worker stores them: item (B, T, D), type, gap, value (B, T), lengths (B).

    The first gap is 0, and texts are not kept.
    """
    first = max(0, t + 1 - most)
    window = slice(first, t + 1)
    item = np.stack([history.item[window] for history in histories])
    gap = np.stack([history.gap[window] for history in histories]).astype(np.float32)
    gap[:, 0] = 0
    return (
        catalogue.inputs(item.ravel(), np.full(item.size, NONE)).reshape(*item.shape, -1),
        np.stack([history.type[window] for history in histories]).astype(np.int64),
        gap,
        np.stack([history.value[window] for history in histories]).astype(np.float32),
        np.full(len(histories), t + 1 - first, np.int64),
    )


@dataclass(frozen=True)
class _Column:
    """The t-th event of each user."""

    rows: I64
    item: I64
    type: I64
    gap: F32
    value: F32
    text: I64


def _column(histories: Sequence[History], t: int) -> _Column:
    return _Column(
        rows=np.array([history.rows[t] for history in histories]),
        item=np.array([history.item[t] for history in histories]),
        type=np.array([history.type[t] for history in histories], np.int64),
        gap=np.array([history.gap[t] for history in histories], np.float32),
        value=np.array([history.value[t] for history in histories], np.float32),
        text=np.array([history.text[t] for history in histories]),
    )


def previous_rows(user: I64) -> I64:
    """(n,) row of the same user's event before each event, NONE for a user's first."""
    order = np.argsort(user, kind="stable")
    before = np.full(len(user), NONE, np.int64)
    same = user[order][1:] == user[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before


def stream_ranks(lists: I64, data: Interactions) -> Ranks:
    """1-based rank of each event's item in its user's previous list, 0 without; events without an item are left out."""
    before = previous_rows(data.user)
    hit = (lists[before] == data.item[:, None]) & (before != NONE)[:, None]
    ranks = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
    judged: Ranks = ranks[data.item != NONE]
    return judged


def quality(ranks: Ranks, k: int = 10) -> dict[str, float]:
    return {
        f"hit_rate_at_{k}": hit_at_k(ranks, k),
        f"ndcg_at_{k}": ndcg_at_k(ranks, k),
        f"mrr_at_{k}": mrr_at_k(ranks, k),
    }


def prequential(
    model: Stepper,
    catalogue: Catalogue,
    past: Interactions | None,
    data: Interactions,
    types: EventTypes,
    k: int = 10,
    advance: Callable[[int], None] = lambda events: None,
) -> tuple[PrequentialJudge, I64]:
    """Judge the stream and the learning baselines on every event of `data` that has an item, in its order.

    `past` warms the baselines. The stream starts with empty states and does not learn along. `advance` is told of events
    done, 2 × len(data) in all. Also returned: the lists (n, k) that were published after each event.
    """
    lists = lists_after(model, catalogue, data, types, k, advance)
    before = previous_rows(data.user)
    ids = data.item_ids
    judge = PrequentialJudge(ids, k=k)
    if past is not None:
        names = past.item_ids
        judge.warm(
            (past.users[user], names[item])
            for user, item in zip(past.user.tolist(), past.item.tolist(), strict=True)
            if item != NONE
        )
    for row, (user, item) in enumerate(zip(data.user.tolist(), data.item.tolist(), strict=True)):
        if item != NONE:
            published = None
            if before[row] != NONE:
                published = [ids[place] for place in lists[before[row]].tolist() if place != NONE]
            judge.judge(data.users[user], ids[item], published)
        advance(1)
    return judge, lists
