"""Test, then train: each event of the last fifth is judged by the list from before it, and then absorbed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import training
from benchmarks.quality.baselines import Baseline, Histories, counting
from benchmarks.quality.log import Log, Rows
from benchmarks.quality.training import Budget
from benchmarks.quality.worker import InProcessWorker
from streamer.core.evaluation import Ranks
from streamer.settings import Settings

TRAINING_SHARE = 0.8
MOST_JUDGED = 20_000
"""Of more events a random sample is judged; all are absorbed."""
MOST_LISTS = 2_000
"""Lists on which coverage rests, the same events for every recommender."""
K = 10
NONE = -1
Say = Callable[[str], None]


@dataclass
class Judged:
    """What came of it. n judged events."""

    log: Log
    cut: int
    mask: bool
    rows: Rows
    """(n,) places of the judged events in the log."""
    lists: NDArray[np.int32]
    """(events after the cut, k) the list that the worker published after each event; NONE where it is shorter."""
    served: NDArray[np.int32]
    """(n, k) the list that was there when the event came."""
    ranks: dict[str, Ranks] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(log: Log, *, quick: bool, seed: int, say: Say) -> Judged:
    """Raises DataError when the log cannot be split by time."""
    budget, clock = Budget.of(quick), Clock(say)
    cut = log.split(TRAINING_SHARE)
    mask = not log.take(slice(0, cut)).repeats()
    log = log.masked(mask)
    past = log.take(slice(0, cut))
    judged = Judged(
        log=log,
        cut=cut,
        mask=mask,
        rows=_sample(len(log), cut, MOST_JUDGED // 4 if quick else MOST_JUDGED, seed),
        lists=np.full((len(log) - cut, K), NONE, np.int32),
        served=np.zeros((0, K), np.int32),
    )
    with tempfile.TemporaryDirectory() as folder:
        content, notes = training.contents(log, budget.encoding_s)
        judged.notes += notes
        clock.lap(judged, "encoding")
        trained, config, notes = training.fit(past, content, budget.training_s, seed)
        judged.notes += notes
        clock.lap(judged, "training")
        model = training.export(trained, config, Path(folder), ())
        clock.lap(judged, "export")
        worker = InProcessWorker(model.artefact, log, content, Settings(), mask=mask, k=K)
        _stream(worker, judged)
        clock.lap(judged, "stream")
        judged.coverage["stream"] = _coverage(judged.served[_few(len(judged.rows))], log)
    baselines, histories = counting(past.user, past.item, log.users, len(log.items))
    _judge(baselines, histories, judged)
    clock.lap(judged, "baselines")
    return judged


class Clock:
    """Says and keeps what took how long."""

    def __init__(self, say: Say) -> None:
        self._say, self._last = say, time.perf_counter()

    def lap(self, judged: Judged, what: str) -> None:
        now = time.perf_counter()
        judged.seconds[what] = now - self._last
        self._say(f"{what}: {now - self._last:.1f} s")
        self._last = now


def _sample(n: int, cut: int, most: int, seed: int) -> Rows:
    after = np.arange(cut, n)
    if len(after) <= most:
        return after
    return np.sort(np.random.default_rng(seed).choice(after, most, replace=False))


def _few(n: int) -> Rows:
    """Places of the lists that coverage is measured on."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_LISTS)).astype(np.int64))


def _stream(worker: InProcessWorker, judged: Judged) -> None:
    """Absorb the training part, then batch by batch: judge by what is published, absorb, publish."""
    log, cut = judged.log, judged.cut
    worker.list_items(np.arange(len(log.items)) if log.has_text else log.item[:cut])
    published = worker.warm(cut)
    wanted = np.zeros(len(log), bool)
    wanted[judged.rows] = True
    served: list[list[int]] = []
    for first, last in worker.batches(cut, len(log)):
        users = log.user[first:last].tolist()
        stranger: list[int] | None = None
        for at, user in enumerate(users, first):
            if wanted[at]:
                found = published.get(user)
                if found is None:
                    found = stranger = worker.list_of_stranger() if stranger is None else stranger
                served.append(found)
        lists = worker.absorb(first, last)
        published |= lists
        for at, user in enumerate(users, first):
            found = lists.get(user, [])
            judged.lists[at - cut, : len(found)] = found
        if not log.has_text:
            worker.list_items(log.item[first:last])
    judged.served = _padded(served)
    judged.ranks["stream"] = ranks_in(judged.served, log.item[judged.rows])
    if worker.rejected:
        judged.notes.append(f"{worker.rejected:,} events were rejected by the worker's decoder")


def _padded(lists: list[list[int]]) -> NDArray[np.int32]:
    padded = np.full((len(lists), K), NONE, np.int32)
    for row, found in enumerate(lists):
        padded[row, : len(found)] = found
    return padded


def ranks_in(lists: NDArray[np.int32], item: Rows) -> Ranks:
    """(n,) 1-based place of each item in its list (n, k), 0 where it is not there."""
    hit = lists == item[:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0).astype(np.int64)


def _judge(baselines: dict[str, Baseline], histories: Histories, judged: Judged) -> None:
    """Every baseline on the same events, asked at the moment of the event."""
    log, mask = judged.log, judged.mask
    places = {row: place for place, row in enumerate(judged.rows.tolist())}
    few = set(_few(len(places)).tolist())
    ranks = {name: np.zeros(len(places), np.int64) for name in baselines}
    shown = {name: np.zeros(len(log.items), bool) for name in baselines}
    events = zip(log.user[judged.cut :].tolist(), log.item[judged.cut :].tolist(), strict=True)
    for row, (user, item) in enumerate(events, judged.cut):
        history = histories.of(user)
        if (place := places.get(row)) is not None:
            for name, baseline in baselines.items():
                scores = baseline.scores(user, history)
                ranks[name][place] = rank_of(scores, item, history if mask else [])
                if place in few:
                    shown[name][top(scores, history if mask else [])] = True
        new = histories.add(user, item)
        for baseline in baselines.values():
            baseline.absorb(user, item, history, new)
    judged.ranks |= ranks
    judged.coverage |= {name: float(each.sum()) / _known(log) for name, each in shown.items()}


def rank_of(scores: NDArray[np.float32], item: int, masked: list[int]) -> int:
    """Place of `item` among scores (N,) without the masked ones: ties go to the lower row; 0 where it has no score, or is masked."""
    own = scores[item]
    if own <= 0 or item in masked:
        return 0
    rank = 1 + int(np.count_nonzero(scores > own)) + int(np.count_nonzero(scores[:item] == own))
    if masked:
        theirs, rows = scores[masked], np.array(masked)
        rank -= int(np.count_nonzero((theirs > own) | ((theirs == own) & (rows < item))))
    return rank


def top(scores: NDArray[np.float32], masked: list[int]) -> Rows:
    """Rows of the best ten."""
    if masked:
        scores = scores.copy()
        scores[masked] = 0
    k = min(K, len(scores))
    best = np.argpartition(-scores, k - 1)[:k]
    return best[scores[best] > 0]


def _known(log: Log) -> int:
    return len(np.unique(log.item))


def _coverage(lists: NDArray[np.int32], log: Log) -> float:
    return len(np.unique(lists[lists != NONE])) / _known(log)
