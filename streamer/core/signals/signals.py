"""Counts, pool, features, blend and safeguard as one thing; how it is used: the package's docstring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.blend import Blend
from streamer.core.signals.edges import Edges
from streamer.core.signals.features import FEATURES, SIGNAL_OF, ItemFeatures, Signal, features
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.item_counts import ItemCounts
from streamer.core.signals.lists import SINGLES, Extra, Judged, Ranked, rank_of, top_places
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.pool import SOON_DISCOUNT, Pool, Pooling
from streamer.core.signals.replay import STEP_EVENTS, Replay
from streamer.core.signals.safeguard import Safeguard

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

_BLOCK_SLOTS = 1 << 18
_BLOCK_USERS = 64
"""Users of a block at most, and (user, item) pairs: its working memory stays in the processor's cache."""

_SHARE_OF = np.array([np.flatnonzero(np.array(SIGNAL_OF) == signal)[1] for signal in SINGLES])
"""Feature that ranks by a signal alone: its share of the maximum."""
_EVER = int(np.flatnonzero(np.array(SIGNAL_OF) == Signal.POPULAR_EVER)[1])
_OF_SIGNAL = np.array([[signal == each for each in SIGNAL_OF] for signal in Signal], np.float32)
_TIE = np.float32(1e-4)


@dataclass(frozen=True, slots=True)
class _Block:
    at: Rows
    past: Contexts
    pool: Pool
    x: F32
    context: F32


