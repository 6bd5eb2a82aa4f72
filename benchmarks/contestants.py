"""Who does the job, and how each is started: Headwater and its peers, every one a consumer group of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.child import Child
from benchmarks.peers import kafka_streams
from benchmarks.peers.settings import Told
from benchmarks.stage import Stage


@dataclass(frozen=True)
class Contestant:
    """start: (stage, group) → the running worker. missing: why it cannot run here, None when it can.

    warm_up: how many times the usual warm-up it needs. alike: whether its outputs must be Headwater's.
    """

    name: str
    start: Callable[[Stage, str], Child]
    missing: Callable[[], str | None] = lambda: None
    warm_up: float = 1.0
    alike: bool = True


def told(stage: Stage, group: str) -> dict[str, str]:
    here = Told(
        group, stage.brokers, stage.partitions, stage.folder / group, stage.artefact, stage.items_file
    )
    return here.environment()


def _module(name: str, *arguments: str) -> Callable[[Stage, str], Child]:
    program = ["-m", f"benchmarks.peers.{name}", *arguments]
    return lambda stage, group: stage.python(group, program, told(stage, group))


def _kafka_streams(stage: Stage, group: str) -> Child:
    return stage.start(group, kafka_streams.command(stage.folder / "classes"), told(stage, group))


def _lacks(*packages: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        lacking = [name for name in packages if importlib.util.find_spec(name) is None]
        return f"{', '.join(lacking)} is not installed: pip install 'headwater[bench]'" if lacking else None

    return missing


HEADWATER = Contestant("headwater", lambda stage, group: stage.headwater(group, signals="off"))
"""The model alone ranks, as in all peers."""
WITH_SIGNALS = Contestant(
    "with_signals", lambda stage, group: stage.headwater(group, signals="on"), alike=False
)
"""Headwater as it is by default: lists are blended with what other users did."""
SMALL_BATCHES = Contestant(
    "small_batches",
    lambda stage, group: stage.headwater(group, signals="off", max_batch_events=4000),
    alike=False,
)
"""Batches of about 2,000 users at most: where every event is another user's, each still has a list of its own."""
VARIANTS = (WITH_SIGNALS, SMALL_BATCHES)
PEERS = (
    Contestant("plain_faust", _module("plain_faust", "worker", "-l", "warn", "--without-web")),
    Contestant("quix", _module("quix"), _lacks("quixstreams")),
    Contestant("kafka_streams", _kafka_streams, kafka_streams.missing, warm_up=4.0),  # compiles as it runs
    Contestant("bytewax", _module("bytewax"), _lacks("bytewax", "confluent_kafka")),
)


def present(names: list[str] | None = None) -> list[Contestant]:
    """Headwater, its variants and those peers (of `names`, or all) that can run here; of the others it is printed why not."""
    found = [HEADWATER]
    found += [variant for variant in VARIANTS if names is None or variant.name in names]
    for peer in PEERS:
        if names is not None and peer.name not in names:
            continue
        reason = peer.missing()
        if reason is None:
            found.append(peer)
        else:
            print(f"{peer.name} is left out: {reason}", flush=True)
    return found
