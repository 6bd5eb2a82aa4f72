"""What scores right now: one model version bound to one catalogue snapshot, replaced as a whole between batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer import telemetry
from streamer.core import ranking
from streamer.core.columns import EventColumns, ItemFacts
from streamer.core.event_types import EventTypes
from streamer.core.features import gap_feature, value_feature
from streamer.core.hashing import user_hash
from streamer.core.popularity import Popularity
from streamer.core.profile import CategoryTexts, LabelTexts
from streamer.core.ranking import ItemTexts
from streamer.core.runs import Runs
from streamer.core.user_state import UserStates
from streamer.serving.catalogue import CatalogueSnapshot
from streamer.serving.exact import F32, I64
from streamer.serving.model import Model

MET_BEFORE_MS = 1
"""How long before their first event known users are met, in training as here."""
PRIOR_EVENTS = 1.0
"""How many streamed events all of training's popularity together is worth."""


class Timed:
    """Observes the seconds of a `with` block under a graph's name."""

    def __init__(self, graph: str) -> None:
        self._seconds = telemetry.INFERENCE_SECONDS.labels(graph)

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._seconds.observe(time.perf_counter() - self._start)


@dataclass(frozen=True, eq=False)
class Champion:
    """Not changed after it is made, but for `popularity`, which lives on from champion to champion."""

    model: Model
    catalogue: CatalogueSnapshot
    popularity: Popularity
    types: EventTypes

    # ------------------------------------------------------------------ items
    def rows_with_vector(self, hashes: NDArray[np.uint64]) -> I64:
        """Catalogue rows of item hashes (any shape); -1 for 'no item', unknown items and items without a vector."""
        rows = self.catalogue.rows(hashes.ravel()).reshape(hashes.shape)
        return (
            np.where((rows >= 0) & self.catalogue.has_vector[rows], rows, -1)
            if len(self.catalogue.bias)
            else rows
        )

    def item_facts(self, hashes: NDArray[np.uint64]) -> ItemFacts:
        """What `EventColumns` needs to know of items (n,): has it a vector (n,), its categories (n, 6)."""
        if not len(self.catalogue.bias):
            return np.zeros(len(hashes), np.bool_), np.zeros((len(hashes), 6), np.uint32)
        rows = self.catalogue.rows(hashes)
        here = rows >= 0
        known = here & self.catalogue.has_vector[rows]
        if self.model.users is not None:
            known |= (hashes != 0) & ~here & (self.model.users.rows(hashes) >= 0)
        return known, np.where(here[:, None], self.catalogue.categories[rows], np.uint32(0))

    def event_vectors(self, hashes: NDArray[np.uint64]) -> F32:
        """(...) item hashes → (..., D): the item's vector, the model's `unknown` where it has none, zeros for 'no item'."""
        rows = self.rows_with_vector(hashes)
        vectors = np.empty((*hashes.shape, self.model.dim), np.float32)
        vectors[...] = self.model.unknown
        found = rows >= 0
        vectors[found] = self.catalogue.vectors[rows[found]]
        if self.model.users is not None:
            self._put_users(vectors, np.where(found, np.uint64(0), hashes))
        vectors[hashes == 0] = 0.0
        return vectors

    def _put_users(self, vectors: F32, hashes: NDArray[np.uint64]) -> None:
        """Vectors of those of `hashes` (...) who are known users, into `vectors` (..., D); 0 = no one."""
        assert self.model.users is not None
        asked = np.nonzero(hashes)
        rows = self.model.users.rows(hashes[asked])
        known = np.flatnonzero(rows >= 0)
        vectors[tuple(axis[known] for axis in asked)] = self.model.users.of(rows[known])

    # ------------------------------------------------------------------ names, as outputs spell them
    @cached_property
    def item_texts(self) -> ItemTexts:
        return ItemTexts(self.catalogue.ids)

    @cached_property
    def category_texts(self) -> CategoryTexts:
        return CategoryTexts(dict(self.catalogue.labels))

    @cached_property
    def task_texts(self) -> dict[str, LabelTexts]:
        """Per task of the model, in the order of `interests`' columns."""
        return {task: LabelTexts(labels) for task, labels in self.model.heads.items()}

    # ------------------------------------------------------------------ users
    def step_runs(
        self, heads: NDArray[np.void], runs: Runs, item: F32, type_code: I64, gap: F32, value: F32
    ) -> None:
        """Step the users' states of `heads` through their runs: item (n, D), type, gap, value (n,) in the order of `runs`."""
        users = runs.users[runs.by_length()]
        state = heads["gru"][users].astype(np.float32)
        with Timed("gru_steps"):
            for n, at in runs.blocks():
                state[:n] = self.model.steps(state[:n], item[at], type_code[at], gap[at], value[at])
        heads["gru"][users] = state
        heads["model"][users] = self.model.number

    def known(self, states: UserStates, users: NDArray[np.int64]) -> tuple[I64, I64]:
        """Which of `users` (n,) of a batch the model knows by the graph of friends: positions (m,), rows (m,) of its table."""
        table = self.model.users
        if table is None or not len(users):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        names = [user_hash(states.keys[user].decode()) for user in users.tolist()]
        rows = table.rows(np.array(names, np.uint64))
        met = np.flatnonzero(rows >= 0)
        return met, rows[met]

    def meet(self, states: UserStates, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """Let those of `users` (n,), who have no state yet, begin with what friends say of them. Returns who did (m,).

        As in training it is a step of its own, a `follow` of themselves a millisecond before their first event.
        """
        met, rows = self.known(states, users)
        if met.size:
            who, heads = users[met], states.heads
            heads["usable"][who] += 1
            if self.recurrent:
                assert self.model.users is not None
                state, zeros = (
                    np.zeros((len(who), self.model.hidden), np.float32),
                    np.zeros(len(who), np.float32),
                )
                code = np.full(len(who), self.model.users.type_code, np.int64)
                heads["gru"][who] = self.model.step(state, self.model.users.of(rows), code, zeros, zeros)
        return users[met]

    def score(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        with Timed("scorer"):
            return self.catalogue.top_k(state, excluded, k)

    def interests(self, state: F32) -> dict[str, F32]:
        with Timed("heads"):
            return self.model.interests(state)

    @property
    def recurrent(self) -> bool:
        """Whether states are stepped event by event; else each is computed from the whole window."""
        return self.model.manifest.recurrent

    def rebuild_stale(self, states: UserStates) -> None:
        """Recompute from the stored window the state of users whose state this model has not computed.

        The head then holds the version it was rebuilt at, so that an offline recomputation knows where to start. Texts
        are not in the window: a search or review counts there by its item and type only. Whom the model knows is met in
        front of the window, as in `meet`.
        """
        heads = states.heads
        stale = np.flatnonzero((heads["model"] != self.model.number) & (heads["version"] > 0))
        if not stale.size:
            return
        entries, lengths = states.window_entries(stale)
        before = np.concatenate([np.full((len(stale), 1), -1), entries["time"][:, :-1]], axis=1)
        met, rows = self.known(states, stale)
        before[met, 0] = entries["time"][met, 0] - MET_BEFORE_MS
        item = self.event_vectors(entries["item"])
        gap = gap_feature(entries["time"], before)
        value = value_feature(entries["value"].ravel(), entries["type"].ravel(), self.types).reshape(
            gap.shape
        )
        kind = entries["type"].astype(np.int64)
        if met.size:
            assert self.model.users is not None
            item, kind, gap, value = (_shifted(column, met) for column in (item, kind, gap, value))
            item[met, 0], kind[met, 0] = self.model.users.of(rows), self.model.users.type_code
            lengths = lengths.copy()
            lengths[met] += 1
        with Timed("gru_replay"):
            heads["gru"][stale] = self.model.replay(item, kind, gap, value, lengths)
        heads["rebuilt"][stale] = heads["version"][stale]
        heads["model"][stale] = self.model.number

    # ------------------------------------------------------------------ what is popular
    def count(self, events: EventColumns) -> None:
        """Count the items of applied events, with the weights of their types, at their own time."""
        events = events.take(np.flatnonzero(~events.person)) if events.person.any() else events
        if len(events):
            weights = np.zeros(32, np.float32)
            for each in self.types:
                weights[each.code] = each.weight
            self.popularity.add(events.item, weights[events.type], int(events.time.max()))

    @cached_property
    def _prior(self) -> F32:
        """(N,) shares of the training events, small: they order what the stream has not counted yet."""
        prior = np.zeros(len(self.catalogue.bias), np.float32)
        rows = self.catalogue.rows(self.model.item_hashes)
        prior[rows] = PRIOR_EVENTS * self.model.popularity / max(float(self.model.popularity.sum()), 1.0)
        return prior

    @cached_property
    def _recommendable(self) -> I64:
        """Rows, ascending."""
        return np.flatnonzero(np.isfinite(self.catalogue.bias))

    def taken(self, rows: I64, as_of_ms: int) -> F32:
        """Decayed counts of catalogue rows (any shape), those of training included; 0 for row -1."""
        counts = self.popularity.scores(self.catalogue.hashes[rows.ravel()], as_of_ms).reshape(rows.shape)
        return np.where(rows >= 0, counts + self._prior[rows], np.float32(0))

    def popular(self, n: int, excluded: I64, k: int, as_of_ms: NDArray[np.int64]) -> tuple[F32, I64]:
        """Decayed popularity for n users without a usable history: scores (n, k), rows (n, k)."""
        counts = self.popularity.scores(self.catalogue.hashes, int(as_of_ms.max())) + self._prior
        # No user can lose more of the most popular rows than there are exclusions of one user.
        spare = int(np.bincount(excluded[:, 0], minlength=1).max()) if len(excluded) else 0
        rows = _most(counts, self._recommendable, k + spare)
        place = np.minimum(np.searchsorted(rows, excluded[:, 1]), max(len(rows) - 1, 0))
        among = rows[place] == excluded[:, 1] if len(rows) else np.zeros(len(excluded), np.bool_)
        theirs = np.stack([excluded[among, 0], place[among]], axis=1)
        scores, at = ranking.popular(counts[rows], np.ones(len(rows), np.bool_), n, theirs, k)
        return scores, np.where(at >= 0, rows[at], -1) if len(rows) else at


def _shifted(column: NDArray[Any], users: I64) -> NDArray[Any]:
    """(n, T, ...) → (n, T + 1, ...): `users` begin one place later, their first place is zero, as is the others' last."""
    wide = np.zeros((column.shape[0], column.shape[1] + 1, *column.shape[2:]), column.dtype)
    wide[:, :-1] = column
    wide[users, 1:], wide[users, 0] = column[users], 0
    return wide


def _most(counts: F32, rows: I64, n: int) -> I64:
    """The n of `rows` (ascending) that count most, of equal ones the lowest; ascending. Sorting all would cost too much."""
    if len(rows) <= n:
        return rows
    theirs = counts[rows]
    least = np.partition(theirs, len(rows) - n)[len(rows) - n]
    above, equal = rows[theirs > least], rows[theirs == least]
    return np.sort(np.concatenate([above, equal[: n - len(above)]]))
