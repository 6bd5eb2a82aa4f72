"""The job as a good Faust user would write it: an agent, a table, two topics, one event after another.

`python -m benchmarks.peers.plain_faust worker` with what peers/settings.py wants in the environment.
"""

from __future__ import annotations

import logging
from typing import Any

import faust

from benchmarks.peers.job import Job
from benchmarks.peers.settings import told

here = told()
app = faust.App(
    here.group,
    broker=f"kafka://{here.brokers}",
    store="rocksdb://",
    key_serializer="raw",
    value_serializer="raw",
    datadir=str(here.data),
    topic_partitions=here.partitions,
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
    web_enabled=False,
    broker_max_poll_records=4000,
    stream_buffer_maxsize=4096,
    producer_linger=0.005,
)
events = app.topic("events", key_type=bytes, value_type=bytes)
profiles = app.topic("profiles", key_type=bytes, value_type=bytes)
recommendations = app.topic("recommendations", key_type=bytes, value_type=bytes)
users = app.Table("users", key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})
job = Job(here.artefact, here.items)


@app.agent(events)
async def recommend(stream: Any) -> None:
    async for event in stream.events():
        key, place = event.key, event.message
        done = job.handle(users.get(key), event.value, place.partition, place.offset)
        users[key] = done.state
        await profiles.send(key=key, value=done.profiles)
        await recommendations.send(key=key, value=done.recommendations)


if __name__ == "__main__":
    for name in ("aiokafka", "faust", "mode"):  # Faust lets them format every debug message for nobody
        logging.getLogger(name).setLevel(logging.WARNING)
    app.main()
