"""Weights of event types, learned: how much an event of each type says about what its user takes next.

A user's last events vote for the items that go with theirs; a type's weight is how loud its events vote. A conditional logit
(McFadden 1974) over the true next item and sampled others finds the weights that explain the last part of the log best:

    score(item) = sum over recent events e of  weight[type(e)] · decay^age(e) · cosine(item of e, item)  +  b · log popularity

with cosines of co-consumption (Deshpande & Karypis 2004) from the first part. The worker uses the weights for interests, the
trainer for its targets; both read them from the same table of event types.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_export.interactions import NONE, Interactions
from streamer.core.event_types import EventType, EventTypes
from streamer.errors import DataError

I64 = NDArray[np.int64]
_COSINE_EVENTS = 200
"""Last events of a user whose items go together: all pairs of a longer history would fill the memory."""


@dataclass(frozen=True)
class WeightOptions:
    """How the weights are learned. Every figure but `seed` has little influence."""

    last: int = 20
    """Recent events that vote."""
    decay: float = 0.9
    negatives: int = 200
    cases: int = 6000
    """Next items that are explained, at most; the last fifth of them judges."""
    steps: int = 200
    least: int = 30
    """Events of a type in the cases; with fewer it keeps its weight."""
    seed: int = 7


@dataclass(frozen=True)
class LearnedWeights:
    """The table with its new weights, and how well next items are explained (nats, on cases that were not learned from)."""

    types: EventTypes
    loss_set: float
    loss_equal: float
    loss_learned: float


def learn_weights(
    data: Interactions, types: EventTypes, goal: frozenset[str], options: WeightOptions | None = None
) -> LearnedWeights:
    """Weights from a log in time order, the largest 1; types that hardly occur keep theirs.

    `goal`: names of the types whose items are to be explained, say purchases. Raises DataError when there are too few.
    """
    options = options or WeightOptions()
    unknown = sorted(goal - types.by_name.keys())
    if unknown:
        raise DataError(f"{unknown[0]!r} is no event type: known are {', '.join(types.by_name)}")
    rng = np.random.default_rng(options.seed)
    past, rest = data.split(0.7, options.seed)
    cases = None if rest is None else _cases(past, rest, types, goal, options, rng)
    if rest is None or cases is None:
        raise DataError(
            f"the log has too few users with earlier events before a {' or '.join(sorted(goal))}: weights cannot be learned"
        )
    features, popularity, present = cases
    cut = len(features) * 4 // 5
    learned = _fit(features[:cut], popularity[:cut], present, options)
    set_ = torch.tensor([types.by_code[c].weight if c in types.by_code else 0.0 for c in range(32)])
    judged = features[cut:], popularity[cut:]

    def loss(weights: Tensor) -> float:
        """With the scale and the popularity that suit these weights."""
        return _loss_of(weights, features[:cut], popularity[:cut], *judged, options.steps)

    found = [_weighted(each, learned, present) for each in types]
    return LearnedWeights(EventTypes(found), loss(set_), loss((set_ > 0).to(torch.float32)), loss(learned))


def _weighted(each: EventType, learned: Tensor, present: NDArray[np.bool_]) -> EventType:
    return replace(each, weight=round(float(learned[each.code]), 3)) if present[each.code] else each


def _cases(
    past: Interactions,
    rest: Interactions,
    types: EventTypes,
    goal: frozenset[str],
    options: WeightOptions,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, NDArray[np.bool_]] | None:
    """Votes (n, 1 + negatives, 32) per type, log popularity (n, 1 + negatives), and which types voted (32,)."""
    popularity = past.popularity
    keys, cosines = _cosines(past)
    wanted = np.isin(rest.type, [types.by_name[name].code for name in goal]) & (rest.item != NONE)
    wanted &= popularity[rest.item] > 0
    rows = np.flatnonzero(wanted)
    rows = np.sort(rng.choice(rows, min(len(rows), options.cases), replace=False))
    recent = _recent(past, rest, rows, options.last)
    kept = [(row, events) for row, events in zip(rows.tolist(), recent, strict=True) if len(events[0])]
    if len(kept) < 50:
        return None
    n = len(past.items)
    share = popularity.astype(np.float64) ** 0.75
    others = rng.choice(n, (len(kept), options.negatives), p=share / share.sum())
    features = np.zeros((len(kept), 1 + options.negatives, 32), np.float32)
    candidates = np.concatenate([rest.item[[row for row, _ in kept]][:, None], others], axis=1)
    present = np.zeros(32, np.int64)
    for place, (_, (items, codes)) in enumerate(kept):
        wanted_keys = items[:, None] * n + candidates[place][None]
        found = np.searchsorted(keys, wanted_keys).clip(max=len(keys) - 1)
        votes = np.where(keys[found] == wanted_keys, cosines[found], 0.0)
        votes *= (options.decay ** np.arange(len(items)))[:, None]
        np.add.at(features[place].T, codes, votes)
        present += np.bincount(codes, minlength=32) > 0
    return (
        torch.from_numpy(features),
        torch.from_numpy(np.log1p(popularity[candidates]).astype(np.float32)),
        present >= options.least,
    )


def _cosines(past: Interactions) -> tuple[I64, NDArray[np.float32]]:
    """Pairs of items that share users, as sorted keys item · N + other, and the cosines of their users."""
    n = len(past.items)
    rows = np.flatnonzero(past.item != NONE)[::-1]
    order = rows[np.argsort(past.user[rows], kind="stable")]  # each user's events, newest first
    first = np.searchsorted(past.user[order], past.user[order])
    rows = order[np.arange(len(order)) - first < _COSINE_EVENTS]
    pairs = np.unique(past.user[rows] * n + past.item[rows])
    user, item = np.divmod(pairs, n)
    length = np.sqrt(np.bincount(item, minlength=n))
    taken = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([user, item])),
        torch.from_numpy((1 / length[item]).astype(np.float32)),
        (len(past.users), n),
        check_invariants=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")  # it is used inside torch
        shared = torch.sparse.mm(taken.t(), taken).coalesce()
    rows, columns = shared.indices().numpy()
    other = rows != columns
    keys = rows[other] * n + columns[other]
    order = np.argsort(keys)
    return keys[order], shared.values().numpy()[other][order]


def _recent(past: Interactions, rest: Interactions, rows: I64, last: int) -> list[tuple[I64, I64]]:
    """(items, type codes) of the up to `last` events with an item before each of `rows` of `rest`, newest first."""
    user = np.concatenate([past.user, rest.user])
    item = np.concatenate([past.item, rest.item])
    code = np.concatenate([past.type, rest.type]).astype(np.int64)
    time_ms = np.concatenate([past.timestamp_ms, rest.timestamp_ms])
    order = np.argsort(user, kind="stable")  # within a user still in time order
    starts = np.searchsorted(user[order], np.arange(user.max() + 2))
    found = []
    for row in (rows + len(past)).tolist():
        own = order[starts[user[row]] : starts[user[row] + 1]]
        before = own[(own < row) & (item[own] != NONE) & (item[own] != item[row])]
        before = before[time_ms[before] < time_ms[row]][-last:][::-1]
        found.append((item[before], code[before]))
    return found


def _fit(features: Tensor, popularity: Tensor, present: NDArray[np.bool_], options: WeightOptions) -> Tensor:
    """Weights (32,), the largest 1, none below 0.01."""
    torch.manual_seed(options.seed)
    raw = nn.Parameter(torch.zeros(32))
    slope = nn.Parameter(torch.tensor(0.3))
    optimiser = torch.optim.Adam([raw, slope], lr=0.1)
    active = torch.from_numpy(present)
    for _ in range(options.steps):
        weights = functional.softplus(raw) * 10 * active
        loss = _loss(features @ weights + slope * popularity)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    weights = (functional.softplus(raw) * active).detach()
    return (weights / weights.max().clamp(min=1e-9)).clamp(min=0.01)


def _loss_of(
    weights: Tensor,
    features: Tensor,
    popularity: Tensor,
    judged: Tensor,
    judged_popularity: Tensor,
    steps: int,
) -> float:
    """Loss on the judged cases, with a scale and a popularity slope fitted to the others."""
    votes = features @ weights
    scale, slope = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(0.3))
    optimiser = torch.optim.Adam([scale, slope], lr=0.1)
    for _ in range(steps):
        loss = _loss(votes * scale + slope * popularity)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.inference_mode():
        return float(_loss(judged @ weights * scale + slope * judged_popularity))


def _loss(scores: Tensor) -> Tensor:
    """Mean of -log softmax at the first column, the true item."""
    return -functional.log_softmax(scores, dim=1)[:, 0].mean()


def as_toml(types: EventTypes) -> str:
    """The table as a settings file has it: fields that are at their defaults are left out."""
    standard = EventType("standard", 1, 1.0)
    tables = []
    for each in types:
        lines = [
            "[[event_types]]",
            f'name = "{each.name}"',
            f"code = {each.code}",
            f"weight = {each.weight:g}",
        ]
        for name in ("explicit", "uses_value", "uses_text", "consumes", "needs_target"):
            if getattr(each, name) != getattr(standard, name):
                lines.append(f"{name} = true")
        for name in ("value_min", "value_max"):
            if getattr(each, name) != getattr(standard, name):
                lines.append(f"{name} = {getattr(each, name)}")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)
