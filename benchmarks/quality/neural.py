"""The same recurrent model as services usually run it: frozen at the split, or brought up to date every night.

What streaming must beat: the weights and settings are those of the stream's own model, only the user states are old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.baselines import Rows, Scores
from benchmarks.quality.log import Log
from model_export.evaluating import TorchStepper
from model_export.training import Trained
from streamer.core.features import gap_feature, value_feature

F32 = NDArray[np.float32]

LAST_EVENTS = 200
"""Of a user that a state is replayed from."""
AT_A_TIME = 256
DAY_MS = 86_400_000
Retrain = Callable[[int], Trained]
"""Events of the log, from its beginning, to train on → the model."""


class Gru:
    """A trained model over the log's catalogue, with the states of users as of some event."""

    def __init__(self, log: Log, contents: F32) -> None:
        self._log, self._contents = log, contents
        order = np.argsort(log.user, kind="stable")
        self._events = order
        self._first = np.searchsorted(log.user[order], np.arange(log.users + 1))
        self._states: dict[int, F32] = {}
        self._scores: dict[int, Scores] = {}
        self._popular: Scores = np.zeros(len(log.items), np.float32)

    def adopt(self, trained: Trained) -> None:
        """Score with this model from now on; the states of the other are dropped."""
        stepper = TorchStepper(trained.model)
        vectors, bias = stepper.tower(self._contents)
        rows = np.array([int(item_id) for item_id in trained.data.item_ids])
        vectors[rows], bias[rows] = stepper.items()
        self._model, self._vectors, self._bias = trained.model, vectors, bias
        recurrent = getattr(trained.model.config, "encoder", "gru") == "gru"
        self._window = LAST_EVENTS if recurrent else int(trained.model.config.window)
        self._states.clear()

    def refresh(self, until: int, users: Rows) -> None:
        """Have the states of `users`, and what is popular, as of the first `until` events of the log."""
        log = self._log
        self._scores.clear()
        self._known = np.zeros(len(log.items), bool)
        self._known[log.item[:until]] = True
        if log.has_text:
            self._known[:] = True
        counts = np.bincount(log.item[:until], minlength=len(log.items))
        self._popular = (counts / max(counts.max(), 1)).astype(np.float32)
        for first in range(0, len(users), AT_A_TIME):
            self._replay(users[first : first + AT_A_TIME], until)

    def _replay(self, users: Rows, until: int) -> None:
        import torch

        log = self._log
        events = [self._events[self._first[user] : self._first[user + 1]] for user in users.tolist()]
        events = [rows[: np.searchsorted(rows, until)][-self._window :] for rows in events]
        lengths = np.array([len(rows) for rows in events], np.int64)
        if not lengths.any():
            return
        shape = len(users), int(lengths.max())
        item = np.zeros((*shape, self._vectors.shape[1]), np.float32)
        kind = np.zeros(shape, np.int64)
        gap, value = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, (rows, n) in enumerate(zip(events, lengths.tolist(), strict=True)):
            item[row, :n], kind[row, :n] = self._vectors[log.item[rows]], log.type[rows]
            time_ms = log.time_ms[rows]
            gap[row, :n] = gap_feature(time_ms, np.concatenate([[-1], time_ms[:-1]])[:n])
            value[row, :n] = value_feature(np.nan_to_num(log.value[rows]), log.type[rows], log.types)
        with torch.inference_mode():
            states = self._model.replay(*map(torch.from_numpy, (item, kind, gap, value, lengths)))
            queries = self._model.query(states).numpy()
        for user, query, n in zip(users.tolist(), queries, lengths.tolist(), strict=True):
            if n:
                self._states[user] = query

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        found = self._scores.get(user)
        if found is None:
            query = self._states.get(user)
            if query is None:
                return self._popular
            raw = self._vectors @ query + self._bias
            found = np.where(self._known, raw - raw.min() + np.float32(1), np.float32(0))
            self._scores[user] = found
        return found


class StaticGru:
    """States, weights and what is popular stay as they were at the split."""

    def __init__(self, gru: Gru, trained: Trained, log: Log, cut: int) -> None:
        self._gru = gru
        gru.adopt(trained)
        gru.refresh(cut, np.unique(log.user[:cut]))

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        return self._gru.scores(user, history)

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        pass


class NightlyGru:
    """Every midnight (UTC) the states of the day's users are refreshed; the weights at as many nights as the budget allows."""

    def __init__(
        self, gru: Gru, trained: Trained, log: Log, cut: int, retrain: Retrain, retrainings: int
    ) -> None:
        self._gru, self._log, self._retrain = gru, log, retrain
        gru.adopt(trained)
        gru.refresh(cut, np.unique(log.user[:cut]))
        self._done = self._fresh = cut
        self._night = int(log.time_ms[cut]) // DAY_MS
        share = np.linspace(0, 1, retrainings + 2)[1:-1]
        self._due = (cut + share * (len(log) - cut)).astype(np.int64).tolist()
        self.retrained = 0

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        self._turn()
        return self._gru.scores(user, history)

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        self._turn()
        self._done += 1

    def _turn(self) -> None:
        """Is the event that comes now the first of another day?"""
        night = int(self._log.time_ms[self._done]) // DAY_MS
        if night == self._night:
            return
        self._night = night
        users = self._log.user[self._fresh : self._done]
        if self._due and self._done >= self._due[0]:
            self._due = [due for due in self._due if due > self._done]
            self._gru.adopt(self._retrain(self._done))
            self.retrained += 1
            users = self._log.user[: self._done]
        self._gru.refresh(self._done, np.unique(users))
        self._fresh = self._done