class Signals:
    """One instance per stream; not for use by several threads at a time."""

    def __init__(self, options: SignalOptions) -> None:
        self.options = options
        self.counts = ItemCounts((*options.half_lives_ms, np.inf))
        self.again = np.zeros(0, np.float64)
        """(N,) how often an item was taken by somebody who remembered it"""
        self.edges = Edges(options.edge_half_life_ms, options.edge_budget, options.neighbours)
        self.blend = Blend(options.hidden, options.learning_rate, options.seed)
        self.safeguard = Safeguard(len(SINGLES))
        self.replay = Replay(options.replayed, options.pool, options.seed)
        self._owed = 0.0
        self._pooling = Pooling(options)

    # ------------------------------------------------------------------ counting
    def absorb(
        self,
        past: Contexts,
        item: Rows,
        weight: NDArray[np.float64],
        time_ms: Rows,
        *,
        session: Rows | None = None,
    ) -> None:
        """Count events (n,), each with what its user did before; weights (n,) of their types.

        session (n,): how many of the last items belong to the event's session; by default told by the times.
        """
        if not len(item):
            return
        o = self.options
        top = max(int(item.max()), int(past.item.max(initial=NONE)))
        self.counts.grow(top + 1)
        self.again = np.append(self.again, np.zeros(len(self.counts) - len(self.again)))
        self.counts.add(item, weight, time_ms)
        again = (past.item[:, : o.remembered] == item[:, None]).any(axis=1)
        np.add.at(self.again, item[again], 1.0)
        scale = self.edges.scale(time_ms) * weight
        self.edges.add_items(item, scale)
        recent = past.item[:, : o.recent]
        event, lag = np.nonzero(recent != NONE)
        source, target, amount = recent[event, lag], item[event], scale[event]
        other = source != target  # an item may follow itself, but is no neighbour of itself
        both = amount * other
        of_session = past.session(o.session_gap_ms) if session is None else session
        together = both * (lag < of_session[event])
        none = np.zeros(len(event))
        forth = [amount * (lag == 0), amount * SOON_DISCOUNT**lag, both, together]
        back = [none, none, both, together]
        self.edges.add(
            np.concatenate([source, target]),
            np.concatenate([target, source]),
            [np.concatenate(each) for each in zip(forth, back, strict=True)],
        )

    # ------------------------------------------------------------------ ranking
    def rank(
        self,
        past: Contexts,
        k: int,
        excluded: Rows | None = None,
        extra: dict[str, Extra] | None = None,
        barred: NDArray[np.bool_] | None = None,
    ) -> Ranked:
        """A list of at most k items for each context (n,); barred (N,): items that nobody may be recommended."""
        n = len(past)
        ranked = Ranked(
            np.full((n, k), NONE, np.int64),
            np.full((n, k), -np.inf, np.float32),
            np.zeros((n, k), np.uint8),
            np.full((n, k), NONE, np.int64),
            self.blend.version,
        )
        for block in self._blocks(past, excluded, extra, barred):
            score = self._serving(block)
            best = top_places(score, block.pool.item, k)
            wide = best.shape[1]
            chosen = np.take_along_axis(score, best, 1)
            there = chosen > -np.inf
            ranked.item[block.at, :wide] = np.where(there, np.take_along_axis(block.pool.item, best, 1), NONE)
            ranked.score[block.at, :wide] = chosen
            carrier = self._carrier(block, best)
            ranked.signal[block.at, :wide] = carrier
            again = there & (carrier == Signal.REPEAT)
            itself = np.take_along_axis(block.pool.item, best, 1)
            ranked.because[block.at, :wide] = np.where(again, itself, block.pool.supporters(best))
        return ranked

    def judge(
        self,
        past: Contexts,
        item: Rows,
        excluded: Rows | None = None,
        extra: dict[str, Extra] | None = None,
        learn: NDArray[np.bool_] | None = None,
        barred: NDArray[np.bool_] | None = None,
    ) -> Judged:
        """How the taken items (n,) would have been ranked; a step of the blend on the events of `learn` (n,), default all.

        Events that are judged feed the safeguard. Call it before `absorb`.
        """
        blend, singles = np.zeros(len(item), np.int64), np.zeros((len(item), len(SINGLES)), np.int64)
        losses = []
        for block in self._blocks(past, excluded, extra, barred):
            hit = block.pool.item == item[block.at, None]
            found = np.flatnonzero(hit.any(axis=1))
            if not len(found):
                continue
            target, at = hit[found].argmax(axis=1), block.at[found]
            there = block.pool.item != NONE
            score = np.where(there, self.blend.scores(block.x, block.context), -np.inf)
            blend[at] = rank_of(score[found], target)
            for number, column in enumerate(_SHARE_OF):
                alone = np.where(there, block.x[column] + _TIE * block.x[_EVER], -np.inf)[found]
                singles[at, number] = rank_of(alone, target)
            if learn is not None:
                wanted = learn[at]
                found, target = found[wanted], target[wanted]
            if len(found):
                self.replay.add(block.x[:, found], block.context[:, found], there[found], target)
                self._owed += len(found) * self.options.steps_per_event
        while self._owed >= 1 and self.replay.seen >= STEP_EVENTS:
            losses.append(self.replay.step(self.blend))
            self._owed -= 1
        self.safeguard.judge(blend, singles)
        return Judged(blend, singles, float(np.mean(losses)) if losses else float("nan"))

    def learn(
        self, past: Contexts, item: Rows, excluded: Rows | None = None, extra: dict[str, Extra] | None = None
    ) -> Judged:
        return self.judge(past, item, excluded, extra)

    def rehearse(self, steps: int) -> None:
        """Further steps on judged events that are kept, as at the end of an offline training."""
        if self.replay.seen >= STEP_EVENTS:
            for _ in range(steps):
                self.replay.step(self.blend)

    def _blocks(
        self,
        past: Contexts,
        excluded: Rows | None,
        extra: dict[str, Extra] | None,
        barred: NDArray[np.bool_] | None,
    ) -> Iterator[_Block]:
        if not len(past):
            return
        items = max(len(self.counts), int(past.item.max(initial=NONE)) + 1, 1)
        for each in (extra or {}).values():
            items = max(items, int(each.candidates.max(initial=NONE)) + 1)
        if excluded is None:
            excluded = np.zeros((0, 2), np.int64)
        items = max(items, int(excluded[:, 1].max(initial=NONE)) + 1)
        if barred is not None:
            items = max(items, len(barred))
        self.counts.grow(items)
        again = np.append(self.again, np.zeros(items - len(self.again)))
        of_items = ItemFeatures.of(self.counts, again, self.options, int(past.now_ms.max()))
        if barred is not None:
            of_items.popular[: len(barred)][barred] = -np.inf
        order = np.argsort(excluded[:, 0], kind="stable")
        excluded = excluded[order]
        size = max(1, min(_BLOCK_USERS, _BLOCK_SLOTS // items))
        for start in range(0, len(past), size):
            at = np.arange(start, min(start + size, len(past)))
            first, last = np.searchsorted(excluded[:, 0], (start, start + size))
            theirs = excluded[first:last] - np.array([start, 0])
            yield self._block(at, past.take(at), theirs, extra or {}, of_items, items)

    def _block(
        self,
        at: Rows,
        past: Contexts,
        excluded: Rows,
        extra: dict[str, Extra],
        of_items: ItemFeatures,
        items: int,
    ) -> _Block:
        more = [each.candidates[at] for each in extra.values()]
        wanted = np.concatenate(more, axis=1) if more else np.zeros((len(at), 0), np.int64)
        pool = self._pooling.gather(
            past, self.edges, of_items.shared, of_items.popular, items, excluded, wanted
        )
        said = [extra[name].score(at, pool.item) if name in extra else None for name in ("gru", "text")]
        x, context = features(past, pool, of_items, self.edges, self.options, (said[0], said[1]))
        return _Block(at, past, pool, x, context)

    def _serving(self, block: _Block) -> F32:
        alone = self.safeguard.serving
        score = (
            self.blend.scores(block.x, block.context)
            if alone is None
            else block.x[_SHARE_OF[alone]] + _TIE * block.x[_EVER]
        )
        return np.where(block.pool.item != NONE, score, np.float32(-np.inf))

    def _carrier(self, block: _Block, best: Rows) -> NDArray[np.uint8]:
        """The signal whose features lift each of the best (B, k) most above the average candidate."""
        _, users, wide = block.x.shape
        chosen = (best + np.arange(users)[:, None] * wide).ravel()
        x = block.x.reshape(FEATURES, -1)[:, chosen].reshape(FEATURES, *best.shape)
        lift = self.blend.slopes(x, block.context)
        lift *= x - block.x.mean(axis=2)[:, :, None]
        by_signal: F32 = _OF_SIGNAL @ lift.reshape(FEATURES, -1)
        strongest: NDArray[np.uint8] = by_signal.argmax(axis=0).astype(np.uint8)
        return strongest.reshape(best.shape)

    # ------------------------------------------------------------------ keeping
    def state(self) -> dict[str, Any]:
        return {
            "counts": self.counts.state(),
            "again": self.again.copy(),
            "edges": self.edges.state(),
            "blend": self.blend.state(),
            "safeguard": self.safeguard.state(),
        }

    @classmethod
    def from_state(cls, options: SignalOptions, state: dict[str, Any]) -> Signals:
        signals = cls(options)
        signals.counts.restore(state["counts"])
        signals.again = state["again"].copy()
        signals.edges.restore(state["edges"])
        signals.blend.restore(state["blend"])
        signals.safeguard.restore(state["safeguard"])
        return signals
