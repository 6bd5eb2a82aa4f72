"""Where a worker's time goes: processor time per event of each stage, in one process, without a broker.

`python -m benchmarks.stages [--workload uniform] [--batch 2000] [--warm 40000] [--signals] [--json FILE] [--quick]`

The worker's own code on a real RocksDB: runs are decoded, computed, packed into record batches as they would leave, and
written. With `--signals` lists are blended as by default, and what a batch tells is counted after it. What Faust, aiokafka and
the sockets cost beside it is what `benchmarks.throughput` has on top. `--warm` events come before the measurement: they decide
how full the windows are.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import rocksdict
from faust.types import TP

from agents import ingest, recommend
from agents.batch import Batch
from agents.collaborate import Collaborate
from agents.ingest import Ingest, StateOptions
from agents.processing import collaborative
from agents.recommend import Recommend, Refresh
from agents.tell import Told
from benchmarks import artefact, figures
from benchmarks.figures import Figure, Result
from benchmarks.stage import PARTITIONS
from benchmarks.workloads import WORKLOADS, Workload, workload
from streamer.core.columns import EventColumns
from streamer.core.events import EventDecoder
from streamer.core.interests import Decay
from streamer.core.partitioner import Partitioner
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemVector
from streamer.core.signals import signals as blended
from streamer.core.signals.past import Past
from streamer.core.signals.pool import Pooling
from streamer.core.signals.rows import SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.user_state import UserStates
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.model import Model
from streamer.settings import Settings
from streamer.transport.batch_producer import CODECS, Packer
from streamer.transport.partition_reader import PartitionReader
from streamer.transport.sending import Delivery
from streamer.transport.state_store import WRITE, Memory, database_options

NAME = "stages"
RECORDED_MS = 4_000_000_000_000
"""Kafka's own time of every record: no event may lie after it."""


class Clock:
    """Processor time of nested stages, each without what is inside of it."""

    spent: ClassVar[Counter[str]] = Counter()
    _open: ClassVar[list[float]] = []

    @classmethod
    @contextlib.contextmanager
    def stage(cls, name: str) -> Iterator[None]:
        started = time.thread_time()
        cls._open.append(0.0)
        try:
            yield
        finally:
            whole = time.thread_time() - started
            cls.spent[name] += whole - cls._open.pop()  # type: ignore[assignment]
            if cls._open:
                cls._open[-1] += whole

    @classmethod
    def watch(cls, owner: Any, function: str, name: str) -> None:
        """Count what `owner.function` costs under `name`."""
        inner = owner.__dict__[function]
        bound = isinstance(inner, classmethod)
        call: Callable[..., Any] = inner.__func__ if bound else inner

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with cls.stage(name):
                return call(*args, **kwargs)

        setattr(owner, function, classmethod(timed) if bound else timed)


def watch_stages() -> None:
    """The functions that make up a batch's way, by the names under which their cost is shown."""
    for owner, function, name in (
        (Ingest, "decode", "decode"),
        (Batch, "join", "group by user"),
        (Ingest, "_load", "read states"),
        (EventColumns, "of", "columns"),
        (UserStates, "absorb_all", "window and counters"),
        (Champion, "step_runs", "GRU"),
        (Champion, "count", "popularity"),
        (Refresh, "_note", "view of states"),
        (Champion, "interests", "heads"),
        (recommend, "profiles", "encode profiles"),
        (Refresh, "_top_k", "seen items"),
        (Champion, "score", "top-k"),
        (recommend, "because", "reasons"),
        (recommend, "recommendations", "encode recommendations"),
        (UserStates, "changes", "encode states"),
        (ingest.Ingest, "compute", "the rest of a batch"),
        (Told, "before", "tell"),
        (Told, "after", "tell"),
        (Told, "deliver", "tell"),
        (Told, "learn", "learn"),
        (SharedSignals, "absorb", "count"),
        (SignalRows, "decode", "read what was told"),
        (Past, "of", "past events"),
        (Collaborate, "lists", "the rest of blending"),
        (Collaborate, "model", "the model's candidates"),
        (Pooling, "gather", "candidates"),
        (blended, "features", "features"),
        (blended, "listed", "blend and top-k"),
        (Pooling, "supporters", "reasons"),
    ):
        Clock.watch(owner, function, name)


