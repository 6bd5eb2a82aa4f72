"""The job in Quix Streams: a stateful `apply`, its state in RocksDB and a changelog topic, two topics out.

`python -m benchmarks.peers.quix` with what peers/settings.py wants in the environment.
"""

from __future__ import annotations

from quixstreams import Application, State, message_context
from quixstreams.state.rocksdb import RocksDBOptions

from benchmarks.peers.job import Handled, Job
from benchmarks.peers.settings import told

here = told()
job = Job(here.artefact, here.items)


def refresh(event: bytes, state: State) -> Handled:
    place = message_context()
    done = job.handle(state.get_bytes("user"), event, place.partition, place.offset)
    state.set_bytes("user", done.state)
    return done


def main() -> None:
    app = Application(
        broker_address=here.brokers,
        consumer_group=here.group,
        state_dir=here.data,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        loglevel="WARNING",
        rocksdb_options=RocksDBOptions(use_fsync=False),
        producer_extra_config={"partitioner": "murmur2_random", "linger.ms": 20, "batch.size": 256 << 10},
    )
    events = app.topic("events", value_deserializer="bytes")
    profiles = app.topic("profiles", value_serializer="bytes")
    recommendations = app.topic("recommendations", value_serializer="bytes")
    refreshed = app.dataframe(events).apply(refresh, stateful=True)
    refreshed.apply(lambda done: done.profiles).to_topic(profiles)
    refreshed.apply(lambda done: done.recommendations).to_topic(recommendations)
    app.run()


if __name__ == "__main__":
    main()
