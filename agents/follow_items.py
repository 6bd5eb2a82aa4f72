"""`item-vectors` → the catalogue that this worker recommends from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

import msgspec
import numpy as np

from streamer import telemetry
from streamer.core.protocol import ItemVector, decode_item_vector
from streamer.serving.catalogue import Catalogue, CatalogueSnapshot
from streamer.serving.model import Model
from streamer.transport.log_reader import LogRecord

log = logging.getLogger("headwater.items")

REBUILD_EVERY_S = 0.5
"""Item changes are gathered this long before a new snapshot replaces the serving one."""


class FollowItems:
    """Keeps the catalogue and builds a new snapshot off the event loop after changes, or for a new model."""

    def __init__(self, executor: Executor, on_snapshot: Callable[[Model, CatalogueSnapshot], None]) -> None:
        self._executor, self._on_snapshot = executor, on_snapshot
        self._catalogue = Catalogue(on_rebuilt=self._rebuilt)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._model: Model | None = None
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def on_records(self, records: list[LogRecord]) -> None:
        """Apply records of `item-vectors`; a record of an unknown schema is skipped and said."""
        changes: list[tuple[str, ItemVector | None]] = []
        for record in records:
            if record.key is None:
                continue
            try:
                vector = None if record.value is None else decode_item_vector(record.value)
                changes.append((record.key.decode(), vector))
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                log.error("item-vectors/%d@%d cannot be read: %s", record.partition, record.offset, exc)
        self._catalogue.apply(changes)
        self._dirty.set()

    def _rebuilt(self) -> None:
        """An index was built anew, in its own thread: the next snapshot takes it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._dirty.set)

    async def bind(self, model: Model) -> None:
        """Build the snapshot of this model at once (start of the worker)."""
        self._model, self._loop = model, asyncio.get_running_loop()
        await self._rebuild()

    def rebind(self, model: Model) -> None:
        """Serve this model as soon as its snapshot is built."""
        self._model = model
        self._dirty.set()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._rebuild_forever(), name="catalogue snapshots")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _rebuild_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await self._rebuild()
            await asyncio.sleep(REBUILD_EVERY_S)

    async def _rebuild(self) -> None:
        model = self._model
        if model is None:
            await asyncio.sleep(REBUILD_EVERY_S)
            return
        self._dirty.clear()
        snapshot = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._catalogue.snapshot, model
        )
        self._on_snapshot(model, snapshot)
        telemetry.CATALOGUE_ITEMS.set(int(np.isfinite(snapshot.bias).sum()))
