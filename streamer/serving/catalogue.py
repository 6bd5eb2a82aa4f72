"""Every item that can be recommended or met in an event, as arrays bound to one model version.

Trained items have the model's vectors; any other item has the one that the model's tower makes of its content, so it can
be recommended as soon as its content is on `item-vectors`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from streamer.core.hashing import item_hash, label_hash
from streamer.core.manifest import CONTENT_DIM
from streamer.core.protocol import ItemVector
from streamer.serving.hash_index import HashIndex
from streamer.serving.model import Model

LABELS_PER_ITEM = 6
"""Categories of an item that count; further ones are ignored."""


@dataclass(frozen=True, eq=False)
class CatalogueSnapshot:
    """Immutable; row r of every array is the item `ids[r]`, and rows are sorted by item id. N items, D item vector."""

    model_version: str
    ids: list[str]
    hashes: npt.NDArray[np.uint64]
    """(N,)"""
    vectors: npt.NDArray[np.float32]
    """(N, D); the model's `unknown` where the item has none."""
    bias: npt.NDArray[np.float32]
    """(N,); -inf for what may not be recommended: not in the catalogue, unavailable, or without a vector."""
    has_vector: npt.NDArray[np.bool_]
    """(N,)"""
    categories: npt.NDArray[np.uint32]
    """(N, 6) hashes of the item's categories, 0 = none."""
    labels: dict[int, str]
    """Hash of a category → its name."""
    _index: HashIndex

    def rows(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """(n,) item hashes → (n,) rows, -1 for an item that is unknown here."""
        return self._index.rows(hashes)


@dataclass(eq=False)
class _View:
    """The catalogue's arrays under one model, brought up to date by `Catalogue.snapshot`."""

    ids: list[str]
    hashes: npt.NDArray[np.uint64]
    vectors: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    has_vector: npt.NDArray[np.bool_]
    categories: npt.NDArray[np.uint32]
    trained: dict[str, int]
    """Item id → row in the model's own tables."""
    dirty: set[str] = field(default_factory=set)
    latest: CatalogueSnapshot | None = None


class Catalogue:
    """What `item-vectors` says so far. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._items: dict[str, ItemVector] = {}
        self._last: dict[
            str, tuple[int, int]
        ] = {}  # outlives a withdrawal, so a late vector does not revive the item
        self._labels: dict[int, str] = {}
        self._views: WeakKeyDictionary[Model, _View] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def apply(self, records: Iterable[tuple[str, ItemVector | None]]) -> int:
        """Take records of `item-vectors` in log order; None withdraws. Returns how many changed the catalogue.

        Workers embed independently, so the log may hold an older vector after a newer one: the record with the highest
        (partition, offset) of `items` stays, of equal ones the last.
        """
        changed = 0
        with self._lock:
            for item_id, record in records:
                if record is None:
                    if self._items.pop(item_id, None) is None:
                        continue
                else:
                    if (record.partition, record.offset) < self._last.get(item_id, (-1, -1)):
                        continue
                    self._items[item_id] = record
                    self._last[item_id] = record.partition, record.offset
                    self._labels.update(
                        (label_hash(name), name) for name in record.categories[:LABELS_PER_ITEM]
                    )
                changed += 1
                for view in self._views.values():
                    view.dirty.add(item_id)
        return changed

    def snapshot(self, model: Model) -> CatalogueSnapshot:
        """The catalogue as `model` sees it; the same object until something changes. Blocks while the tower computes."""
        with self._lock:
            view = self._views.get(model)
            if view is None:
                view = self._views[model] = _empty_view(model)
                view.dirty = set(self._items) | set(model.item_ids)
            if view.latest is None or view.dirty:
                self._refresh(view, model)
                view.latest = self._freeze(view, model)
            return view.latest

    def _refresh(self, view: _View, model: Model) -> None:
        gone = [
            i
            for i in view.dirty
            if i not in self._items and i not in view.trained and _find(view.ids, i) >= 0
        ]
        if gone:
            _delete(view, sorted(_find(view.ids, i) for i in gone))
        if new := sorted(
            i for i in view.dirty if (i in self._items or i in view.trained) and _find(view.ids, i) < 0
        ):
            _insert(view, new)
        self._fill(view, model)
        view.dirty.clear()

    def _fill(self, view: _View, model: Model) -> None:
        """Write the rows of the changed items; the arrays are copied first, since a snapshot may hold them."""
        view.vectors, view.bias, view.has_vector = (
            view.vectors.copy(),
            view.bias.copy(),
            view.has_vector.copy(),
        )
        view.categories = view.categories.copy()
        cold_rows: list[int] = []
        contents: list[npt.NDArray[np.float32]] = []
        for item_id in view.dirty:
            if (row := _find(view.ids, item_id)) < 0:
                continue
            item, trained = self._items.get(item_id), view.trained.get(item_id)
            view.vectors[row], view.bias[row] = model.unknown, -np.inf
            view.has_vector[row] = trained is not None
            view.categories[row] = _label_row(item)
            if trained is not None:
                view.vectors[row] = model.item_vectors[trained]
                if item is not None and item.available:
                    view.bias[row] = model.item_bias[trained]
            elif item is not None and (content := _content(item, model.manifest.encoder)) is not None:
                cold_rows.append(row)
                contents.append(content)
        if contents:
            vectors, bias = model.tower(np.stack(contents))
            available = np.array([self._items[view.ids[row]].available for row in cold_rows])
            view.vectors[cold_rows], view.has_vector[cold_rows] = vectors, True
            view.bias[cold_rows] = np.where(available, bias, np.float32(-np.inf))

    def _freeze(self, view: _View, model: Model) -> CatalogueSnapshot:
        for array in (view.hashes, view.vectors, view.bias, view.has_vector, view.categories):
            array.flags.writeable = False
        return CatalogueSnapshot(
            model_version=model.version,
            ids=view.ids,
            hashes=view.hashes,
            vectors=view.vectors,
            bias=view.bias,
            has_vector=view.has_vector,
            categories=view.categories,
            labels=dict(self._labels),
            _index=HashIndex(view.hashes),
        )


def _empty_view(model: Model) -> _View:
    return _View(
        ids=[],
        hashes=np.zeros(0, np.uint64),
        vectors=np.zeros((0, model.dim), np.float32),
        bias=np.zeros(0, np.float32),
        has_vector=np.zeros(0, np.bool_),
        categories=np.zeros((0, LABELS_PER_ITEM), np.uint32),
        trained={item_id: row for row, item_id in enumerate(model.item_ids)},
    )


def _find(ids: list[str], item_id: str) -> int:
    at = bisect_left(ids, item_id)
    return at if at < len(ids) and ids[at] == item_id else -1


_ARRAYS = ("hashes", "vectors", "bias", "has_vector", "categories")


def _delete(view: _View, rows: list[int]) -> None:
    dropped = set(rows)
    view.ids = [item_id for row, item_id in enumerate(view.ids) if row not in dropped]
    for name in _ARRAYS:
        setattr(view, name, np.delete(getattr(view, name), rows, axis=0))


def _insert(view: _View, new: list[str]) -> None:
    """`new` sorted and absent from the view; their rows are filled later, but for the hashes."""
    at = [bisect_left(view.ids, item_id) for item_id in new]
    hashes = np.fromiter(map(item_hash, new), np.uint64, len(new))
    for name in _ARRAYS:
        setattr(view, name, np.insert(getattr(view, name), at, hashes if name == "hashes" else 0, axis=0))
    view.ids = sorted([*view.ids, *new])


def _label_row(item: ItemVector | None) -> npt.NDArray[np.uint32]:
    row = np.zeros(LABELS_PER_ITEM, np.uint32)
    if item is not None:
        hashes = [label_hash(name) for name in item.categories[:LABELS_PER_ITEM]]
        row[: len(hashes)] = hashes
    return row


def _content(item: ItemVector, encoder: str) -> npt.NDArray[np.float32] | None:
    """The item's content as f32 (384,), None if another encoder made it or it is no vector."""
    if item.encoder != encoder or len(item.vector) != 2 * CONTENT_DIM:
        return None
    content = np.frombuffer(item.vector, "<f2").astype(np.float32)
    return content if np.isfinite(content).all() else None
