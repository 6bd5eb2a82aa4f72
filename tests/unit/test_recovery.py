"""Recovery: seek first, resume afterwards; which records of the changelog count, and when the end is reached.

Rounds with real workers need not reveal a wrong order.
"""

from __future__ import annotations

import asyncio
import collections
from types import SimpleNamespace
from typing import Any

import pytest
from faust.tables.recovery import Recovery
from faust.types import TP

from streamer.errors import StateError
from streamer.transport.recovery import Latch, RunRecovery, Tally
from streamer.transport.state_store import BatchStore

EVENTS, CHANGELOG = TP("events", 0), TP("app-users-changelog", 0)


class Recorder:
    """Stands for app, consumer, flow control and table manager; notes the calls in their order."""

    def __init__(self, flowing: bool = False) -> None:
        self.calls: list[str] = []
        self.flowing = flowing

    def note(self, name: str, result: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return result

        return call

    def note_async(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append(name)

        return call

    def recovery(self, kind: type[Recovery]) -> Any:
        app = SimpleNamespace(
            on_rebalance_complete=SimpleNamespace(send=self.note_async("rebalance_complete")),
            consumer_generation_id=7,
            conf=SimpleNamespace(broker_request_timeout=5.0),
            flow_control=SimpleNamespace(
                is_active=lambda: self.flowing, resume=self.note("flow_control.resume")
            ),
            _fetcher=SimpleNamespace(maybe_start=self.note_async("fetcher.start")),
            assignor=SimpleNamespace(assigned_standbys=lambda: ()),
            on_changelog_recovered=self.note_async("changelog_recovered"),
            on_rebalance_end=self.note("rebalance_end"),
            on_ready=self.note("ready"),
        )
        app.consumer = SimpleNamespace(
            assignment=lambda: {EVENTS, CHANGELOG},
            perform_seek=self.note_async("perform_seek"),
            resume_partitions=self.note("resume_partitions"),
            resume_flow=self.note("resume_flow"),
        )
        recovery: Any = kind.__new__(kind)
        recovery.app = app
        recovery.tables = collections.UserDict()
        recovery.tables.on_actives_ready = self.note("actives_ready")
        recovery.tables.on_standbys_ready = self.note("standbys_ready")
        recovery.active_tps, recovery.standby_tps = {CHANGELOG}, set()
        recovery.active_highwaters = collections.Counter({CHANGELOG: 41})
        recovery.actives_for_table = recovery.standbys_for_table = {}
        recovery.completed = asyncio.Event()
        recovery.log = SimpleNamespace(info=lambda *a: None, dev=lambda *a: None, warning=lambda *a: None)
        recovery._set_recovery_ended = self.note("recovery_ended")
        recovery._is_changelog_tp = lambda tp: tp == CHANGELOG

        async def wait(coro: Any, timeout: float | None = None) -> None:
            await coro

        recovery._wait = wait
        return recovery


def order_of(kind: type[Recovery], **options: Any) -> list[str]:
    recorder = Recorder(**options)
    asyncio.run(recorder.recovery(kind).on_recovery_completed(7))
    return recorder.calls


def test_seeks_before_anything_is_resumed() -> None:
    calls = order_of(RunRecovery)
    seek = calls.index("perform_seek")
    assert calls.index("changelog_recovered") < seek
    for resumed in ("flow_control.resume", "resume_partitions", "resume_flow", "fetcher.start"):
        assert seek < calls.index(resumed)
    assert calls[-1] == "ready"


def test_faust_resumes_before_it_seeks() -> None:
    """The reason for the subclass; when a later Faust mends it, this test says that ours may go."""
    calls = order_of(Recovery)
    assert calls.index("resume_partitions") < calls.index("perform_seek")


def test_queues_of_a_flowing_standby_are_not_emptied() -> None:
    assert "flow_control.resume" not in order_of(RunRecovery, flowing=True)


@pytest.mark.parametrize(("kind", "kept"), [(asyncio.Event, False), (Latch, True)])
def test_the_end_of_a_recovery_is_not_lost(kind: type[asyncio.Event], kept: bool) -> None:
    """Faust's reader sets the signal and clears it on its next round, perhaps before anybody waits for it."""
    signal = kind()
    signal.set()
    signal.clear()
    assert signal.is_set() is kept


# ---------------------------------------------------------------------- the records
class Logged:
    """A record of the changelog."""

    def __init__(self, offset: int, key: bytes = b"hu", value: bytes | None = b"") -> None:
        self.offset, self.key, self.value = offset, key, value


class Batch(list[Logged]):
    """A record batch of the changelog; `next_offset` may lie behind a hole."""

    def __init__(self, *offsets: int, next_offset: int | None = None) -> None:
        super().__init__(Logged(offset, b"h%d" % offset, b"%d" % offset) for offset in offsets)
        self.next_offset = next_offset or (offsets[-1] + 1)


class Partition:
    """A recovery of one changelog partition over a store that notes its runs."""

    def __init__(self, *, seen: int = -1, end: int = 9, standby: bool = False) -> None:
        self.runs: list[tuple[list[bytes], int]] = []
        self.fatal: list[BaseException] = []
        self.position: int | None = None
        store: Any = BatchStore.__new__(BatchStore)
        store.replay = lambda partition, keys, values, offset, bulk: self.runs.append((keys, offset))
        store.end_replay = lambda partition: None
        recovery: Any = RunRecovery.__new__(RunRecovery)
        recovery.app = SimpleNamespace(die=self.fatal.append, consumer=SimpleNamespace(position=self.ask))
        recovery.tables = SimpleNamespace(standbys_ready=False, on_standbys_ready=self.ready)
        recovery.tp_to_table = {CHANGELOG: SimpleNamespace(data=store)}
        recovery.active_tps, recovery.standby_tps = set(), set()
        (recovery.standby_tps if standby else recovery.active_tps).add(CHANGELOG)
        kind = "standby" if standby else "active"
        for name in ("active", "standby"):
            here = name == kind
            setattr(recovery, f"{name}_offsets", collections.Counter({CHANGELOG: seen} if here else {}))
            setattr(recovery, f"{name}_highwaters", collections.Counter({CHANGELOG: end} if here else {}))
        recovery.in_recovery, recovery._sought = not standby, {CHANGELOG}
        recovery._active_events_received_at = {}
        recovery._tally = Tally.begin()
        recovery._signal_recovery_end = Latch()
        recovery._set_recovery_ended = self.ended
        self.recovery, self.store = recovery, store

    async def ask(self, tp: Any) -> int | None:
        return self.position

    def ended(self) -> None:
        self.recovery.in_recovery = False

    def ready(self) -> None:
        self.recovery.tables.standbys_ready = True

    @property
    def done(self) -> bool:
        return bool(self.recovery._signal_recovery_end.is_set())


def test_a_run_is_one_write_up_to_its_end() -> None:
    part = Partition()
    part.recovery.replay(CHANGELOG, [Batch(0, 1), Batch(3, next_offset=6)])
    assert part.runs == [([b"h0", b"h1", b"h3"], 5)], "a hole behind the last record counts as read"
    assert not part.done
    part.recovery.replay(CHANGELOG, [Batch(6, 7, 8, 9)])
    assert part.runs[-1] == ([b"h6", b"h7", b"h8", b"h9"], 9)
    assert part.done


def test_what_the_table_has_is_skipped() -> None:
    """Faust seeks to the last offset that is stored, not behind it."""
    part = Partition(seen=4)
    part.recovery.replay(CHANGELOG, [Batch(3, 4, 5)])
    assert part.runs == [([b"h5"], 5)]


def test_an_active_partition_is_read_up_to_where_its_log_ended() -> None:
    """What comes later is another writer's: for the contiguity check to judge, not to be taken in silently."""
    part = Partition(end=4)
    part.recovery.replay(CHANGELOG, [Batch(3, 4, 5), Batch(6)])
    assert part.runs == [([b"h3", b"h4"], 4)]
    assert part.done
    part.recovery.replay(CHANGELOG, [Batch(7)])
    assert len(part.runs) == 1


def test_a_standby_is_read_on_and_becomes_ready_at_its_highwater() -> None:
    part = Partition(end=4, standby=True)
    part.recovery.replay(CHANGELOG, [Batch(0, 1)])
    assert not part.recovery.tables.standbys_ready
    part.recovery.replay(CHANGELOG, [Batch(2, 3, 4, 5)])
    part.recovery.replay(CHANGELOG, [Batch(6)])
    assert [offset for _, offset in part.runs] == [1, 5, 6]
    assert part.recovery.tables.standbys_ready


@pytest.mark.parametrize("standby", [False, True])
def test_nothing_is_taken_before_the_seek_of_this_generation(standby: bool) -> None:
    part = Partition(standby=standby)
    part.recovery._sought.clear()
    part.recovery.replay(CHANGELOG, [Batch(0, 1)])
    assert not part.runs


def test_nothing_is_taken_of_a_foreign_partition() -> None:
    part = Partition()
    part.recovery.replay(TP("app-users-changelog", 5), [Batch(0, 1)])
    assert not part.runs
    assert not part.fatal


def test_an_error_while_replaying_ends_the_worker() -> None:
    """Faust's recovery would log it and go on with a hole in the table."""
    part = Partition()

    def fail(*args: Any, **options: Any) -> None:
        raise StateError("damaged")

    part.store.replay = fail
    with pytest.raises(StateError):
        part.recovery.replay(CHANGELOG, [Batch(0)])
    assert len(part.fatal) == 1
    assert not part.done


def test_a_log_that_ends_in_a_hole_is_read_to_its_end() -> None:
    part = Partition(end=9)
    part.recovery.replay(CHANGELOG, [Batch(0, 1)])
    part.position = 2
    asyncio.run(part.recovery.nothing_fetched())
    assert [part.done] == [False]
    part.position = 10
    asyncio.run(part.recovery.nothing_fetched())
    assert part.done
    assert part.recovery.active_offsets[CHANGELOG] == 9
