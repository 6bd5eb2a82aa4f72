"""The worker's own code in this process: records in, published lists out; a dictionary stands for RocksDB, nothing for Kafka.

Records pass the decoder, `agents.ingest.Ingest` and `agents.recommend.Recommend` as in a worker. A batch holds each user once,
so that every list is published before its user's next event: `refresh=event`. Of the offsets of a batch the lower half is for the
requests that come before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from faust.types import TP

from agents.batch import DecodedRun
from agents.processing import collaborative, event_processor
from benchmarks.quality.log import Log, Rows
from streamer.core.event_types import REFRESH
from streamer.core.events import Event
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemVector
from streamer.core.signals.rows import SignalRows
from streamer.core.stored import LookedUp
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.device import CPU
from streamer.serving.micro_batcher import MicroBatcher
from streamer.serving.model import Model
from streamer.settings import Settings
from streamer.transport.consumer import Run
from streamer.transport.log_batches import LoggedRecord
from streamer.transport.sending import Delivery

TOPIC = "events"
BATCH = 256
WARM_BATCH = 2_000
ITEMS_PER_EVENT = 100
"""A new snapshot of the catalogue copies all items: one comes after as many events as a hundredth of them."""
STRANGER = "?"
"""A user of whom nothing is known."""


class _Record(msgspec.Struct, gc=False):
    """What of a Kafka record is read."""

    key: bytes
    value: bytes
    offset: int
    timestamp: int
    topic: str = TOPIC
    partition: int = 0
    headers: Any = ()


class _Item(msgspec.Struct, gc=False):
    item_id: str


class _List(msgspec.Struct, gc=False):
    items: list[_Item]


class InProcessWorker:
    """One partition of a worker with the default settings; items are called by their rows.

    mask: whether what a user took is left out of the lists.
    """

    def __init__(
        self, artefact: Path, log: Log, contents: np.ndarray, settings: Settings, *, mask: bool, k: int = 10
    ) -> None:
        """contents (N, 384): the items' content vectors, as the item agent makes them."""
        self._settings = replace(settings, exclude_seen=mask, top_k=k, partitioner="off")
        self._model = Model.load(artefact, CPU)
        self._log, self._contents = log, contents
        self._popularity = Popularity(int(settings.popularity_half_life_s * 1000))
        self._table: dict[bytes, bytes] = {}
        self._catalogue = Catalogue()
        self._listed = np.zeros(len(log.items), bool)
        self._listed_until = 0
        self._champion: Champion | None = None
        self._decode_list = msgspec.json.Decoder(_List).decode
        self.rejected = 0
        self.collaborate = collaborative(self._settings, log.types)
        self._ingest = event_processor(
            self._settings,
            log.types,
            self._current,
            lambda partition: LookedUp(self._table.get),
            MicroBatcher(_no_texts),
            self.collaborate,
            partitions=1,
        )

    def _current(self) -> Champion:
        if self._champion is None:
            self._champion = Champion(
                self._model, self._catalogue.snapshot(self._model), self._popularity, self._log.types
            )
        return self._champion

    def list_items(self, items: Rows) -> None:
        """Put items on the catalogue, as records of `item-vectors` would."""
        new = np.unique(items[~self._listed[items]])
        if len(new):
            encoder = self._model.manifest.encoder
            contents = self._contents[new].astype("<f2")
            self._catalogue.apply(
                (str(row), ItemVector(str(row), encoder, content.tobytes(), True, [], 0, row))
                for row, content in zip(new.tolist(), contents, strict=True)
            )
            self._listed[new] = True
            self._champion = None

    def _list_met(self, last: int) -> None:
        """Items without a text are listed once they were met, some at a time, as a worker gathers them for half a second."""
        if (last - self._listed_until) * ITEMS_PER_EVENT >= len(self._log.items) or last == len(self._log):
            self.list_items(self._log.item[self._listed_until : last])
            self._listed_until = last

    # ------------------------------------------------------------------ events
    def absorb(self, first: int, last: int) -> dict[int, list[int]]:
        """Take events first..last - 1 of the log, each user once → user's row to the rows of the list published for it."""
        delivery = self._take(self._records(first, last))
        self.rejected += len(delivery.dead_letters)
        self._list_met(last)
        return self._lists(delivery.outputs.get(self._settings.topic("recommendations"), ()))

    def request(self, first: int, rows: Rows) -> dict[int, list[int]]:
        """Take a request for a fresh list of the user of each of `rows`, all of a batch that begins at `first` and is yet to be
        absorbed → user's row to the rows of the list published for it.
        """
        if not len(rows):
            return {}
        users, times = self._log.user[rows].tolist(), self._log.time_ms[rows].tolist()
        requests = [
            _record(Event(f"r{row}", str(user), REFRESH, time_ms), first + row)
            for row, user, time_ms in zip(rows.tolist(), users, times, strict=True)
        ]
        delivery = self._take(requests)
        return self._lists(delivery.outputs.get(self._settings.topic("recommendations"), ()))

    def _take(self, records: list[LoggedRecord]) -> Delivery:
        decoded: DecodedRun = self._ingest.decode(cast(Run, _Run(TP(TOPIC, 0), records)))
        delivery = self._ingest.compute({0: [decoded]})[0]
        self._table.update(delivery.changes())
        self._tell(delivery)
        return delivery

    def _tell(self, delivery: Delivery) -> None:
        """What a batch told arrives at once; the weights that it published serve already."""
        if self.collaborate is not None:
            for _, value in delivery.first.get(self._settings.topic("signal-events"), ()):
                self.collaborate.shared.absorb(0, SignalRows.decode(value or b""))

    def warm(self, last: int, advance: Callable[[int], None] = lambda events: None) -> dict[int, list[int]]:
        """Absorb the first `last` events in large batches → the newest list of each user."""
        lists: dict[int, list[int]] = {}
        for first in range(0, last, WARM_BATCH):
            until = min(first + WARM_BATCH, last)
            lists |= self.absorb(first, until)
            advance(until - first)
        return lists

    def ask(self, users: Sequence[int]) -> dict[int, list[int]]:
        """The lists of these users as the worker would publish them now, without a new event."""
        if not users:
            return {}
        delivery = self._ingest.refresh(0, [str(user).encode() for user in users])
        return self._lists(delivery.outputs[self._settings.topic("recommendations")])

    def list_of_stranger(self) -> list[int]:
        """What the worker recommends to somebody without any event, now."""
        delivery = self._ingest.refresh(0, [STRANGER.encode()])
        ((_, value),) = delivery.outputs[self._settings.topic("recommendations")]
        return self._rows(value)

    def batches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut events first..last - 1 into runs in which no user comes twice."""
        users = self._log.user[first:last].tolist()
        start, known = 0, set[int]()
        for at, user in enumerate(users):
            if user in known or at - start == BATCH:
                yield first + start, first + at
                start, known = at, set()
            known.add(user)
        if start < len(users):
            yield first + start, last

    def _records(self, first: int, last: int) -> list[LoggedRecord]:
        log = self._log
        columns = (log.user, log.item, log.type, log.value, log.time_ms)
        names = {each.code: each.name for each in log.types}
        records = []
        for row, (user, item, code, value, time_ms) in enumerate(
            zip(*(column[first:last].tolist() for column in columns), strict=True), first
        ):
            event = Event(
                f"e{row}", str(user), names[code], time_ms, str(item), value=value if value == value else None
            )
            records.append(_record(event, last + row))
        return records

    def _lists(self, published: Sequence[tuple[bytes | None, bytes | None]]) -> dict[int, list[int]]:
        return {int(key or b""): self._rows(value) for key, value in published}

    def _rows(self, value: bytes | None) -> list[int]:
        return [int(item.item_id) for item in self._decode_list(value or b"").items]


_encode = msgspec.json.Encoder().encode


def _record(event: Event, offset: int) -> LoggedRecord:
    """As it lies on `events`, written at its own time."""
    return cast(LoggedRecord, _Record(event.user_id.encode(), _encode(event), offset, event.timestamp_ms))


class _Run(msgspec.Struct):
    tp: TP
    records: list[LoggedRecord]


def _no_texts(texts: list[str]) -> np.ndarray:
    raise AssertionError("events of the benchmark carry no text")
