"""What `item-vectors` says, as a snapshot that a model scores against.

Trained items have the model's vectors; any other item has the one that the model's tower makes of its content, so it can
be recommended as soon as its content is on `item-vectors`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from streamer.core.hash_index import HashIndex
from streamer.core.hashing import label_hash
from streamer.core.manifest import EXACT_ITEMS
from streamer.core.protocol import ItemVector
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
        """Of what `apply` writes; never held for long, since `apply` runs on the event loop."""
        self._building = threading.Lock()

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

        Blocks while the tower computes and, for a large catalogue under a new model, while its index is built; `apply`
        does not wait for that.
        """
        with self._building:
            view = self._view(model)
            since = None if view.layers is None else view.layers.install()
            with self._lock:
                if view.latest is not None and not view.dirty and since is None:
                    return view.latest
                dirty, view.dirty = view.dirty | (since or set()), set()
                items = {each: self._items[each] for each in dirty if each in self._items}
                labels = dict(self._labels)
            try:
                view.latest = self._refreshed(view, model, sorted(dirty), items, labels)
            except BaseException:
                with self._lock:
                    view.dirty |= dirty
                raise
            return view.latest

    def _view(self, model: Model) -> _View:
        with self._lock:
            view = self._views.get(model)
            if view is None:
                trained = {item_id: row for row, item_id in enumerate(model.item_ids)}
                view = self._views[model] = _View(trained, empty(model.dim))
                view.dirty = set(self._items) | set(trained)
            return view

    def wait(self) -> None:
        """Until no index is being built anew."""
        for view in list(self._views.values()):
            if view.layers is not None:
                view.layers.wait()

    def _refreshed(
        self,
        view: _View,
        model: Model,
        changed: list[str],
        items: dict[str, ItemVector],
        labels: dict[int, str],
    ) -> CatalogueSnapshot:
        rows = described(
            [each for each in changed if each in items or each in view.trained], items, view.trained, model
        )
        if view.table is not None:
            table = view.table.replaced(changed, rows).freeze()
            if not model.device.bound and len(table.ids) <= self._exact_items:
                view.table = table
                return self._sorted(table, model, labels)
            view.layers, view.table = Layers(model, table, self._on_rebuilt), None
            changed, rows = [], empty(model.dim)
        assert view.layers is not None, "a view has a table or layers"
        return view.layers.refreshed(model, changed, rows, labels)

    def _sorted(self, table: ItemTable, model: Model, labels: dict[int, str]) -> CatalogueSnapshot:
        search = model.search(table.vectors, table.bias)
        return CatalogueSnapshot(
            model_version=model.version,
            ids=table.ids,
            hashes=table.hashes,
            vectors=table.vectors,
            bias=table.bias,
            has_vector=table.has_vector,
            categories=table.categories,
            labels=labels,
            lookup=HashIndex(table.hashes),
            parts=(Part(0, len(table.ids), search, alone=True),),
        )
