"""A large catalogue: an index over most rows, and a small block of later ones, searched exactly, until the index is rebuilt.

A change costs what the block costs, not what the catalogue costs, but for one copy of the biases.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamer import telemetry
from streamer.core.hash_index import HashIndex
from streamer.core.hashing import item_hash
from streamer.serving import index
from streamer.serving.exact import I64
from streamer.serving.index import BaseSearch
from streamer.serving.item_table import ARRAYS, ItemTable
from streamer.serving.model import Model
from streamer.serving.snapshot import CatalogueSnapshot, LayeredLookup, Part

log = logging.getLogger("headwater.catalogue")

LEAST_ROWS = 2048
"""Later rows before the index is built anew: as many as this, or a share of the index, whichever is more."""
SHARE = 32


@dataclass(frozen=True, eq=False)
class _Base:
    """What an index was built over: rows sorted by item id."""

    table: ItemTable
    lookup: HashIndex
    search: BaseSearch


class Layers:
    """Not thread-safe: `Catalogue` makes one call at a time. The rebuild runs in a thread of its own."""

    def __init__(self, model: Model, table: ItemTable, on_rebuilt: Callable[[], None]) -> None:
        """Blocks while the index is built. The model is not kept: it is what views are found, and dropped, by."""
        self._on_rebuilt = on_rebuilt
        self._since: set[str] = set()
        self._next: _Base | None = None
        self._thread: threading.Thread | None = None
        self._start(_Base(table, HashIndex(table.hashes), index.build(model, table)))

    def _start(self, base: _Base) -> None:
        """Forget the block: the index has its rows."""
        self._base = base
        self._rows = Appended(base.table)
        self._bias = base.table.bias
        self._changed: dict[str, int] = {}
        """Item id → its row behind the index's, -1 once it is withdrawn."""

    def install(self) -> set[str] | None:
        """Take the new index; returns the items that changed since its rows were read. None where there is no new one."""
        if self._next is None:
            return None
        base, since = self._next, self._since
        self._next, self._thread, self._since = None, None, set()
        self._start(base)
        return since

    def refreshed(
        self, model: Model, changed: Sequence[str], rows: ItemTable, labels: dict[int, str]
    ) -> CatalogueSnapshot:
        """Take what the items `changed` are now: `rows`, in their order, without those that exist no more."""
        if self._thread is not None:
            self._since.update(changed)
        bias = np.concatenate([self._bias, rows.bias])
        for item_id in changed:
            if (row := self._row(item_id)) >= 0:
                bias[row] = -np.inf
            self._changed[item_id] = -1
        first = len(self._bias)
        self._changed.update(zip(rows.ids, range(first, first + len(rows.ids)), strict=True))
        self._rows.append(rows)
        bias.flags.writeable = False
        self._bias = bias
        later = len(bias) - len(self._base.table.ids)
        telemetry.INDEX_LATER_ROWS.set(later)
        if self._thread is None and later > max(LEAST_ROWS, len(self._base.table.ids) // SHARE):
            self._rebuild_aside(model)
        return self._snapshot(model, labels)

    def _row(self, item_id: str) -> int:
        changed = self._changed.get(item_id)
        return self._base.table.row(item_id) if changed is None else changed

    def _snapshot(self, model: Model, labels: dict[int, str]) -> CatalogueSnapshot:
        table, n = self._rows.table(), len(self._base.table.ids)
        search = self._base.search
        if n and self._changed:
            search = search.with_bias(self._bias[:n])
        parts = [Part(0, n, search)]
        kept = sorted(each for each, row in self._changed.items() if row >= n)
        if kept:
            rows = np.array([self._changed[each] for each in kept], np.int64)
            later = model.search(table.vectors[rows], self._bias[rows])
            parts.append(Part(n, len(self._bias) - n, later, rows, self._order(kept)))
        hashes = np.fromiter(map(item_hash, self._changed), np.uint64, len(self._changed))
        at = np.fromiter(self._changed.values(), np.int64, len(self._changed))
        return CatalogueSnapshot(
            model_version=model.version,
            ids=table.ids,
            hashes=table.hashes,
            vectors=table.vectors,
            bias=self._bias,
            has_vector=table.has_vector,
            categories=table.categories,
            labels=labels,
            lookup=LayeredLookup(self._base.lookup, HashIndex(hashes), at),
            parts=tuple(parts),
        )

    def _order(self, ids: list[str]) -> I64:
        """Where the later items (sorted) stand among the index's by id, so that ties go as in a sorted catalogue."""
        below = np.array([bisect_left(self._base.table.ids, each) for each in ids], np.int64) << 20
        return below - len(ids) + np.arange(len(ids))

    # ------------------------------------------------------------------ the rebuild
    def _rebuild_aside(self, model: Model) -> None:
        table = self._rows.table()
        kept = sorted(each for each, row in self._changed.items() if row >= 0)
        at = np.array([self._changed[each] for each in kept], np.int64)
        arrays = {name: getattr(table, name)[at] for name in ARRAYS if name != "bias"}
        rows = ItemTable(kept, bias=self._bias[at], **arrays)
        self._since = set()
        self._thread = threading.Thread(
            target=self._try_rebuild,
            args=(model, self._base, sorted(self._changed), rows),
            name="index",
            daemon=True,
        )
        self._thread.start()

    def _try_rebuild(self, *arguments: Any) -> None:
        try:
            self._rebuild(*arguments)
        except Exception:  # the later rows are still searched; the next change tries again
            log.exception("the index could not be built anew")
            self._thread = None

    def _rebuild(self, model: Model, base: _Base, changed: list[str], rows: ItemTable) -> None:
        started = time.perf_counter()
        if hasattr(os, "setpriority"):  # on Linux a thread's own: scoring goes first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        table = base.table.replaced(changed, rows).freeze()
        hashes = np.fromiter(map(item_hash, changed), np.uint64, len(changed))
        search = index.rebuild(model, table, base.search, base.lookup, hashes)
        self._next = _Base(table, HashIndex(table.hashes), search)
        telemetry.INDEX_REBUILDS.inc()
        log.info("index built anew over %d items in %.1f s", len(table.ids), time.perf_counter() - started)
        self._on_rebuilt()

    def wait(self) -> None:
        """Until a rebuild under way is over."""
        if self._thread is not None:
            self._thread.join()


class Appended:
    """A table that grows at its end; what was handed out before stays as it was."""

    def __init__(self, table: ItemTable) -> None:
        self._ids, self._size = list(table.ids), len(table.ids)
        room = self._size + max(LEAST_ROWS, self._size // SHARE)
        self._arrays = {name: _grown(getattr(table, name), room) for name in ARRAYS if name != "bias"}

    def append(self, rows: ItemTable) -> None:
        end = self._size + len(rows.ids)
        self._ids.extend(rows.ids)
        for name, array in self._arrays.items():
            if end > len(array):
                array = self._arrays[name] = _grown(array, end + end // SHARE)
            array[self._size : end] = getattr(rows, name)
        self._size = end

    def table(self) -> ItemTable:
        """Without biases."""
        views = {name: array[: self._size] for name, array in self._arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        return ItemTable(self._ids, bias=np.zeros(0, np.float32), **views)


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    grown = np.empty((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
