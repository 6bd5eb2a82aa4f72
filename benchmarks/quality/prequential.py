"""Test, then train: each event of the last fifth is judged by the list from before it, and then absorbed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.collaborate import SESSION_GAP_MS
from benchmarks.quality import training
from benchmarks.quality.baselines import Rows, counting
from benchmarks.quality.judging import NONE, K, judge, ranks_in, some
from benchmarks.quality.log import Log
from benchmarks.quality.neural import Gru, NightlyGru, StaticGru
from benchmarks.quality.sessions import since_last
from benchmarks.quality.training import Budget
from benchmarks.quality.worker import InProcessWorker
from model_export.social import MetUsers
from streamer.core.evaluation import Ranks
from streamer.settings import Settings

TRAINING_SHARE = 0.8
BLOCK = 1_000
"""Of a long log, blocks of so many consecutive events are judged, evenly spread; all events are absorbed."""
BETWEEN = 2_000
"""Events in a batch where none of them is judged."""
STREAM, UNASKED, ASKED = "stream", "stream_unasked", "stream_asked"
"""By the newest list that the worker has published, where a service asks for one when a session starts; where nobody asks, so
that it is as old as the user's last event; by one made at the moment of each event.
"""
OURS = (STREAM, UNASKED, ASKED)
STRANGER_EVERY = 50
"""Events after which a stranger's list is made anew."""
Lists = NDArray[np.int32]
Say = Callable[[str], None]


@dataclass
class Judged:
    """What came of it. n judged events, m events after the cut."""

    log: Log
    cut: int
    mask: bool
    """Whether what a user took is left out of all lists."""
    rows: Rows
    """(n,) places of the judged events in the log."""
    items: int
    """Items that occur in the log."""
    lists: Lists
    """(m, 10) the list that the worker published after each event, items by row, NONE where it is shorter."""
    listed: NDArray[np.bool_]
    """(m,) whether there is one: of a batch's events between the judged blocks only a user's last has."""
    requested_lists: Lists
    """(m, 10) the list that the worker published on request before each event."""
    requested: NDArray[np.bool_]
    """(m,) whether there is one: of the judged events those that start a session have."""
    since_ms: Rows
    """(m,) ms since the user's last event, NEVER_MS where there is none."""
    warm_lists: dict[int, Lists] = field(default_factory=dict)
    """User → the list at the cut."""
    stranger_rows: list[int] = field(default_factory=list)
    stranger_times: list[int] = field(default_factory=list)
    stranger_lists: list[Lists] = field(default_factory=list)
    """What somebody without events got, from which event of the log on, at which time."""
    ranks: dict[str, Ranks] = field(default_factory=dict)
    """Recommender → (n,)"""
    coverage: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(log: Log, *, quick: bool, seed: int, say: Say) -> Judged:
    """Raises DataError when the log cannot be split by time."""
    budget, clock = Budget.of(quick, len(log)), Clock(say)
    cut = log.split(TRAINING_SHARE)
    mask = not log.take(slice(0, cut)).repeats()
    log = log.masked(mask)
    judged = nothing_yet(log, cut, mask, budget.judged)
    past = log.take(slice(0, cut))
    content, notes = training.contents(log, budget.encoding_s)
    judged.notes += notes
    clock.lap(judged, "encoding")
    met = training.meeting(past, seed)
    if met is not None:
        clock.lap(judged, "graph")
        judged.notes.append("the static and the nightly GRU do not know friends")
    trained, config, notes = training.fit(past, content, budget.training_s, seed, met=met)
    judged.notes += notes
    clock.lap(judged, "training")
    with tempfile.TemporaryDirectory() as folder:
        known = None if met is None else MetUsers.of([str(user) for user in range(log.users)], met)
        artefact = training.export(trained, config, log.types, Path(folder), known)
        clock.lap(judged, "export")
        stream(InProcessWorker(artefact, log, content, Settings(), mask=mask, k=K), judged)
    clock.lap(judged, "stream")
    baselines, histories = counting(past.user, past.item, log.users, len(log.items))
    nights = training.Nights.of(log, cut, content, trained, budget, seed)
    nightly = NightlyGru(Gru(log, content), trained, log, cut, nights.train, nights.times)
    static = StaticGru(Gru(log, content), trained, log, cut)
    judge({**baselines, "gru_static": static, "gru_nightly": nightly}, histories, judged)
    judged.notes.append(f"the nightly GRU was retrained {nightly.retrained} time(s), its states every night")
    clock.lap(judged, "baselines")
    return judged


class Clock:
    """Says and keeps what took how long."""

    def __init__(self, say: Say) -> None:
        self._say, self._last = say, time.perf_counter()

    def lap(self, judged: Judged, what: str) -> None:
        now = time.perf_counter()
        judged.seconds[what] = now - self._last
        self._say(f"{what}: {now - self._last:.0f} s")
        self._last = now


