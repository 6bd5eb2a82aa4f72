"""The ceiling: read the topic and decode every event, nothing else.  Prints events, seconds and processor seconds.

`python -m benchmarks.peers.raw BROKERS TOPIC EVENTS`
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
from aiokafka import AIOKafkaConsumer

from streamer.core.events import Event


async def main(brokers: str, topic: str, events: int) -> None:
    decode = msgspec.json.Decoder(Event).decode
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        seen, first, started, spent = 0, 0, 0.0, 0.0
        while seen < events:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=4000)
            if not started:  # what came with the connection does not count
                started, spent, first = (
                    time.perf_counter(),
                    time.process_time(),
                    sum(map(len, fetched.values())),
                )
                seen = first
                continue
            for records in fetched.values():
                for record in records:
                    decode(record.value or b"")
                seen += len(records)
        print("read", seen - first, time.perf_counter() - started, time.process_time() - spent, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
