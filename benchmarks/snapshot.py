"""What a snapshot of the collaborative counts costs: `python -m benchmarks.snapshot [--items N] [--rows N] [--kafka]`.

Rows of a synthetic stream (items by a Zipf law, users of all lengths) are counted until the budget of edges is used, then the
counts are copied, packed, unpacked and restored, several times. Batches wait for `copying`; `packing` goes on beside them;
`unpacking` and `restoring` are what a start pays instead of `counting` every row again. Processor time. With `--kafka` the agent
also does it all over a real Kafka: `writing` and `reading` are seconds by the clock, of everything from the copy to the last
acknowledgement, and from the first fetch to counts that go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from agents.follow_signals import FollowSignals
from agents.keep_counts import KeepCounts
from benchmarks import figures
from benchmarks.figures import Figure, Result
from streamer.core.signals import snapshot
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import SharedSignals
from streamer.core.signals.snapshot import Counts
from streamer.core.warm_up import warm_up
from streamer.settings import Settings
from streamer.transport.local_broker import LocalKafka
from streamer.transport.topics import ensure_topics

BATCH, ROUNDS, SEED = 2_000, 5, 7
QUICK = 20
"""So much smaller is a quick run."""
T = TypeVar("T")


def rows(n: int, items: int) -> SignalRows:
    """n events a second apart, of n / 8 users; what each user did before is told as a worker tells it."""
    rng = np.random.default_rng(SEED)
    item = np.exp(rng.random(n) * np.log(items)).astype(np.uint64)  # the density of rank r is 1 / r
    hashes = rng.permutation(np.arange(1, items + 2, dtype=np.uint64))[item.astype(np.int64)]
    user = (rng.random(n) ** 2 * (n // 8)).astype(np.int64)
    last = np.zeros((n // 8 + 1, PAST), np.uint64)
    past = np.zeros((n, PAST), np.uint64)
    for at, (each, taken) in enumerate(zip(user.tolist(), hashes, strict=True)):
        past[at] = last[each]
        last[each, 1:] = last[each, :-1]
        last[each, 0] = taken
    offset = np.arange(n)
    session = np.minimum((past != 0).sum(axis=1), rng.integers(0, PAST, n))
    return SignalRows(offset, offset * 1_000, hashes, np.ones(n, np.float32), session, past)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    return work(), time.process_time() - started


def counted(n: int, items: int) -> tuple[SharedSignals, list[float]]:
    """Counts, and the processor time per event of each batch."""
    shared, told = SharedSignals(), rows(n, items)
    spent = []
    for start in range(0, n, BATCH):
        part = told.take(slice(start, start + BATCH))
        spent.append(timed(lambda part=part: shared.absorb(0, part))[1] / len(part) * 1e6)  # type: ignore[misc]
    return shared, spent


def measure(shared: SharedSignals, spent: list[float]) -> dict[str, Figure]:
    assert shared.signals is not None
    half_life = shared.signals.options.edge_half_life_ms
    seconds: dict[str, list[float]] = {"copying": [], "packing": [], "unpacking": [], "restoring": []}
    for _ in range(ROUNDS):
        counts, copying = timed(lambda: copied(shared))
        packed, packing = timed(lambda counts=counts: pack(counts, half_life))  # type: ignore[misc]
        head, records = packed
        found, unpacking = timed(lambda head=head, records=records: unpack(head, records))  # type: ignore[misc]
        _, restoring = timed(lambda found=found: SharedSignals().restore(found))  # type: ignore[misc]
        for name, each in zip(seconds, (copying, packing, unpacking, restoring), strict=True):
            seconds[name].append(each)
    return {
        "counting": Figure.of(spent[len(spent) // 2 :], "µs/event"),
        **{name: Figure.of([each * 1e3 for each in runs], "ms") for name, runs in seconds.items()},
        "snapshot": Figure.of([sum(map(len, records.values())) / 1e6], "MB"),
        "records": Figure.of([len(records)], "records"),
        "items": Figure.of([len(shared.numbers)], "items"),
        "edges": Figure.of([len(shared.signals.edges)], "edges"),
    }


def copied(shared: SharedSignals) -> Counts:
    counts = shared.state()
    assert counts is not None
    return counts


def pack(counts: Counts, edge_half_life_ms: float) -> tuple[snapshot.Head, dict[bytes, bytes]]:
    counts = snapshot.without_forgotten(counts, edge_half_life_ms)
    values = list(snapshot.parts("00" * snapshot.ID_BYTES, counts.arrays))
    head = snapshot.headed(
        "00" * snapshot.ID_BYTES, 0, 0, {}, counts, [snapshot.checksum(each) for each in values]
    )
    records = {snapshot.part_key(0, number): value for number, value in enumerate(values)}
    return head, records | {snapshot.head_key(0): head.encode()}


def unpack(head: snapshot.Head, records: dict[bytes, bytes]) -> Counts:
    found, faults = snapshot.whole(records)
    assert found == [head], faults
    return snapshot.decode(head, records)


async def over_kafka(brokers: str, shared: SharedSignals) -> dict[str, Figure]:
    settings = replace(Settings(), brokers=brokers)
    await ensure_topics(settings)
    seconds: dict[str, list[float]] = {"writing": [], "reading": []}
    writer = agent(settings, shared)
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await writer.write()
        wrote = time.perf_counter()
        starting = SharedSignals()
        await agent(settings, starting).begin()
        assert starting.signals is not None, "there is a snapshot to begin with"
        seconds["writing"].append(wrote - started)
        seconds["reading"].append(time.perf_counter() - wrote)
    return {name: Figure.of(runs, "s") for name, runs in seconds.items()}


def agent(settings: Settings, shared: SharedSignals) -> KeepCounts:
    executor, loader = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    return KeepCounts(
        shared,
        FollowSignals(shared, executor, lambda: True),
        executor,
        loader,
        lambda: True,
        brokers=settings.brokers,
        topic=settings.topic("signal-counts"),
        security=settings.kafka_options(),
        every_s=0,
    )


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--items", type=int, default=100_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=300_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--kafka", action="store_true", help="also through a real Kafka")
    options = parser.parse_args()
    less = QUICK if options.quick else 1
    warm_up()
    shared, spent = counted(options.rows // less, options.items // less)
    found = measure(shared, spent)
    if options.kafka:
        with LocalKafka(short_lived=True) as broker:
            found |= asyncio.run(over_kafka(broker.address, shared))
    figures.report(Result.here("snapshot", found), options)


if __name__ == "__main__":
    main()
