"""What `item-vectors` says, as a snapshot that a model scores against.

Trained items have the model's vectors; any other item has the one that the model's tower makes of its content, so it can
be recommended as soon as its content is on `item-vectors`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from streamer.core.hashing import label_hash
from streamer.core.manifest import EXACT_ITEMS
from streamer.core.protocol import ItemVector
from streamer.serving.hash_index import HashIndex
from streamer.serving.item_table import LABELS_PER_ITEM, ItemTable, described, empty
from streamer.serving.layers import Layers
from streamer.serving.model import Model
from streamer.serving.snapshot import CatalogueSnapshot, Part

__all__ = ["Catalogue", "CatalogueSnapshot"]


@dataclass(eq=False)
class _View:
    """The catalogue under one model, brought up to date by `Catalogue.snapshot`."""

    trained: dict[str, int]
    """Item id → row in the model's own tables."""
    table: ItemTable | None
    """None where there are layers instead."""
    layers: Layers | None = None
    dirty: set[str] = field(default_factory=set)
    latest: CatalogueSnapshot | None = None


class Catalogue:
    """What `item-vectors` says so far. Its methods may be called from any thread."""

    def __init__(self, exact_items: int = EXACT_ITEMS, on_rebuilt: Callable[[], None] = lambda: None) -> None:
        """`on_rebuilt` is called from another thread once an index was built anew: the next snapshot has it."""
        self._exact_items, self._on_rebuilt = exact_items, on_rebuilt
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
        """The catalogue as `model` sees it; the same object until something changes.

        Blocks while the tower computes and, for a large catalogue under a new model, while its index is built.
        """
        with self._lock:
            view = self._views.get(model)
            if view is None:
                trained = {item_id: row for row, item_id in enumerate(model.item_ids)}
                view = self._views[model] = _View(trained, empty(model.dim))
                view.dirty = set(self._items) | set(trained)
            if view.latest is None or view.dirty or (view.layers is not None and view.layers.rebuilt):
                view.latest = self._refreshed(view, model)
                view.dirty = set()
            return view.latest

    def wait(self) -> None:
        """Until no index is being built anew."""
        for view in list(self._views.values()):
            if view.layers is not None:
                view.layers.wait()

    def _refreshed(self, view: _View, model: Model) -> CatalogueSnapshot:
        if view.table is not None:
            changed = sorted(view.dirty)
            view.table = view.table.replaced(changed, self._described(view, model, changed)).freeze()
            if not model.device.bound and len(view.table.ids) <= self._exact_items:
                return self._sorted(view.table, model)
            view.layers = Layers(model, view.table, self._on_rebuilt)
            view.table, view.dirty = None, set()
        assert view.layers is not None, "a view has a table or layers"
        changed = sorted(view.dirty | view.layers.install())
        rows = self._described(view, model, changed)
        return view.layers.refreshed(model, changed, rows, dict(self._labels))

    def _described(self, view: _View, model: Model, changed: list[str]) -> ItemTable:
        ids = [each for each in changed if each in self._items or each in view.trained]
        return described(ids, self._items, view.trained, model)

    def _sorted(self, table: ItemTable, model: Model) -> CatalogueSnapshot:
        search = model.search(table.vectors, table.bias)
        return CatalogueSnapshot(
            model_version=model.version,
            ids=table.ids,
            hashes=table.hashes,
            vectors=table.vectors,
            bias=table.bias,
            has_vector=table.has_vector,
            categories=table.categories,
            labels=dict(self._labels),
            lookup=HashIndex(table.hashes),
            parts=(Part(0, len(table.ids), search, alone=True),),
        )
