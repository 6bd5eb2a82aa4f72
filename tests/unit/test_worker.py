"""The composition root: what ends one of its parts ends the worker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agents.worker import Worker


class Follower:
    def __init__(self, end: BaseException | None) -> None:
        self._end = end

    async def join(self) -> None:
        await asyncio.sleep(0)
        if self._end is not None:
            raise self._end


def ended_by(end: BaseException | None) -> list[BaseException]:
    """What a worker dies of when a follower ends so."""
    died: list[BaseException] = []
    worker: Any = SimpleNamespace(app=SimpleNamespace(die=died.append))
    follower: Any = Follower(end)
    asyncio.run(Worker._watch(worker, follower))
    return died


def test_a_worker_does_not_outlive_what_it_follows() -> None:
    failure = ValueError("a record that nobody foresaw")
    assert ended_by(failure) == [failure]
    assert ended_by(None) == [], "it was stopped"
