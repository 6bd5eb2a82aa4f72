"""The counts that all workers share: rows of the whole stream, each counted once, and items by hash.

Clocks are those of the log that the model's weights were learned on: then the first row is enough to blend with. Without such
weights they are set by the first `WARM_ROWS` events, or by the snapshot that a start goes on from.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamer.core.hash_index import HashIndex
from streamer.core.signals.blend import Blend
from streamer.core.signals.history import NONE, Contexts
from streamer.core.signals.lists import SINGLES
from streamer.core.signals.options import HIDDEN, SignalOptions
from streamer.core.signals.replay import Replay
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.safeguard import Safeguard
from streamer.core.signals.signals import Signals
from streamer.core.signals.snapshot import Counts
from streamer.core.signals.weights import Published, Shipped, model_of, restore_learner

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

WARM_ROWS = 1_000
MODELS = 8
"""Models whose newest weights are kept, for a roll-back."""


class ItemNumbers:
    """Item hashes → rows 0..N-1 in the order in which they came."""

    def __init__(self, hashes: Hashes | None = None) -> None:
        """hashes: of the first rows, in their order."""
        self._index = HashIndex(np.zeros(0, np.uint64) if hashes is None else hashes)

    @property
    def hashes(self) -> Hashes:
        """(N,) of each row"""
        return self._index.hashes

    def __len__(self) -> int:
        return len(self.hashes)

    def rows(self, hashes: Hashes) -> Rows:
        """Any shape; NONE for unknown ones and for 0."""
        return self._index.rows(hashes)

    def add(self, hashes: Hashes) -> None:
        """Number those that have no row yet (n,); 0 never has one."""
        new = np.unique(hashes[(self.rows(hashes) == NONE) & (hashes != 0)])
        if len(new):
            self._index.append(new)


class SharedSignals:
    """Fed with the records of every partition; not for use by several threads at a time."""

    def __init__(self, *, edge_budget: int = 2_000_000) -> None:
        self.numbers = ItemNumbers()
        self.signals: Signals | None = None
        self.applied: dict[int, int] = {}
        """By source partition, the highest offset that is counted."""
        self.repeated = 0
        """Rows that came again."""
        self.clock_ms = 0
        """Time of the newest row."""
        self._edge_budget = edge_budget
        self._early: list[SignalRows] = []
        self.model = ""
        """Version of the model that lists are blended with."""
        self.published: Published | None = None
        """The weights that serve."""
        self.unpublished: Published | None = None
        """Those that came with the model, until the learner has published them: lists name them."""
        self._shipped: Shipped | None = None
        self._newest: dict[str, Published] = {}
        """By model version, of the last few."""
        self._learner: tuple[str, bytes] | None = None
        """Another worker's newest, and the version of its model."""

    @property
    def ready(self) -> bool:
        """Whether there is something to blend with: enough counts, and weights that somebody learned.

        Weights of a long log trust counts that a new deployment does not have yet; until then the model alone is better.
        """
        if self.signals is None or self.published is None:
            return False
        return self.signals.counts.events > (0 if self._shipped is None else self._shipped.rows)

    def absorb(self, partition: int, rows: SignalRows) -> int:
        """Count the rows of a source partition that are not counted yet; how many those were."""
        fresh = np.flatnonzero(rows.offset > self.applied.get(partition, -1))
        self.repeated += len(rows) - len(fresh)
        if not len(fresh):
            return 0
        rows = rows.take(fresh)
        self.applied[partition] = int(rows.offset.max())
        self.clock_ms = max(self.clock_ms, int(rows.time_ms.max()))
        if self.signals is None:
            self._early.append(rows)
            if self._shipped is not None or sum(map(len, self._early)) >= WARM_ROWS:
                self._begin()
        else:
            self._count(self.signals, rows)
        return len(fresh)

    def _begin(self) -> None:
        rows, self._early = SignalRows.join(self._early), []
        tick_ms = (
            SignalOptions.for_log(rows.time_ms, repeats=True).tick_ms
            if self._shipped is None
            else self._shipped.tick_ms
        )
        self.signals = Signals(self._options(tick_ms))
        self._go_on()
        self._count(self.signals, rows)

    def _options(self, tick_ms: float) -> SignalOptions:
        # Whether a repeat is allowed is said with each list, by what is excluded.
        options = SignalOptions.of_tick(tick_ms, repeats=True, edge_budget=self._edge_budget)
        return replace(options, recent=PAST)

    def _count(self, signals: Signals, rows: SignalRows) -> None:
        self.numbers.add(rows.item)
        past = self.numbers.rows(rows.past)  # a past item is older than the row, and was counted or will be
        context = Contexts(past, np.zeros_like(past), rows.time_ms, (past != NONE).sum(axis=1))
        signals.absorb(
            context,
            self.numbers.rows(rows.item),
            rows.weight.astype(np.float64),
            rows.time_ms,
            session=rows.session,
        )

    # ------------------------------------------------------------------ keeping
    def state(self) -> Counts | None:
        """All that is counted, copied; None before there is anything but the first rows, which a start counts again."""
        if self.signals is None:
            return None
        state = self.signals.state()
        arrays = {name: each for name, each in state.items() if isinstance(each, np.ndarray)}
        numbers = {name: each for name, each in state.items() if name not in arrays}
        clocks = {"tick_ms": self.signals.options.tick_ms, "clock_ms": self.clock_ms}
        return Counts({"items": self.numbers.hashes, **arrays}, numbers | clocks, dict(self.applied))

    def restore(self, counts: Counts) -> None:
        """Go on from a state and its clocks, before anything is counted; its arrays are taken over.

        Raises ValueError when it does not fit, and changes nothing then.
        """
        numbers = counts.numbers
        try:
            tick_ms, clock_ms, items = numbers["tick_ms"], numbers["clock_ms"], counts.arrays["items"]
        except KeyError as missing:
            raise ValueError(f"counts lack {missing}") from missing
        signals = Signals.from_state(self._options(float(tick_ms or 0)), {**counts.arrays, **numbers})
        self.signals, self.numbers, self.applied = signals, ItemNumbers(items), dict(counts.applied)
        self.clock_ms = int(clock_ms or 0)
        self._go_on()

    # ------------------------------------------------------------------ weights
    def meet(self, model: str, shipped: Shipped | None) -> None:
        """Blend with another model from now on, with the newest weights that were learned beside it.

        Without any, with those that it brings along; without these, with the ones that serve: better than none. Learning goes
        on from there, with the clocks that came with the model: its weights were learned by them.
        """
        self.model, self._shipped = model, shipped
        published, self.unpublished = self._newest.get(model), None
        if published is None and shipped is not None:
            blend = Blend(HIDDEN, 0.0, 0)
            restore_learner(blend, shipped.learner)
            published = self.unpublished = Published.of(blend, None, model)
        if published is not None:
            self.published = published
        if self.signals is not None:
            if shipped is not None and shipped.tick_ms != self.signals.options.tick_ms:
                self.signals.set_clocks(self._options(shipped.tick_ms), self.clock_ms)
            self._go_on()
        elif shipped is not None and self._early:
            self._begin()

    def serve(self, published: Published) -> None:
        """Make lists with these weights, if they belong to the model that serves; they are kept for when it does."""
        self._newest.pop(published.model, None)
        self._newest[published.model] = published
        while len(self._newest) > MODELS:
            del self._newest[next(iter(self._newest))]
        if published.model == self.model:
            self.published = published
            self._serve()

    def go_on_from(self, learner: bytes) -> None:
        """Learn from where another worker stopped. Raises ValueError when the bytes do not fit."""
        restore_learner(Blend(HIDDEN, 0.0, 0), learner)
        self._learner = model_of(learner), learner
        if self.signals is not None and self._learner[0] == self.model:
            restore_learner(self.signals.blend, learner)

    def _go_on(self) -> None:
        """Learn and serve with what there is for this model."""
        assert self.signals is not None
        if self._learner is not None and self._learner[0] == self.model:
            self._restart(self._learner[1])
        elif self._shipped is not None:
            self._restart(self._shipped.learner)
        self._serve()

    def _restart(self, learner: bytes) -> None:
        """Learn from here, without what is kept of another model's judged events."""
        assert self.signals is not None
        o = self.signals.options
        self.signals.replay = Replay(o.replayed, o.pool, o.seed)
        self.signals.safeguard = Safeguard(len(SINGLES))
        restore_learner(self.signals.blend, learner)

    def _serve(self) -> None:
        if self.signals is not None and self.published is not None:
            self.signals.blend.serve(self.published.weights)
            self.signals.safeguard.serving = self.published.alone