class Bench:
    """One worker's ingest over RocksDB."""

    def __init__(self, folder: Path, workload: Workload, *, signals: bool) -> None:
        settings = Settings.load({})
        self.collaborate = collaborative(settings, settings.event_types) if signals else None
        self.workload, self._compression = workload, settings.changelog_compression
        memory = Memory()
        self._databases = [
            rocksdict.Rdict(str(folder / str(p)), database_options(memory)) for p in range(PARTITIONS)
        ]
        self._offsets = [0] * PARTITIONS
        self.state_bytes = 0
        """Record batches of the changelog, compressed."""
        self._partitioner = Partitioner("murmur2")
        champion = self._champion(settings)
        unused: Any = None
        self.ingest = Ingest(
            EventDecoder(settings.event_types, self._partitioner, PARTITIONS),
            settings.event_types,
            StateOptions(settings.window, 3_600_000, Decay()),
            lambda: champion,
            lambda partition: PartitionReader(self._databases[partition], ()),
            unused,
            Recommend(
                "profiles",
                "recommendations",
                False,
                settings.top_k,
                exclude_seen=True,
                collaborate=self.collaborate,
            ),
            collaborate=self.collaborate,
        )

    def _champion(self, settings: Settings) -> Champion:
        items = self.workload.items
        model = Model.load(artefact.built(len(items)))
        catalogue = Catalogue()
        nothing = np.zeros(384, np.float16).tobytes()
        catalogue.apply(
            (item.item_id, ItemVector(item.item_id, "", nothing, True, item.categories, 0, at))
            for at, item in enumerate(items)
        )
        return Champion(model, catalogue.snapshot(model), Popularity(86_400_000), settings.event_types)

    def runs(self, events: int, first: int, batch: int) -> Iterator[dict[int, Any]]:
        """Batches of `batch` events as the consumer hands them over: a run per partition."""
        waiting: dict[int, list[Any]] = {}
        for number, (key, value) in enumerate(self.workload.events(events, first), 1):
            partition = self._partitioner.partition(key, PARTITIONS)
            offset = self._offsets[partition]
            self._offsets[partition] += 1
            waiting.setdefault(partition, []).append(
                SimpleNamespace(key=key, value=value, offset=offset, timestamp=RECORDED_MS, headers=())
            )
            if number % batch == 0:
                yield {p: SimpleNamespace(tp=TP("events", p), records=r) for p, r in waiting.items()}
                waiting = {}

    def work(self, runs: dict[int, Any]) -> None:
        deliveries = self.ingest.compute({p: [self.ingest.decode(run)] for p, run in runs.items()})
        for partition, delivery in deliveries.items():
            with Clock.stage("pack states"):
                packer = Packer("changelog", CODECS[self._compression], 0)
                packer.add_pairs(delivery.heads)
                packer.add_groups(delivery.groups)
                self.state_bytes += sum(len(built._build()) for built in packer.finish())
            with Clock.stage("pack outputs"):
                for topic, records in delivery.outputs.items():
                    packer = Packer(topic, 0, 0)
                    packer.add_pairs(records)
                    for built in packer.finish():
                        built._build()
            with Clock.stage("RocksDB"):
                batch = rocksdict.WriteBatch(raw_mode=True)
                for key, value in delivery.changes().items():
                    batch.put(key, value)
                self._databases[partition].write(batch, WRITE)
            self._tell(partition, delivery)

    def _tell(self, partition: int, delivery: Delivery) -> None:
        if self.collaborate is not None:
            for _, value in delivery.first.get(self.collaborate.events_topic, ()):
                self.collaborate.shared.absorb(partition, SignalRows.decode(value or b""))


def measure(name: str, *, batch: int, warm: int, signals: bool = False, quick: bool = False) -> Result:
    rounds, each = (1, 10 * batch) if quick else (5, 20 * batch)
    runs: dict[str, list[float]] = {}
    wire: list[float] = []
    with tempfile.TemporaryDirectory(prefix="headwater-stages-") as folder:
        bench = Bench(Path(folder), workload(name), signals=signals)
        watch_stages()
        for work in bench.runs(warm, 0, batch):
            bench.work(work)
        for number in range(rounds):
            prepared = list(bench.runs(each, warm + number * each, batch))
            Clock.spent.clear()
            bench.state_bytes = 0
            for work in prepared:
                bench.work(work)
            for stage, seconds in Clock.spent.items():
                runs.setdefault(stage, []).append(seconds / each * 1e6)
            wire.append(bench.state_bytes / each)
    made = {stage: Figure.of(values, "µs/event") for stage, values in runs.items()}
    whole = [sum(values) for values in zip(*runs.values(), strict=True)]
    ordered = sorted(made.items(), key=lambda pair: -pair[1].value)
    return Result.here(
        f"{NAME}-{name}" + ("-signals" if signals else ""),
        {
            "whole": Figure.of(whole, "µs/event"),
            **dict(ordered),
            "changelog_on_the_wire": Figure.of(wire, "bytes/event", 500.0),
        },
    )


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="uniform")
    parser.add_argument("--batch", type=int, default=2000, help="events computed together")
    parser.add_argument("--warm", type=int, default=40_000, help="events before the measurement")
    parser.add_argument("--signals", action="store_true", help="with collaborative signals")
    options = parser.parse_args()
    found = measure(
        options.workload, batch=options.batch, warm=options.warm, signals=options.signals, quick=options.quick
    )
    figures.report(found, options)


if __name__ == "__main__":
    main()
