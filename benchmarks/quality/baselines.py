"""The recommenders that the stream is compared with. Each scores the whole catalogue, and learns from every event at once.

A score of 0 or less says that there is no reason to recommend the item. None is tuned to any log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.quality.counts import SparseCounts

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

PAIRS = 50_000_000
"""Co-occurrences of the training part at most; above, only the last items of long histories count."""
LONGEST_HISTORY = 500
RECENT, FADING = 10, 0.8
"""Items of a user that the kNN looks from, and what each counts beside the one after it."""
SHRINKAGE = 10.0
"""Added to the denominator of a cosine: a few common users prove little."""
KNN_POP = 0.3
"""Weight of popularity beside the kNN, each as a share of its maximum."""
TIE = 1e-6
HALF_LIVES = (10, 300, 10_000)
"""Of decayed popularity, in events of the whole log."""


class Histories:
    """What each user took so far: distinct items in order of their last time, and the last one taken."""

    def __init__(self, users: int) -> None:
        self._taken: list[dict[int, None]] = [{} for _ in range(users)]

    def add(self, user: int, item: int) -> bool:
        """Whether it is new to the user."""
        taken = self._taken[user]
        new = taken.pop(item, 0) is not None
        taken[item] = None
        return new

    def of(self, user: int) -> list[int]:
        """Oldest first."""
        return list(self._taken[user])


class Baseline(Protocol):
    def scores(self, user: int, history: Sequence[int]) -> Scores:
        """(N,) for this user now; not to be changed, nor kept over the next call. history: distinct items, oldest first."""
        ...

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        """The user takes the item. history: as before the event; new: the item is not in it."""
        ...


class Popularity:
    """Counts, halved every `half_life` events (None: never)."""

    def __init__(self, items: int, half_life: float | None = None) -> None:
        self.counts: NDArray[np.float64] = np.zeros(items, np.float64)
        self._growth = 1.0 if half_life is None else 2.0 ** (1 / half_life)
        self._weight = 1.0

    def warm(self, items: Rows) -> None:
        """Count the training part (n,), oldest first."""
        ages = np.arange(len(items) - 1, -1, -1, dtype=np.float64)
        weights = np.power(self._growth, -ages)
        self.counts = np.bincount(items, weights, len(self.counts)).astype(np.float64)

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        found: Scores = (self.counts / self._weight).astype(np.float32)
        return found

    def share(self) -> Scores:
        """(N,) of the most popular item's count."""
        found: Scores = (self.counts / max(self.counts.max(), 1e-300)).astype(np.float32)
        return found

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        self._weight *= self._growth
        if self._weight > 1e100:
            self.counts /= self._weight
            self._weight = 1.0
        self.counts[item] += self._weight


class RepeatLast:
    """What the user took, the latest first; then what is popular."""

    def __init__(self, popularity: Popularity) -> None:
        self._popularity = popularity

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        scores = self._popularity.share()
        scores[list(history)] = np.arange(2, len(history) + 2)
        return scores

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        pass


class Markov:
    """How often an item was the next one after the user's last item; popularity orders the rest."""

    def __init__(self, counts: SparseCounts, popularity: Popularity) -> None:
        self._counts, self._popularity = counts, popularity

    @classmethod
    def warm(cls, user: Rows, item: Rows, items: int, popularity: Popularity) -> Markov:
        order = np.argsort(user, kind="stable")
        same = user[order][1:] == user[order][:-1]
        return cls(SparseCounts.of(item[order][:-1][same], item[order][1:][same], items), popularity)

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        scores = self._popularity.share() * np.float32(0.5)
        if history:
            np.add.at(scores, *self._counts.row(history[-1]))
        return scores

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        if history:
            self._counts.add(history[-1], item)


class ItemKNN:
    """Cosine of binary user vectors over all neighbours (Sarwar et al. 2001, doi:10.1145/371920.372071), exact and learning.

    score(u, j) = Σ 0.8^age n_ij / (√(n_i n_j) + 10) over the user's last ten items i; n_ij users took both, n_i took i.
    Popularity breaks ties and stands in where there is no neighbour.
    """

    def __init__(
        self, counts: SparseCounts, takers: NDArray[np.float64], longest: int, popularity: Popularity
    ) -> None:
        self._counts, self._takers, self._longest, self._popularity = counts, takers, longest, popularity
        self._root = np.sqrt(takers).astype(np.float32)

    @classmethod
    def warm(cls, histories: Sequence[Sequence[int]], items: int, popularity: Popularity) -> ItemKNN:
        longest = LONGEST_HISTORY
        lengths = np.array([len(each) for each in histories], np.int64)
        while longest > 8 and (np.minimum(lengths, longest).astype(np.float64) ** 2).sum() > PAIRS:
            longest //= 2
        cut = [each[-longest:] for each in histories]
        edges = np.cumsum([0, *map(len, cut)])
        columns = np.array([item for each in cut for item in each], np.int64)
        ones = np.ones(len(columns), np.float32)
        taken = sparse.csr_matrix((ones, columns, edges), shape=(len(cut), items))
        counts = (taken.T @ taken).tocsr()
        counts.setdiag(0)
        counts.eliminate_zeros()
        return cls(
            SparseCounts(counts),
            np.bincount(columns, minlength=items).astype(np.float64),
            longest,
            popularity,
        )

    def similar(self, history: Sequence[int]) -> Scores:
        """(N,) summed cosines."""
        scores = np.zeros(len(self._root), np.float32)
        for age, item in enumerate(history[: -RECENT - 1 : -1]):
            columns, counts = self._counts.row(item)
            cosine = counts / (self._root[item] * self._root[columns] + np.float32(SHRINKAGE))
            np.add.at(scores, columns, np.float32(FADING**age) * cosine)
        return scores

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        scores = self._popularity.share() * np.float32(TIE)
        return scores + self.similar(history) if history else scores

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        if new:
            self._takers[item] += 1
            self._root[item] = np.sqrt(self._takers[item])
            if history:
                self._counts.add_both_ways(item, np.array(history[-self._longest :], np.int64))


class KNNPop:
    """The kNN's scores and popularity, each as a share of its maximum."""

    def __init__(self, knn: ItemKNN, popularity: Popularity) -> None:
        self._knn, self._popularity = knn, popularity

    def scores(self, user: int, history: Sequence[int]) -> Scores:
        popular = self._popularity.share()
        similar = self._knn.similar(history)
        return similar / max(float(similar.max()), 1e-30) + np.float32(KNN_POP) * popular

    def absorb(self, user: int, item: int, history: Sequence[int], new: bool) -> None:
        pass  # its parts learn by themselves


def counting(user: Rows, item: Rows, users: int, items: int) -> tuple[dict[str, Baseline], Histories]:
    """All baselines that count, warm with the training part (n,), and its users' histories."""
    histories = Histories(users)
    for each_user, each_item in zip(user.tolist(), item.tolist(), strict=True):
        histories.add(each_user, each_item)
    pop, *decayed = (Popularity(items, half_life) for half_life in (None, *HALF_LIVES))
    for each in (pop, *decayed):
        each.warm(item)
    knn = ItemKNN.warm([histories.of(each) for each in np.unique(user).tolist()], items, pop)
    named = {f"pop_decayed_{half_life}": each for half_life, each in zip(HALF_LIVES, decayed, strict=True)}
    return {
        "pop": pop,
        **named,
        "repeat_last": RepeatLast(pop),
        "markov": Markov.warm(user, item, items, pop),
        "item_knn": knn,
        "knn_pop": KNNPop(knn, pop),
    }, histories
