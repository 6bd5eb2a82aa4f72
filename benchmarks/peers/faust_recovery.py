"""Faust's own recovery of a changelog into its own RocksDB table; says how far it is, and when it is done.

`python -m benchmarks.peers.faust_recovery` with PLAIN_GROUP, PLAIN_BROKERS, PLAIN_PARTITIONS and PLAIN_DATA in the environment;
the changelog is that of the group's table `users`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

import faust

EVERY_S = 0.5
COMPLETE = "nothing is missing any more"

app = faust.App(
    os.environ["PLAIN_GROUP"],
    broker=f"kafka://{os.environ['PLAIN_BROKERS']}",
    store="rocksdb://",
    key_serializer="raw",
    value_serializer="raw",
    datadir=os.environ["PLAIN_DATA"],
    topic_partitions=int(os.environ["PLAIN_PARTITIONS"]),
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
    web_enabled=False,
    broker_max_poll_records=4000,
    stream_buffer_maxsize=16_384,
    stream_recovery_delay=0.0,
)
events = app.topic("events", key_type=bytes, value_type=bytes)
users = app.Table(
    "users",
    key_type=bytes,
    value_type=bytes,
    options={"driver": "rocksdict"},
    recovery_buffer_size=10_000,
)


@app.agent(events)
async def ignore(stream: Any) -> None:
    async for _ in stream:
        pass


@app.on_partitions_assigned.connect
async def begin(*args: Any, **kwargs: Any) -> None:
    app.add_future(watch())


async def watch() -> None:
    """`read N records in S s`, from the first record on, until none is missing."""
    recovery: Any = app.tables.recovery  # type: ignore[attr-defined]

    def begun() -> bool:
        ends, offsets = recovery.active_highwaters, recovery.active_offsets
        return any(end >= 0 for end in ends.values()) and None not in [offsets[tp] for tp in ends]

    while not begun():
        await asyncio.sleep(0.02)
    started, total = time.monotonic(), sum(end + 1 for end in recovery.active_highwaters.values())
    while True:
        left = recovery.active_remaining_total()
        print(f"read {total - left} records in {time.monotonic() - started:.3f} s", flush=True)
        if left <= 0:
            print(COMPLETE, flush=True)
            return
        await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)
    app.main()
