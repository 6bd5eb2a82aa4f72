"""Histories cut into chunks and padded into batches.

Every chunk starts from a zero state, as a user does who is new to the stream or whose state is rebuilt from the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.interactions import NONE, History
from streamer.core.event_types import EventTypes

NEVER = np.iinfo(np.int32).max

Outlook = Callable[[History, int, int], Mapping[str, NDArray[np.float32]]]
"""(history, first, last) → further targets of its events first..last-1 by name, (last - first, …) each."""


@dataclass(frozen=True)
class Batch:
    """B chunks of up to T events, each with its next event as the target."""

    item: Tensor
    """(B, T) i64 row of the item, NONE without one."""
    type: Tensor
    """(B, T) i64"""
    gap: Tensor
    """(B, T) f32"""
    value: Tensor
    """(B, T) f32"""
    text: Tensor
    """(B, T) i64 row of the text, NONE without one."""
    next_item: Tensor
    """(B, T) i64; NONE in the padding and where the next event has no item, or one that would not be recommended."""
    next_type: Tensor
    """(B, T) i64; 0 in the padding."""
    weight: Tensor
    """(B, T) f32 what the next event counts."""
    consumed_at: Tensor
    """(B, N) i32 column at which the item was consumed, negative before the chunk, NEVER if it was not."""
    later: Tensor | None
    """(B, T, L) i64 items after the next one, NONE where there are none; None where nobody asked for them."""
    outlook: Mapping[str, Tensor]
    """Further targets by name, (B, T, …) f32."""

    @property
    def targets(self) -> int:
        return int((self.next_item != NONE).sum())

    def to(self, device: torch.device) -> Batch:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        moved = {name: each.to(device) for name, each in found.items() if isinstance(each, Tensor)}
        return replace(self, **moved, outlook={name: each.to(device) for name, each in self.outlook.items()})


@dataclass(frozen=True)
class _Chunk:
    """Inputs first..last-1 of a history; the targets are first+1..last."""

    history: History
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


class Batches:
    """A new arrangement of the same histories for every epoch."""

    def __init__(
        self,
        histories: Sequence[History],
        items: int,
        types: EventTypes,
        *,
        events: int,
        chunk: int,
        outlook: Outlook = lambda history, first, last: {},
        share: float = 1.0,
        later: int = 0,
    ) -> None:
        """`events`: about how many a batch holds, padding included; `chunk`: the most of one user; `share`: of the targets
        that are kept, at random; `later`: L of `Batch.later`.
        """
        self._later = later
        self._outlook, self._share = outlook, share
        self._histories = [history for history in histories if len(history) > 1]
        self._items, self._events, self._chunk = items, events, chunk
        self._consumes = np.zeros(32, np.bool_)
        for each in types:
            self._consumes[each.code] = each.consumes

    def epoch(self, rng: np.random.Generator) -> list[Sequence[_Chunk]]:
        """Batches still to be assembled, in random order; histories with ties are ordered anew."""
        chunks = [
            chunk
            for history in self._histories
            for chunk in self._cut(history.reshuffle_ties(rng), int(rng.integers(self._chunk)))
        ]
        lengths = np.array([len(chunk) for chunk in chunks])
        order = np.argsort(lengths + rng.random(len(lengths)) * 20)  # alike in length: little padding
        groups: list[Sequence[_Chunk]] = []
        group: list[_Chunk] = []
        for row in order:
            if group and len(chunks[row]) * (len(group) + 1) > self._events:
                groups.append(group)
                group = []
            group.append(chunks[row])
        if group:
            groups.append(group)
        return [groups[place] for place in rng.permutation(len(groups))]

    def _cut(self, history: History, offset: int) -> Iterator[_Chunk]:
        """A history that fits stays whole; the edges of the others move from epoch to epoch."""
        last = len(history) - 1
        if last <= self._chunk:
            yield _Chunk(history, 0, last)
            return
        edges = [0, *range(max(offset, 1), last, self._chunk), last]
        for start, stop in pairwise(edges):
            yield _Chunk(history, start, stop)

    def assemble(self, chunks: Sequence[_Chunk], rng: np.random.Generator | None = None) -> Batch:
        """`rng` draws the targets that are kept when that is a share of them."""
        shape = len(chunks), max(map(len, chunks))
        item, text, next_item = (np.full(shape, NONE, np.int64) for _ in range(3))
        kind, next_type = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        gap, value, weight = (np.zeros(shape, np.float32) for _ in range(3))
        consumed_at = np.full((shape[0], self._items), NEVER, np.int32)
        later = np.full((*shape, self._later), NONE, np.int64)
        outlook: dict[str, NDArray[np.float32]] = {}
        for row, chunk in enumerate(chunks):
            history, n = chunk.history, len(chunk)
            inputs, targets = slice(chunk.first, chunk.last), slice(chunk.first + 1, chunk.last + 1)
            item[row, :n], kind[row, :n] = history.item[inputs], history.type[inputs]
            gap[row, :n], value[row, :n] = history.gap[inputs], history.value[inputs]
            text[row, :n], next_type[row, :n] = history.text[inputs], history.type[targets]
            weight[row, :n] = history.weight[targets]
            if chunk.first:
                gap[row, 0] = 0  # the state starts here
            next_item[row, :n] = self._consume(consumed_at[row], chunk)
            if self._later:
                later[row, :n] = _later_items(history.item, chunk, self._later)
            for name, found in self._outlook(history, chunk.first, chunk.last).items():
                outlook.setdefault(name, np.zeros((*shape, *found.shape[1:]), np.float32))[row, :n] = found
        if rng is not None and self._share < 1:
            next_item[rng.random(shape) >= self._share] = NONE
        return Batch(
            item=torch.from_numpy(item),
            type=torch.from_numpy(kind),
            gap=torch.from_numpy(gap),
            value=torch.from_numpy(value),
            text=torch.from_numpy(text),
            next_item=torch.from_numpy(next_item),
            next_type=torch.from_numpy(next_type),
            weight=torch.from_numpy(weight),
            consumed_at=torch.from_numpy(consumed_at),
            later=torch.from_numpy(later) if self._later else None,
            outlook={name: torch.from_numpy(found) for name, found in outlook.items()},
        )

    def _consume(self, consumed_at: NDArray[np.int32], chunk: _Chunk) -> NDArray[np.int64]:
        """Fill one row of consumed_at (N,), and return the targets (n,) that may still be recommended."""
        history = chunk.history
        before = slice(0, chunk.last)
        places = np.flatnonzero(self._consumes[history.type[before]] & (history.item[before] != NONE))[::-1]
        consumed_at[history.item[places]] = places - chunk.first  # backwards, so that the first time stays
        targets = history.item[chunk.first + 1 : chunk.last + 1].copy()
        gone = (targets != NONE) & (consumed_at[targets] <= np.arange(len(chunk)))
        targets[gone] = NONE
        return targets


def _later_items(item: NDArray[np.int64], chunk: _Chunk, most: int) -> NDArray[np.int64]:
    """(n, most): what comes after the next event of each event of the chunk."""
    coming = np.concatenate([item[chunk.first + 2 :], np.full(most, NONE, np.int64)])
    found: NDArray[np.int64] = np.lib.stride_tricks.sliding_window_view(coming, most)[: len(chunk)]
    return found
