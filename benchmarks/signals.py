"""`python -m benchmarks.signals --events FILE --user COL --item COL --time COL [--items FILE --item-text COLS]`: the
collaborative signals alone, prequentially.

No model and no Kafka: `core.signals` over the log in time order, ties shuffled with the seed. The first 80 % are absorbed, the
blend learns on them (and `--steps` in all, rehearsing); each later event is judged before anything of its batch of 64 is
absorbed, then learned from. With texts there is one more signal, what the user's last items are like, which workers do not have:
it brings little (docs/quality.md). The baselines are those of `benchmarks.quality`, asked at the moment of each event. Costs are
processor time, after the kernels were compiled; `ranking_N_users` is one call for N users, a median.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, Result, show
from benchmarks.quality.baselines import counting
from benchmarks.quality.judging import rank_of
from benchmarks.quality.log import Log, Source, load
from benchmarks.quality.metrics import gains, paired_bootstrap
from benchmarks.quality.training import contents
from streamer.core.signals import SINGLES, Contexts, Extra, Histories, SignalOptions, Signals
from streamer.core.signals.history import NONE
from streamer.core.warm_up import warm_up

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

TRAINING_SHARE, LEARN_FROM, BATCH, K = 0.8, 0.2, 64, 10
"""Shares of the log: before the cut; after which the blend begins to learn."""
LAST_TEXTS, TEXT_DISCOUNT, TEXT_ITEMS = 10, 0.8, 50
"""So many last items' texts count, each so much of the next newer one's; and so many items like them are candidates."""
TEXTS_S = 600.0
"""Processor time that may go into reading texts."""
CALLS, ROUNDS = (1, 8, 64, 512), 15
"""Users of a call whose cost is measured, and how often."""


@dataclass
class Taken:
    """What each user took: what its lists must leave out where pairs never repeat."""

    mask: bool
    items: dict[int, list[int]] = field(default_factory=dict)

    def before(self, user: Rows, item: Rows) -> Rows:
        """Pairs (M, 2) of (event of the batch, item taken before it); the batch's own events are added."""
        pairs = []
        for at, (each, taken) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
            mine = self.items.setdefault(each, [])
            pairs += [(at, other) for other in mine]
            mine.append(taken)
        return np.array(pairs if self.mask else [], np.int64).reshape(-1, 2)

    def of(self, user: Rows) -> Rows:
        """Pairs (M, 2) of (place in user (n,), item taken)."""
        pairs = [(at, item) for at, each in enumerate(user.tolist()) for item in self.items[each]]
        return np.array(pairs if self.mask else [], np.int64).reshape(-1, 2)


class Texts:
    """How like an item's text is to those of the user's last items, the newest of which counts most.

    vectors (N, D): of the items' texts. What they have in common is taken out first: any two sentences have that.
    """

    def __init__(self, vectors: F32) -> None:
        centred = vectors - vectors.mean(axis=0)
        self._vectors = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)

    def like(self, past: Contexts, excluded: Rows) -> Extra:
        """For contexts (n,); excluded (M, 2): pairs of (context, item) that are no candidates."""
        last = past.item[:, :LAST_TEXTS]
        weight = np.where(last != NONE, TEXT_DISCOUNT ** np.arange(last.shape[1]), 0.0)
        asked = (self._vectors[np.maximum(last, 0)] * weight[:, :, None]).sum(axis=1)
        scores = (asked @ self._vectors.T).astype(np.float32)
        free = scores.copy()
        free[excluded[:, 0], excluded[:, 1]] = -np.inf
        best = np.argsort(-free, axis=1, kind="stable")[:, :TEXT_ITEMS]
        best[(weight == 0).all(axis=1)] = NONE
        return Extra(best, lambda at, items: scores[at[:, None], np.maximum(items, 0)])


@dataclass
class Judged:
    blend: list[Rows] = field(default_factory=list)
    singles: list[Rows] = field(default_factory=list)
    ranking_s: float = 0.0
    judging_s: float = 0.0
    absorbing_s: float = 0.0
    calls_s: dict[int, float] = field(default_factory=dict)
    """Of one call for so many users"""


def stream(log: Log, cut: int, steps: int, budget: int, texts: Texts | None) -> tuple[Judged, Signals]:
    repeats = log.take(slice(0, cut)).repeats()
    options = SignalOptions.for_log(log.time_ms[:cut], repeats=repeats, edge_budget=budget)
    signals, histories, taken = Signals(options), Histories(options.remembered), Taken(not repeats)
    judged, n = Judged(), len(log.item)
    bounds = [*range(0, cut, BATCH), *range(cut, n, BATCH), n]
    for first, last in pairwise(bounds):
        user, item, when = log.user[first:last], log.item[first:last], log.time_ms[first:last]
        past = histories.before(user, when, item, np.full(last - first, log.time_ms[max(first - 1, 0)]))
        excluded = taken.before(user, item)
        if first == cut:
            signals.rehearse(max(0, steps - signals.blend.version))
        if first >= LEARN_FROM * n:
            extra = None if texts is None else {"text": texts.like(past, excluded)}
            if first >= cut:
                _judge(signals, past, item, excluded, extra, judged)
            else:
                signals.learn(past, item, excluded, extra)
        started = time.process_time()
        signals.absorb(past, item, np.ones(last - first), when)
        judged.absorbing_s += time.process_time() - started
        histories.add(user, item, when)
    _measure_calls(signals, histories, taken, log, judged)
    return judged, signals


