"""Counts, pool, features, blend and safeguard as one thing; how it is used: the package's docstring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.blend import Blend, units
from streamer.core.signals.blend_kernels import judged, listed
from streamer.core.signals.edges import Edges
from streamer.core.signals.features import FEATURES, SIGNAL_OF, Signal, features
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.item_counts import ItemCounts
from streamer.core.signals.lists import SINGLES, Extra, Judged, Ranked
from streamer.core.signals.options import SignalOptions
from streamer.core.signals.pool import Pool, Pooling
from streamer.core.signals.replay import STEP_EVENTS, Replay
from streamer.core.signals.safeguard import Safeguard

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

BLOCK_USERS = 32
"""Users whose features are made at a time: they stay in the processor's cache."""

_SHARE_OF = np.array([np.flatnonzero(np.array(SIGNAL_OF) == signal)[1] for signal in SINGLES])
"""Feature that ranks by a signal alone: its share of the maximum."""
_EVER = int(np.flatnonzero(np.array(SIGNAL_OF) == Signal.POPULAR_EVER)[1])
_SIGNAL_OF = np.array(SIGNAL_OF, np.int64)


@dataclass(frozen=True, slots=True)
class _Block:
    at: slice
    past: Contexts
    session: Rows
    pool: Pool
    x: F32
    context: F32


