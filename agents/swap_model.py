"""`models` → the model that scores: fetch, verify, warm up off the event loop, swap between batches.

A bad release leaves the champion serving, is counted, and says what is wrong with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from streamer import telemetry
from streamer.core.protocol import Release, decode_release
from streamer.errors import HeadwaterError
from streamer.serving.artefact import check_release, resolve
from streamer.serving.device import Device
from streamer.serving.model import Model
from streamer.serving.text_encoder import TextEncoder
from streamer.transport.log_reader import LogRecord

log = logging.getLogger("headwater.models")

CHAMPION = b"champion"


class SwapModel:
    """Follows the slot `champion`; `on_champion(model, encoder)` runs on the event loop after each good release."""

    def __init__(
        self,
        device: Device,
        cache_dir: Path,
        executor: Executor,
        on_champion: Callable[[Model, TextEncoder], None],
    ) -> None:
        self._device, self._cache_dir, self._executor, self._on_champion = (
            device,
            cache_dir,
            executor,
            on_champion,
        )
        self.model: Model | None = None
        self.encoder: TextEncoder | None = None
        self.has_champion = asyncio.Event()

    def serving_encoder(self) -> TextEncoder:
        """The champion's text encoder."""
        assert self.encoder is not None, "nothing is encoded before the first champion"
        return self.encoder

    async def on_records(self, records: list[LogRecord]) -> None:
        """Only the newest record of the slot counts."""
        champions = [record for record in records if record.key == CHAMPION]
        if not champions:
            return
        newest = champions[-1]
        if newest.value is None:
            log.warning(
                "the champion slot was emptied: %s keeps serving",
                self.model.version if self.model else "nothing",
            )
            return
        try:
            await self._swap(decode_release(newest.value))
        except (HeadwaterError, ValueError, OSError) as exc:
            telemetry.SWAPS.labels("refused").inc()
            log.error(
                "release refused, %s keeps serving: %s", self.model.version if self.model else "nothing", exc
            )

    async def _swap(self, release: Release) -> None:
        if self.model is not None and self.model.version == release.version:
            return
        loop = asyncio.get_running_loop()
        model, encoder = await loop.run_in_executor(self._executor, self._load, release)
        self.model, self.encoder = model, encoder
        self._on_champion(model, encoder)
        telemetry.SWAPS.labels("swapped").inc()
        telemetry.MODEL_INFO.clear()
        telemetry.MODEL_INFO.labels(model.version, self._device.kind).set(1)
        self.has_champion.set()
        log.info("model %s serves on %s", model.version, self._device.kind)

    def _load(self, release: Release) -> tuple[Model, TextEncoder]:
        folder = resolve(release.uri, self._cache_dir)
        check_release(folder, release)
        model = Model.load(folder, self._device)
        if self.encoder is not None and self.encoder.digest == model.manifest.encoder:
            return model, self.encoder
        return model, TextEncoder.load(folder, self._device)
