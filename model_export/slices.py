"""For whom is a model good, and what does it show? Quality by groups of users and items, and how exposure is spread.

Sources: gap between groups of users: Ekstrand et al. 2018, "All the cool kids", PMLR 81; popularity lift: Abdollahpouri et al.
2019, arXiv:1907.13286; Gini index of exposure: Fleder & Hosanagar 2009, doi:10.1287/mnsc.1080.0974.

Axes: n judged events, k places of a list, N items.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.interactions import NONE, Interactions
from streamer.core.evaluation import Ranks, hit_at_k, ndcg_at_k
from streamer.errors import DataError

I64 = NDArray[np.int64]
Attributes = Mapping[str, Mapping[str, str]]
"""Name → user id → value."""
ACTIVITY_EDGES = (1, 6, 21, 101)
"""Events of a user before the judged one: none, 1 to 5, 6 to 20, 21 to 100, more."""
HEAD_SHARE, MIDDLE_SHARE = 0.5, 0.9
"""Most popular items that hold half of the events are the head, those up to nine tenths the middle, the others the tail."""
GROUPS = 8
"""Values of an attribute that are told apart; numbers are cut into quarters, rarer words become `other`."""
FEWEST_EVENTS = 50
"""A group with fewer says nothing about a gap."""


@dataclass(frozen=True)
class Slice:
    """Quality on some of the judged events."""

    by: str
    group: str
    events: int
    hit_rate_at_10: float
    ndcg_at_10: float


@dataclass(frozen=True)
class Judgement:
    """What a model is worth on a stretch of a log."""

    report: dict[str, dict[str, float]]
    """PrequentialJudge's: metric → recommender → value."""
    events: int
    slices: list[Slice]
    exposure: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        found = {"slices": [asdict(each) for each in self.slices], "ndcg_at_10_gaps": gaps(self.slices)}
        return {**self.report, **found, "exposure": self.exposure, "events": self.events}


def slices(
    past: Interactions,
    rest: Interactions,
    ranks: Ranks,
    attributes: Attributes | None = None,
) -> list[Slice]:
    """`ranks` (n,) of the events of `rest` that have an item, in its order; `past` is what was trained on.

    By activity (events of the user in both, before the judged one), popularity of the item in training, cold users and
    items (not in training), and each of `attributes`: name → user id → value.
    """
    judged = rest.item != NONE
    user, item = rest.user[judged], rest.item[judged]
    names, ids = np.array(rest.users, object)[user], np.array(rest.item_ids, object)[item]
    trained_events = dict(
        zip(past.users, np.bincount(past.user, minlength=len(past.users)).tolist(), strict=True)
    )
    before = np.array([trained_events.get(name, 0) for name in names.tolist()]) + _earlier(rest.user)[judged]
    popularity = dict(zip(past.item_ids, past.popularity.tolist(), strict=True))
    of_item = np.array([popularity.get(each, 0.0) for each in ids.tolist()])
    groups = {
        "activity": _activity(before),
        "popularity": _popularity(of_item, past.popularity),
        "user": np.where([trained_events.get(n, 0) > 0 for n in names.tolist()], "warm", "cold"),
        "item": np.where(of_item > 0, "warm", "cold"),
    }
    for name, values in (attributes or {}).items():
        groups[name] = attribute_groups([values.get(each, "") for each in names.tolist()])
    return [each for by, labels in groups.items() for each in _by_group(by, labels, ranks)]


def gaps(found: Sequence[Slice]) -> dict[str, float]:
    """Slicing → best minus worst NDCG@10 of its groups that have enough events."""
    result = {}
    for by in dict.fromkeys(each.by for each in found):
        values = [each.ndcg_at_10 for each in found if each.by == by and each.events >= FEWEST_EVENTS]
        if len(values) > 1:
            result[by] = max(values) - min(values)
    return result


def exposure(lists: I64, popularity: NDArray[np.float32], taken: I64) -> dict[str, float]:
    """What the lists (n, k) show of N items: `popularity` (N,) in training, `taken` (m,) rows of the items users took.

    catalogue_coverage: share of the items that were on any list. exposure_gini: 0 where all were shown alike, 1 where one
    took all places. popularity_lift: how much more popular than what users take is what they are shown; 0 is as popular.
    """
    shown = np.bincount(lists[lists != NONE], minlength=len(popularity)).astype(np.float64)
    places = shown.sum()
    if not places:
        return {"catalogue_coverage": 0.0, "exposure_gini": 0.0, "popularity_lift": 0.0}
    share = popularity / max(float(popularity.sum()), 1.0)
    of_lists = float((shown * share).sum() / places)
    of_users = float(share[taken].mean()) if len(taken) else 0.0
    return {
        "catalogue_coverage": float((shown > 0).mean()),
        "exposure_gini": gini(shown),
        "popularity_lift": of_lists / of_users - 1 if of_users > 0 else 0.0,
    }