class Signals:
    """One instance per stream; not for use by several threads at a time."""

    def __init__(self, options: SignalOptions) -> None:
        self.options = options
        self.counts = ItemCounts((*options.half_lives_ms, np.inf), options.shared)
        self.again = np.zeros(0, np.float64)
        """(N,) how often an item was taken by somebody who remembered it"""
        self.edges = Edges(options.edge_half_life_ms, options.edge_budget, options.neighbours, options.lists)
        self.blend = Blend(options.hidden, options.learning_rate, options.seed)
        self.safeguard = Safeguard(len(SINGLES))
        self.replay = Replay(options.replayed, options.pool, options.seed)
        self._owed = 0.0
        self._pooling = Pooling(options)
        # Kept from block to block: fresh memory of this size costs as much as what is written into it.
        self._x = np.empty((BLOCK_USERS, FEATURES, options.pool), np.float32)
        self._units = np.empty((BLOCK_USERS, options.hidden + 1, options.pool), np.float32)

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
        self._grow(top + 1)
        self.counts.add(item, weight, time_ms)
        again = (past.item[:, : o.remembered] == item[:, None]).any(axis=1)
        np.add.at(self.again, item[again], 1.0)
        of_session = past.session(o.session_gap_ms) if session is None else session
        scale = self.edges.scale(time_ms) * weight
        self.edges.add(past.item[:, : o.recent], item, scale, of_session)

    def set_clocks(self, options: SignalOptions, now_ms: int) -> None:
        """Go on with options of another tick."""
        self.counts.forget_at((*options.half_lives_ms, np.inf), now_ms)
        self.edges.forget_at(options.edge_half_life_ms, now_ms)
        self.options = options

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
        alone = NONE if self.safeguard.serving is None else int(_SHARE_OF[self.safeguard.serving])
        linear, inner, of_context, bias, outer = self.blend.ordered(self.blend.serving)
        for block in self._blocks(past, excluded, extra, barred):
            item, signal = ranked.item[block.at], ranked.signal[block.at]
            listed(
                block.x,
                units(block.x, linear, inner, self._units[: len(block.x)]),
                block.context,
                block.pool.item,
                block.pool.filled,
                linear,
                inner,
                of_context,
                bias,
                outer,
                alone,
                _EVER,
                _SIGNAL_OF,
                item,
                ranked.score[block.at],
                signal,
            )
            because = self._pooling.supporters(block.past, block.session, self.edges, item)
            again = (signal == Signal.REPEAT) & (item != NONE)
            ranked.because[block.at] = np.where(again, item, because)
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
        linear, inner, of_context, bias, outer = self.blend.ordered(self.blend.serving)
        target = np.zeros(len(item), np.int64)
        for block in self._blocks(past, excluded, extra, barred):
            at, pool = block.at, block.pool
            judged(
                block.x,
                units(block.x, linear, inner, self._units[: len(block.x)]),
                block.context,
                pool.item,
                pool.filled,
                item[at],
                of_context,
                bias,
                outer,
                _SHARE_OF,
                _EVER,
                target[at],
                blend[at],
                singles[at],
            )
            found = np.flatnonzero((target[at] != NONE) & (True if learn is None else learn[at]))
            if len(found):
                there = pool.item[found] != NONE
                self.replay.add(block.x[found], block.context[found], there, target[at][found])
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
        """Each block overwrites the one before."""
        if not len(past):
            return
        extra = extra or {}
        past = past.plain()
        if excluded is None:
            excluded = np.zeros((0, 2), np.int64)
        elif (excluded[1:, 0] < excluded[:-1, 0]).any():
            excluded = excluded[np.argsort(excluded[:, 0], kind="stable")]
        whose, which = excluded[:, 0], np.ascontiguousarray(excluded[:, 1])
        bounds = np.searchsorted(whose, np.arange(len(past) + 1))
        more = [each.candidates for each in extra.values()]
        wanted = np.concatenate(more, axis=1) if more else np.zeros((len(past), 0), np.int64)
        named = (int(each.max(initial=NONE)) + 1 for each in (past.item, wanted, which))
        items = max(len(self.counts), *named, 1)
        self._grow(items)
        out = np.zeros(items, np.bool_)
        if barred is not None:
            out[: len(barred)] = barred[:items]
        session = past.session(self.options.session_gap_ms)
        for start in range(0, len(past), BLOCK_USERS):
            at = slice(start, min(start + BLOCK_USERS, len(past)))
            theirs = which, bounds[start : at.stop + 1]
            yield self._block(at, past.take(at), session[at], out, theirs, wanted[at], extra)

    def _block(
        self,
        at: slice,
        past: Contexts,
        session: Rows,
        barred: NDArray[np.bool_],
        excluded: tuple[Rows, Rows],
        wanted: Rows,
        extra: dict[str, Extra],
    ) -> _Block:
        pool = self._pooling.gather(past, session, self.edges, self.counts, barred, excluded, wanted)
        places = np.arange(at.start, at.stop)
        gru, text = (
            extra[name].score(places, pool.item) if name in extra else None for name in ("gru", "text")
        )
        x = self._x[: len(places)]
        context = features(past, session, pool, self.counts, self.again, self.options, gru, text, x)
        return _Block(at, past, session, pool, x, context)

    def _grow(self, items: int) -> None:
        self.counts.grow(items)
        missing = len(self.counts) - len(self.again)
        if missing > 0:
            self.again = np.append(self.again, np.zeros(missing))

    # ------------------------------------------------------------------ keeping
    def state(self) -> dict[str, Any]:
        """All counts: arrays, copied, and numbers, by name."""
        parts = {"counts": self.counts.state(), "edges": self.edges.state()}
        flat = {f"{part}/{name}": each for part, state in parts.items() for name, each in state.items()}
        return {"again": self.again[: len(self.counts)].copy(), **flat}

    @classmethod
    def from_state(cls, options: SignalOptions, state: dict[str, Any]) -> Signals:
        """Counts that go on from a state, whose arrays are taken over. Raises ValueError where it does not fit."""
        signals = cls(options)
        parts: dict[str, dict[str, Any]] = {"counts": {}, "edges": {}}
        try:
            signals.again = state["again"]
            for path, each in state.items():
                part, _, name = path.partition("/")
                if part in parts:
                    parts[part][name] = each
            signals.counts.restore(parts["counts"])
            signals.edges.restore(parts["edges"])
        except KeyError as missing:
            raise ValueError(f"counts lack {missing}") from missing
        return signals
