"""The order of recovery: seek first, resume afterwards. (Rounds with real workers need not reveal a wrong order.)"""

from __future__ import annotations

import asyncio
import collections
from types import SimpleNamespace
from typing import Any

import pytest
from faust.tables.recovery import Recovery
from faust.types import TP

from streamer.transport.recovery import Latch, RunRecovery

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