def gini(amounts: NDArray[np.float64]) -> float:
    """Σ (2i - N - 1) x_i / (N Σ x) over amounts in rising order: [1, 1] → 0, [0, 1] → 0.5, one of N takes all → 1 - 1/N."""
    ordered = np.sort(amounts)
    n = len(ordered)
    total = ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0


def attribute_groups(values: Sequence[str]) -> NDArray[np.object_]:
    """Labels (n,): quarters where all known values are numbers, else the commonest words; `unknown` for none."""
    known = [value for value in values if value]
    try:
        numbers = np.array([float(value) for value in known])
    except ValueError:
        numbers = np.zeros(0)
    if len(numbers) and len(np.unique(numbers)) > GROUPS:
        edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
        spans = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]

        def label(value: str) -> str:
            return spans[int(np.clip(np.searchsorted(edges, float(value), "right") - 1, 0, len(spans) - 1))]

    else:
        words, counts = np.unique(known, return_counts=True)
        common = set(words[np.argsort(-counts, kind="stable")][:GROUPS].tolist())

        def label(value: str) -> str:
            return value if value in common else "other"

    return np.array([label(value) if value else "unknown" for value in values], object)


def user_attributes(path: Path) -> dict[str, dict[str, str]]:
    """attribute → user id → value, from a table with a user_id column: CSV, or tab-separated (RecBole's `.user`).

    Columns that tell nearly every user apart (a postal code) are left out. Raises DataError.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header = file.readline().rstrip("\r\n")
            separator = "\t" if "\t" in header else ","
            names = [name.split(":")[0] for name in header.split(separator)]
            rows = list(csv.reader(file, delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read user attributes from {path}: {error}") from error
    if "user_id" not in names:
        raise DataError(f"{path} has the columns {', '.join(names)}: one must be called user_id")
    key = names.index("user_id")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(f"{path}, line {number}: {len(row)} values for {len(names)} columns")
    found = {name: {row[key]: row[place] for row in rows} for place, name in enumerate(names) if place != key}
    return {name: of for name, of in found.items() if len(set(of.values())) <= max(100, len(of) // 2)}


def _by_group(by: str, labels: NDArray[np.object_], ranks: Ranks) -> Iterator[Slice]:
    order = dict.fromkeys(_ORDERS.get(by, sorted(set(labels.tolist()))))
    for group in order:
        of = ranks[labels == group]
        if len(of):
            yield Slice(by, group, len(of), hit_at_k(of, 10), ndcg_at_k(of, 10))


_ACTIVITY = ("none", "1 to 5", "6 to 20", "21 to 100", "more than 100")
_POPULARITY = ("new", "tail", "middle", "head")
_ORDERS: dict[str, Sequence[str]] = {
    "activity": _ACTIVITY,
    "popularity": _POPULARITY,
    "user": ("cold", "warm"),
    "item": ("cold", "warm"),
}


def _activity(before: I64) -> NDArray[np.object_]:
    return np.array(_ACTIVITY, object)[np.searchsorted(ACTIVITY_EDGES, before, "right")]


def _popularity(of_item: NDArray[np.float64], popularity: NDArray[np.float32]) -> NDArray[np.object_]:
    ordered = np.sort(popularity)[::-1].astype(np.float64)
    shares = np.cumsum(ordered) / max(ordered.sum(), 1.0)
    head, middle = (
        ordered[min(int(np.searchsorted(shares, s)), len(ordered) - 1)] for s in (HEAD_SHARE, MIDDLE_SHARE)
    )
    place = np.where(of_item <= 0, 0, np.where(of_item >= head, 3, np.where(of_item >= middle, 2, 1)))
    return np.array(_POPULARITY, object)[place]


def _earlier(user: I64) -> I64:
    """(n,) how many events of the same user come before each event."""
    order = np.argsort(user, kind="stable")
    ordered = user[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.arange(len(user)) - np.repeat(starts, np.diff([*starts, len(user)]))
    earlier = np.empty(len(user), np.int64)
    earlier[order] = counts
    return earlier
