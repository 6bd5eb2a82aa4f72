"""Items as arrays, sorted by item id."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamer.core.hashing import item_hash, label_hash
from streamer.core.manifest import CONTENT_DIM
from streamer.core.protocol import ItemVector
from streamer.serving.exact import F32
from streamer.serving.model import Model

LABELS_PER_ITEM = 6
"""Categories of an item that count; further ones are ignored."""
_CONTENTS_PER_RUN = 4096


@dataclass(eq=False)
class ItemTable:
    """N rows; no array is written once it is here."""

    ids: list[str]
    hashes: npt.NDArray[np.uint64]
    vectors: F32
    """(N, D); the model's `unknown` where the item has none."""
    bias: F32
    """(N,); -inf for what may not be recommended."""
    has_vector: npt.NDArray[np.bool_]
    categories: npt.NDArray[np.uint32]
    """(N, 6)"""

    def row(self, item_id: str) -> int:
        """-1 if it is not here."""
        at = bisect_left(self.ids, item_id)
        return at if at < len(self.ids) and self.ids[at] == item_id else -1

    def replaced(self, changed: Sequence[str], rows: ItemTable) -> ItemTable:
        """Without the items `changed`, but with `rows`, which are those of them that still exist."""
        dropped = sorted(row for row in map(self.row, changed) if row >= 0)
        gone = set(dropped)
        ids = [each for row, each in enumerate(self.ids) if row not in gone] if gone else self.ids
        at = [bisect_left(ids, each) for each in rows.ids]
        arrays = {
            name: np.insert(np.delete(getattr(self, name), dropped, axis=0), at, getattr(rows, name), axis=0)
            for name in ARRAYS
        }
        return ItemTable(sorted([*ids, *rows.ids]), **arrays)

    def freeze(self) -> ItemTable:
        for name in ARRAYS:
            getattr(self, name).flags.writeable = False
        return self


ARRAYS = ("hashes", "vectors", "bias", "has_vector", "categories")


def empty(dim: int) -> ItemTable:
    return ItemTable(
        [],
        np.zeros(0, np.uint64),
        np.zeros((0, dim), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.bool_),
        np.zeros((0, LABELS_PER_ITEM), np.uint32),
    )


def described(
    ids: Sequence[str], items: Mapping[str, ItemVector], trained: Mapping[str, int], model: Model
) -> ItemTable:
    """Rows of these items, in the order of `ids`: trained ones have the model's vectors, others the tower's.

    `items`: what the catalogue says of them, `trained`: item id → row of the model's own tables.
    """
    n = len(ids)
    table = ItemTable(
        list(ids),
        np.fromiter(map(item_hash, ids), np.uint64, n),
        np.empty((n, model.dim), np.float32),
        np.full(n, -np.inf, np.float32),
        np.zeros(n, np.bool_),
        np.zeros((n, LABELS_PER_ITEM), np.uint32),
    )
    table.vectors[:] = model.unknown
    available = np.zeros(n, np.bool_)
    cold: list[int] = []
    for row, item_id in enumerate(ids):
        item = items.get(item_id)
        if item is not None:
            available[row] = item.available
            labels = [label_hash(name) for name in item.categories[:LABELS_PER_ITEM]]
            table.categories[row, : len(labels)] = labels
            if item_id not in trained:
                cold.append(row)
    rows = np.array([row for row, item_id in enumerate(ids) if item_id in trained], np.int64)
    own = np.array([trained[ids[row]] for row in rows.tolist()], np.int64)
    table.vectors[rows], table.has_vector[rows] = model.item_vectors[own], True
    table.bias[rows] = np.where(available[rows], model.item_bias[own], np.float32(-np.inf))
    for start in range(0, len(cold), _CONTENTS_PER_RUN):
        _project(table, cold[start : start + _CONTENTS_PER_RUN], items, available, model)
    return table


def _project(
    table: ItemTable,
    rows: list[int],
    items: Mapping[str, ItemVector],
    available: npt.NDArray[np.bool_],
    model: Model,
) -> None:
    """Vector and bias of items that training never saw, by the model's tower."""
    contents = [_content(items[table.ids[row]], model.manifest.encoder) for row in rows]
    usable = [row for row, content in zip(rows, contents, strict=True) if content is not None]
    if usable:
        vectors, bias = model.tower(np.stack([content for content in contents if content is not None]))
        table.vectors[usable], table.has_vector[usable] = vectors, True
        table.bias[usable] = np.where(available[usable], bias, np.float32(-np.inf))


def _content(item: ItemVector, encoder: str) -> F32 | None:
    """The item's content as f32 (384,), None if another encoder made it or it is no vector."""
    if item.encoder != encoder or len(item.vector) != 2 * CONTENT_DIM:
        return None
    content = np.frombuffer(item.vector, "<f2").astype(np.float32)
    return content if np.isfinite(content).all() else None