def nothing_yet(log: Log, cut: int, mask: bool, most: int) -> Judged:
    rows = sample(cut, len(log), most)
    judged = Judged(
        log=log,
        cut=cut,
        mask=mask,
        rows=rows,
        items=len(np.unique(log.item)),
        lists=np.full((len(log) - cut, K), NONE, np.int32),
        listed=np.zeros(len(log) - cut, np.bool_),
        requested_lists=np.full((len(log) - cut, K), NONE, np.int32),
        requested=np.zeros(len(log) - cut, np.bool_),
        since_ms=since_last(log.user, log.time_ms)[cut:],
    )
    if len(rows) < len(log) - cut:
        judged.notes.append(
            f"{len(rows):,} of the {len(log) - cut:,} events after the cut are judged, in blocks; all are absorbed"
        )
    return judged


def sample(first: int, last: int, most: int) -> Rows:
    """Rows first..last - 1, or evenly spread blocks of them, `most` in all."""
    if last - first <= most:
        return np.arange(first, last)
    block = min(BLOCK, most)
    starts = np.linspace(first, last - block, most // block).astype(np.int64)
    return np.unique((starts[:, None] + np.arange(block)).ravel())


def stream(worker: InProcessWorker, judged: Judged) -> None:
    """Absorb the training part, then batch by batch: ask for lists, judge by what is published, absorb, publish.

    Asked for are lists of users whose session starts with an event that is judged; other requests would change no list that is.
    Beside it, what nobody is served: the list after the last event where another one was asked for since, and lists of all users
    of a batch made before it, with the counts of that moment.
    """
    log, cut = judged.log, judged.cut
    worker.list_items(np.arange(len(log.items)) if log.has_text else log.item[:cut])
    published = {user: _padded(found) for user, found in worker.warm(cut).items()}
    judged.warm_lists = dict(published)
    wanted = np.zeros(len(log), bool)
    wanted[judged.rows] = True
    starts = judged.since_ms > SESSION_GAP_MS
    shown: dict[str, list[Lists]] = {name: [] for name in OURS}
    for first, last in _batches(worker, judged, wanted):
        if not judged.stranger_rows or first >= judged.stranger_rows[-1] + STRANGER_EVERY:
            judged.stranger_rows.append(first)
            judged.stranger_times.append(int(log.time_ms[first]))
            judged.stranger_lists.append(_padded(worker.list_of_stranger()))
        users = log.user[first:last].tolist()
        if wanted[first]:
            requested = _requested(
                worker, judged, first, np.flatnonzero(starts[first - cut : last - cut]) + first
            )
            rest = [user for user in users if user not in requested]
            asked = {user: _padded(found) for user, found in worker.ask(rest).items()} | requested
            for user in users:
                unasked = published.get(user, judged.stranger_lists[-1])
                for name, found in (
                    (STREAM, requested.get(user, unasked)),
                    (UNASKED, unasked),
                    (ASKED, asked[user]),
                ):
                    shown[name].append(found)
        lists = {user: _padded(found) for user, found in worker.absorb(first, last).items()}
        published |= lists
        for row, user in zip(range(last - 1, first - 1, -1), reversed(users), strict=True):
            if (made := lists.pop(user, None)) is not None:
                judged.lists[row - cut], judged.listed[row - cut] = made, True
    for name, lists_of_it in shown.items():
        stacked = np.stack(lists_of_it)
        judged.ranks[name] = ranks_in(stacked, log.item[judged.rows])
        looked_at = stacked[some(len(stacked))]
        judged.coverage[name] = len(np.unique(looked_at[looked_at != NONE])) / judged.items
    if worker.rejected:
        judged.notes.append(f"{worker.rejected:,} events were rejected by the worker's decoder")


def _requested(worker: InProcessWorker, judged: Judged, first: int, rows: Rows) -> dict[int, Lists]:
    """Lists by user, on request before the events `rows` of a batch that begins at `first`; they are noted in `judged`."""
    lists = {user: _padded(found) for user, found in worker.request(first, rows).items()}
    for row in rows.tolist():
        if (made := lists.get(int(judged.log.user[row]))) is not None:
            at = row - judged.cut
            judged.requested_lists[at], judged.requested[at] = made, True
    return lists


def _batches(worker: InProcessWorker, judged: Judged, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Each user once in a batch where events are judged, large batches between."""
    edges = np.flatnonzero(np.diff(wanted[judged.cut :].astype(np.int8))) + judged.cut + 1
    bounds = [judged.cut, *edges.tolist(), len(wanted)]
    for first, last in pairwise(bounds):
        if wanted[first]:
            yield from worker.batches(first, last)
        else:
            yield from ((start, min(start + BETWEEN, last)) for start in range(first, last, BETWEEN))


def _padded(found: list[int]) -> Lists:
    padded = np.full(K, NONE, np.int32)
    padded[: len(found)] = found
    return padded
