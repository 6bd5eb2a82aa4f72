"""First weights of the collaborative blend, learned on events that the model in it has not seen.

Blended with a model on the events that this was trained on, the blend would trust it far too much. So the blend learns from most
of the log without the model, and then from the held-out end with the model as it was before the refit; each event is judged
before it is counted. The refitted model is served with these weights, and the stream goes on learning from there
(`agents.collaborate`).

Axes: n held-out events, N items, D item vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.interactions import NONE, Interactions
from model_export.network import UserModel
from model_export.training import Trained
from model_export.validation import HeldOut, alike, states_of
from streamer.core.evaluation import ndcg_at_k
from streamer.core.event_types import EventTypes
from streamer.core.signals import SINGLES, Extra, Histories, SignalOptions, Signals
from streamer.core.signals.features import Signal
from streamer.core.signals.replay import STEP_EVENTS, Replay
from streamer.core.signals.rows import PAST
from streamer.core.signals.weights import Shipped

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

COUNTED, JUDGED, FEWEST = 400_000, 10_000, 500
"""The last events that are counted and judged, at most; held-out ones that are needed at least."""
BATCH = 64
LEARN_FROM = 0.2
"""Share of the log after which there is something to learn from counts."""
ALONE_STEPS, STEPS = 5_000, 3_000
"""Of learning without the model, and with it at most."""
PASSES = 16
"""How often an event with the model is learned from at most."""
MODEL_ITEMS = 100
"""Candidates that the model contributes, as in `agents.collaborate`."""


@dataclass(frozen=True)
class FirstBlend:
    """What is shipped, and NDCG@10 over the second half of the judged events, each judged before it was learned from."""

    shipped: Shipped
    ndcg_at_10: float
    model_ndcg_at_10: float

    @property
    def metrics(self) -> dict[str, float]:
        """For the manifest."""
        return {
            "validation_blend_ndcg_at_10": self.ndcg_at_10,
            "validation_blend_model_alone_ndcg_at_10": self.model_ndcg_at_10,
        }


def first_blend(
    trained: Trained, types: EventTypes, seed: int, texts: F32 | None = None
) -> FirstBlend | None:
    """None where too little was held out (or not by time). texts (texts, content_dim): of the events."""
    if trained.earlier is None:
        return None
    log = trained.data.in_time_order(seed)
    weight = log.weights(types)
    counts = np.flatnonzero((log.item != NONE) & (weight > 0))[-COUNTED:]
    cut = max(int(np.searchsorted(counts, trained.earlier.events)), len(counts) - JUDGED)
    if len(counts) - cut < FEWEST:
        return None
    model = trained.earlier.model
    with torch.inference_mode():
        vectors, bias = model.item_table()
        query = _queries(model, vectors, log, counts[cut:], types, texts)
    stream = _Stream(log.take(counts), types, weight[counts], query, vectors.numpy(), bias.numpy(), cut)
    return stream.learn()


def _queries(
    model: UserModel,
    vectors: torch.Tensor,
    log: Interactions,
    rows: I64,
    types: EventTypes,
    texts: F32 | None,
) -> F32:
    """(n, D) what the state before each event of `rows` (n,) asks for; an empty state's for users' first ones."""
    place = np.full(len(log), NONE, np.int64)
    place[rows] = np.arange(len(rows))
    state = torch.zeros(len(rows), model.config.hidden)
    histories = [
        each for each in log.histories(types) if place[each.rows[-1]] != NONE or (place[each.rows] >= 0).any()
    ]
    for group in alike(HeldOut(histories, [0] * len(histories))):
        states = states_of(model, vectors, [history for history, _ in group], texts)
        for (history, _), of_user in zip(group, states, strict=True):
            wanted = np.flatnonzero(place[history.rows] != NONE)
            wanted = wanted[wanted > 0]
            state[place[history.rows[wanted]]] = of_user[wanted - 1]
    asked: F32 = model.query(state).numpy()
    return asked


class _Stream:
    """The log in time order, batch by batch: judged and learned from behind the cut, then counted."""

    def __init__(
        self, log: Interactions, types: EventTypes, weight: F32, query: F32, vectors: F32, bias: F32, cut: int
    ) -> None:
        self._log, self._weight, self._cut = log, weight.astype(np.float64), cut
        self._query, self._vectors, self._bias = query, vectors, bias
        self._consumes = np.zeros(32, np.bool_)
        for each in types:
            self._consumes[each.code] = each.consumes
        options = SignalOptions.for_log(log.timestamp_ms, repeats=True)
        self._signals = Signals(replace(options, recent=PAST))
        self._histories = Histories(options.remembered)
        self._taken: dict[int, set[int]] = {}

    def learn(self) -> FirstBlend:
        signals, n = self._signals, len(self._log)
        self._pass(0, self._cut, judged=self._without_model())
        signals.rehearse(max(0, ALONE_STEPS - signals.blend.version))
        o = signals.options
        signals.replay = Replay(
            o.replayed, o.pool, o.seed
        )  # what follows is learned from events with the model alone
        before = signals.blend.version
        blend, model = self._pass(self._cut, n, judged=None)
        found = [ndcg_at_k(each[len(each) // 2 :], 10) for each in (blend, model)]
        steps = min(STEPS, PASSES * (n - self._cut) // STEP_EVENTS)
        signals.rehearse(max(0, steps - (signals.blend.version - before)))
        return FirstBlend(Shipped.of(signals.blend, o.tick_ms, int(LEARN_FROM * self._cut)), *found)

    def _without_model(self) -> set[int]:
        """Numbers of the batches before the cut that are judged: evenly spread."""
        batches = np.arange(int(LEARN_FROM * self._cut) // BATCH, self._cut // BATCH)
        most = JUDGED // BATCH
        return set(batches[np.linspace(0, len(batches) - 1, min(most, len(batches))).astype(int)].tolist())

    def _pass(self, start: int, end: int, judged: set[int] | None) -> tuple[I64, I64]:
        """Events start..end - 1; judged: numbers of the batches that are, without the model; None = all, with it.

        Ranks of the judged events' items: by the blend, by the model alone.
        """
        log, signals = self._log, self._signals
        blend, model = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, (first, last) in enumerate(pairwise([*range(start, end, BATCH), end])):
            user, item, when = log.user[first:last], log.item[first:last], log.timestamp_ms[first:last]
            clock = np.full(last - first, log.timestamp_ms[max(first - 1, 0)])
            past = self._histories.before(user, when, item, clock)
            excluded = self._take(first, last)
            if judged is None or number in judged:
                extra = {"gru": self._model(first, last, excluded)} if judged is None else None
                found = signals.judge(past, item, excluded, extra)
                blend.append(found.blend)
                model.append(found.singles[:, SINGLES.index(Signal.GRU)])
            signals.absorb(past, item, self._weight[first:last], when)
            self._histories.add(user, item, when)
        return np.concatenate(blend), np.concatenate(model)

    def _take(self, first: int, last: int) -> I64:
        """Pairs (M, 2) of (event of the batch, item that its user had consumed); the batch's own are remembered."""
        log, pairs = self._log, []
        users, items = log.user[first:last].tolist(), log.item[first:last].tolist()
        for at, (user, item, consumed) in enumerate(
            zip(users, items, self._consumes[log.type[first:last]].tolist(), strict=True)
        ):
            mine = self._taken.setdefault(user, set())
            pairs += [(at, other) for other in mine]
            if consumed:
                mine.add(item)
        return np.array(pairs, np.int64).reshape(-1, 2)

    def _model(self, first: int, last: int, excluded: I64) -> Extra:
        scores = self._query[first - self._cut : last - self._cut] @ self._vectors.T + self._bias
        open_to = scores.copy()
        open_to[excluded[:, 0], excluded[:, 1]] = -np.inf
        k = min(MODEL_ITEMS, scores.shape[1])
        best = np.argpartition(-open_to, k - 1, axis=1)[:, :k]
        best = np.where(np.take_along_axis(open_to, best, 1) > -np.inf, best, NONE)
        return Extra(best, lambda at, items: scores[at[:, None], np.maximum(items, 0)])
