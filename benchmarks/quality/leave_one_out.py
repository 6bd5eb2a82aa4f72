"""Leave one out, full ranking: a user's last event is the test, the one before it is for validation, the rest trains.

Comparable with the literature, and no evidence for streaming: the models see events of other users that lie after the test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import peers, training
from benchmarks.quality.baselines import Rows, counting
from benchmarks.quality.judging import rank_of
from benchmarks.quality.log import Log
from benchmarks.quality.neural import Gru
from benchmarks.quality.peers import Ranked
from streamer.errors import DataError

FEWEST_EVENTS = 3
MOST_USERS = 20_000
RECBOLE_EVENTS = 300_000
"""RecBole trains one example per event: a larger log takes it hours on a processor."""
RECBOLE_NAMES = {
    model: f"recbole_{name}"
    for model, name in zip(peers.MODELS, ("pop", "item_knn", "gru4rec", "sasrec"), strict=True)
}
Say = Callable[[str], None]
ScoresOf = Callable[[int, list[int]], NDArray[np.float32]]


@dataclass
class Held:
    """Ranks of the test items by recommender and seed."""

    users: int
    ranks: dict[str, list[Ranked]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    traces: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Of the first seed: seconds and validation NDCG@10 after each epoch."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Events by user, each in order."""

    log: Log
    train: Log
    """Without each user's last two, in time order."""
    before: Log
    """Without each user's last, in time order."""
    test: Rows
    """(users,) the last item of each."""
    histories: list[list[int]]
    """What each user took before, distinct, oldest first."""

    @classmethod
    def of(cls, log: Log) -> Split:
        """Raises DataError where nobody has three events."""
        counts = np.bincount(log.user, minlength=log.users)
        kept = np.flatnonzero(counts >= FEWEST_EVENTS)
        if not len(kept):
            raise DataError(
                "no user has three events: leave-one-out needs one to train on, one to validate, one to test"
            )
        row = np.full(log.users, -1)
        row[kept] = np.arange(len(kept))
        log = log.of_users(row)
        order = np.argsort(log.user, kind="stable")
        edges = np.append(np.flatnonzero(np.diff(log.user[order], prepend=-1)), len(order))
        last, second = order[edges[1:] - 1], order[edges[1:] - 2]
        everything = np.ones(len(log), bool)
        before, train = everything.copy(), everything.copy()
        before[last] = train[last] = train[second] = False
        histories = [
            list(dict.fromkeys(log.item[order[first : end - 1]].tolist()[::-1]))[::-1]
            for first, end in pairwise(edges.tolist())
        ]
        return cls(
            log, log.take(np.flatnonzero(train)), log.take(np.flatnonzero(before)), log.item[last], histories
        )


def run(
    log: Log, *, seeds: int, seed: int, budget_s: float, recbole: Sequence[str], quick: bool, say: Say
) -> Held:
    """Raises DataError where the log has no user with three events."""
    split = Split.of(log.masked(not log.repeats()))
    users = split.log.users
    judged = np.arange(users)
    held = Held(users)
    if users > MOST_USERS:
        judged = np.sort(np.random.default_rng(seed).choice(users, MOST_USERS, replace=False))
        held.notes.append(f"{MOST_USERS:,} of {users:,} users are judged")
    python = _recbole(split, held) if recbole else None
    content, notes = training.contents(split.log, training.Budget.of(quick, len(log)).encoding_s)
    held.notes += notes
    plain, _ = counting(split.before.user, split.before.item, users, len(log.items))
    for name in ("pop", "item_knn"):
        _score(held, name, plain[name].scores, split, judged)
    for each in range(seed, seed + seeds):
        for encoder in training.ENCODERS:
            _headwater(encoder, split, content, judged, held, budget_s, each, say)
        _als(split, judged, held, each)
        if python is not None:
            for model in recbole:
                if each == seed or model not in ("Pop", "ItemKNN"):  # nothing in these depends on a seed
                    _peer(python, model, split, judged, held, budget_s, each)
    return held


def _recbole(split: Split, held: Held) -> Path | None:
    if len(split.log) > RECBOLE_EVENTS:
        held.notes.append(f"RecBole is left out: {len(split.log):,} events are more than {RECBOLE_EVENTS:,}")
        return None
    try:
        return peers.environment()
    except DataError as error:
        held.notes.append(f"RecBole is left out: {error}")
        return None


def _headwater(
    encoder: str,
    split: Split,
    content: NDArray[np.float32],
    judged: Rows,
    held: Held,
    budget_s: float,
    seed: int,
    say: Say,
) -> None:
    name, started = f"headwater_{encoder}", time.process_time()
    trained, _, notes = training.fit(split.train, content, budget_s, seed, encoder)
    seconds = time.process_time() - started
    say(f"{name}, seed {seed}: {seconds:.0f} s, {trained.epochs} epochs")
    held.notes += [note for note in notes if note not in held.notes]
    gru = Gru(split.before, content)
    gru.adopt(trained)
    gru.refresh(len(split.before), judged)
    _score(held, name, gru.scores, split, judged)
    held.seconds.setdefault(name, []).append(seconds)


def _als(split: Split, judged: Rows, held: Held, seed: int) -> None:
    started = time.process_time()
    try:
        scores = peers.als_scores(
            split.before.user, split.before.item, split.log.users, len(split.log.items), seed
        )
    except DataError as error:
        held.notes.append(f"ALS is left out: {error}")
        return
    held.seconds.setdefault("als", []).append(time.process_time() - started)
    lowest = float(scores.min())
    _score(held, "als", lambda user, history: scores[user] - lowest + 1, split, judged)


def _peer(
    python: Path, model: str, split: Split, judged: Rows, held: Held, budget_s: float, seed: int
) -> None:

    order = np.argsort(split.log.user, kind="stable")
    name = RECBOLE_NAMES[model]
    try:
        (raw, filtered), how = peers.recbole(
            python, model, split.log.user[order], split.log.item[order], seed, budget_s
        )
    except DataError as error:
        held.notes.append(f"{name} is left out: {error}")
        return
    held.ranks.setdefault(name, []).append((raw[judged], filtered[judged]))
    held.seconds.setdefault(name, []).append(how["seconds"])
    held.traces.setdefault(name, how["trace"])
    if how["stopped"] == "budget":
        held.notes.append(
            f"{name}, seed {seed}: stopped by the budget of {budget_s:.0f} s, not by its validation"
        )


def _score(held: Held, name: str, scores_of: ScoresOf, split: Split, judged: Rows) -> None:
    raw, filtered = zip(*_ranks(scores_of, split, judged), strict=True)
    held.ranks.setdefault(name, []).append((np.array(raw, np.int64), np.array(filtered, np.int64)))


def _ranks(scores_of: ScoresOf, split: Split, judged: Rows) -> Iterator[tuple[int, int]]:
    for user in judged.tolist():
        history, item = split.histories[user], int(split.test[user])
        scores = scores_of(user, history)
        yield rank_of(scores, item, []), rank_of(scores, item, history)