def _measure_calls(signals: Signals, histories: Histories, taken: Taken, log: Log, judged: Judged) -> None:
    """Lists for the users of the last events."""
    user, now_ms = log.user[-max(CALLS) :], np.full(max(CALLS), log.time_ms[-1])
    for users in CALLS:
        past = histories.of(user[-users:], now_ms[: len(user[-users:])])
        excluded = taken.of(user[-users:])
        seconds = []
        for _ in range(ROUNDS):
            started = time.process_time()
            signals.rank(past, K, excluded)
            seconds.append(time.process_time() - started)
        judged.calls_s[users] = float(np.median(seconds))


def _judge(
    signals: Signals,
    past: Contexts,
    item: Rows,
    excluded: Rows,
    extra: dict[str, Extra] | None,
    judged: Judged,
) -> None:
    started = time.process_time()
    signals.rank(past, K, excluded, extra)
    ranked = time.process_time()
    found = signals.judge(past, item, excluded, extra)
    judged.ranking_s += ranked - started
    judged.judging_s += time.process_time() - ranked
    judged.blend.append(found.blend)
    judged.singles.append(found.singles)


def baselines(log: Log, cut: int) -> dict[str, Rows]:
    """(events after the cut,) ranks by each baseline."""
    mask = not log.take(slice(0, cut)).repeats()
    named, histories = counting(log.user[:cut], log.item[:cut], log.users, len(log.items))
    ranks: dict[str, list[int]] = {name: [] for name in named}
    for user, item in zip(log.user[cut:].tolist(), log.item[cut:].tolist(), strict=True):
        history = histories.of(user)
        for name, each in named.items():
            ranks[name].append(rank_of(each.scores(user, history), item, history if mask else []))
        new = histories.add(user, item)
        for each in named.values():
            each.absorb(user, item, history, new)
    return {name: np.array(each, np.int64) for name, each in ranks.items()}


def measure(log: Log, steps: int, budget: int, texts: Texts | None = None) -> dict[str, Figure]:
    warm_up()
    cut = log.split(TRAINING_SHARE)
    judged, signals = stream(log, cut, steps, budget, texts)
    blend, singles = np.concatenate(judged.blend), np.concatenate(judged.singles)
    others = baselines(log, cut)
    values = {name: float(gains(ranks).mean()) for name, ranks in others.items()}
    best = max(values, key=lambda name: values[name])
    ours = float(gains(blend).mean())
    _, low, high = paired_bootstrap(blend, others[best], log.user[cut:])
    figures = {"ndcg_at_10_blend": Figure.of([ours], "share")}
    figures |= {f"ndcg_at_10_{name}": Figure.of([value], "share") for name, value in values.items()}
    figures |= {
        f"ndcg_at_10_alone_{signal.name.lower()}": Figure.of([float(gains(singles[:, at]).mean())], "share")
        for at, signal in enumerate(SINGLES)
    }
    figures["blend_over_best_baseline"] = Figure.of([ours / max(values[best], 1e-9)], "ratio", 1.10)
    figures["blend_minus_best_baseline_low"] = Figure.of([low], "share", 0.0)
    figures["blend_minus_best_baseline_high"] = Figure.of([high], "share")
    figures["ranking"] = Figure.of([judged.ranking_s / len(blend) * 1e6], "µs/user", 60.0)
    figures["judging"] = Figure.of([judged.judging_s / len(blend) * 1e6], "µs/event")
    figures["absorbing"] = Figure.of([judged.absorbing_s / len(log) * 1e6], "µs/event", 10.0)
    figures |= {
        f"ranking_{users}_users": Figure.of([seconds * 1e6], "µs")
        for users, seconds in judged.calls_s.items()
    }
    figures["edges"] = Figure.of([len(signals.edges)], "edges")
    figures["safeguard_falls"] = Figure.of([signals.safeguard.falls], "times")
    known = np.zeros(len(log.items), np.bool_)
    known[log.item[:cut]] = True
    cold = ~known[log.item[cut:]]
    if cold.any():
        figures["ndcg_at_10_blend_cold_items"] = Figure.of([float(gains(blend[cold]).mean())], "share")
        figures["judged_events_cold_items"] = Figure.of([int(cold.sum())], "events")
    figures["judged_events"] = Figure.of([len(blend)], "events")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signals", description=__doc__)
    parser.add_argument("--events", type=Path, required=True, metavar="FILE")
    for name in ("user", "item", "time"):
        parser.add_argument(f"--{name}", required=True, metavar="COL")
    parser.add_argument("--items", type=Path, metavar="FILE", help="where their texts are")
    parser.add_argument("--item-text", default="", metavar="COLS", help="of that file")
    parser.add_argument("--seed", type=int, default=7, metavar="N")
    parser.add_argument("--steps", type=int, default=5_000, metavar="N", help="of the blend before the cut")
    parser.add_argument("--edges", type=int, default=2_000_000, metavar="N", help="budget of neighbour edges")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="only the first N events, 0 = all")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    columns = tuple(filter(None, options.item_text.split(",")))
    log = load(
        Source(
            options.events, options.user, options.item, options.time, items=options.items, item_text=columns
        ),
        options.seed,
    )
    if options.first:
        log = log.take(slice(0, options.first))
    texts = Texts(contents(log, TEXTS_S)[0]) if options.items else None
    result = Result.here("signals", measure(log, options.steps, options.edges, texts))
    show([result])
    if options.json:
        result.write(options.json)


if __name__ == "__main__":
    main()
