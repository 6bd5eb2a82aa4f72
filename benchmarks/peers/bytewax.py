"""The job in Bytewax: a `stateful_map` whose state lies in memory and, every epoch, in SQLite; two topics out.

`python -m benchmarks.peers.bytewax` with what peers/settings.py wants in the environment. Bytewax has no changelog topic and
no store beside its recovery files, so a worker's users must fit into its memory.
"""

from __future__ import annotations

import functools
from datetime import timedelta

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.peers.job import Handled, Job
from benchmarks.peers.settings import told

EPOCH = timedelta(seconds=1)
PRODUCER = {"partitioner": "murmur2_random", "linger.ms": "0"}  # the sink flushes after every batch

here = told()
job = Job(here.artefact, here.items)


def by_user(event: KafkaSourceMessage) -> tuple[str, KafkaSourceMessage]:
    return event.key.decode(), event


def refresh(stored: bytes | None, event: KafkaSourceMessage) -> tuple[bytes, Handled]:
    done = job.handle(stored, event.value, event.partition or 0, event.offset or 0)
    return done.state, done


def flow() -> Dataflow:
    made = Dataflow("headwater-peer")
    events = kop.input("events", made, brokers=[here.brokers], topics=["events"], batch_size=100)
    refreshed = op.stateful_map("refresh", op.map("by-user", events.oks, by_user), refresh)
    for topic in ("profiles", "recommendations"):
        messages = op.map(f"to-{topic}", refreshed, functools.partial(message, topic))
        kop.output(topic, messages, brokers=[here.brokers], topic=topic, add_config=PRODUCER)
    return made


def message(topic: str, refreshed: tuple[str, Handled]) -> KafkaSinkMessage:
    user, done = refreshed
    return KafkaSinkMessage(user.encode(), getattr(done, topic))


if __name__ == "__main__":
    here.data.mkdir(parents=True)
    init_db_dir(here.data, 1)
    cli_main(flow(), epoch_interval=EPOCH, recovery_config=RecoveryConfig(str(here.data)))
