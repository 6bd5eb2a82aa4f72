"""Texts of many callers, encoded together in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


class Priority(enum.IntEnum):
    """Which requests go first."""

    EVENT = 0
    """Text of an event: a user's recommendations wait for it."""
    ITEM = 1
    """Text of the catalogue."""


@dataclass(eq=False)
class _Request:
    texts: Sequence[str]
    done: asyncio.Future[F32]
    taken: int = 0
    """Texts that are, or were, part of a batch."""
    parts: list[F32] = field(default_factory=list)


class MicroBatcher:
    """Collects requests for up to `max_wait_s` and runs at most `max_batch` texts at a time, those of events first.

    A batch holds at most `max_items` texts of the catalogue, which bounds how long an event's text waits for it. Per
    priority at most `max_queued` texts wait; further callers wait to be let in, in order. Use it from one event loop.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], F32],
        *,
        max_batch: int = 64,
        max_items: int = 16,
        max_wait_s: float = 0.002,
        max_queued: int = 4096,
    ) -> None:
        if min(max_batch, max_items, max_queued) < 1 or max_wait_s < 0:
            raise ValueError(
                f"max_batch {max_batch}, max_items {max_items} and max_queued {max_queued} must be at least 1, "
                f"max_wait_s {max_wait_s} not negative"
            )
        self._encode = encode
        self._limits = {Priority.EVENT: max_batch, Priority.ITEM: min(max_items, max_batch)}
        self._max_batch, self._max_wait_s, self._max_queued = max_batch, max_wait_s, max_queued
        self._queues: dict[Priority, deque[_Request]] = {priority: deque() for priority in Priority}
        self._doors = {priority: asyncio.Lock() for priority in Priority}
        self._room = asyncio.Event()
        self._work = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, "encoder")
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    async def encode(self, texts: Sequence[str], priority: Priority = Priority.EVENT) -> F32:
        """(n,) texts → (n, D) f32. An error of the encoder reaches every caller whose texts were in its batch.

        Raises RuntimeError once the batcher is closed, also when the request was still waiting then.
        """
        if not texts:
            return await self._submit([""], priority, keep=0)
        return await self._submit(texts, priority, keep=len(texts))

    async def _submit(self, texts: Sequence[str], priority: Priority, keep: int) -> F32:
        async with self._doors[priority]:  # waiting callers are let in one by one, in order
            while not self._closed and not self._fits(priority, len(texts)):
                self._room.clear()
                await self._room.wait()
            if self._closed:
                raise RuntimeError("the micro-batcher is closed")
            request = _Request(texts, asyncio.get_running_loop().create_future())
            self._queues[priority].append(request)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="micro-batcher")
        self._work.set()
        return (await request.done)[:keep]

    async def close(self) -> None:
        """Let the running batch finish, refuse what is queued, end the thread. May be called again."""
        self._closed = True
        self._room.set()
        self._work.set()
        if self._runner is not None:
            await self._runner
        for queue in self._queues.values():
            while queue:
                _fail(queue.popleft(), RuntimeError("the micro-batcher is closed"))
        self._executor.shutdown(wait=False)

    def queued(self, priority: Priority) -> int:
        """Texts that wait and are in no batch yet."""
        return sum(len(r.texts) - r.taken for r in self._queues[priority] if not r.done.done())

    def _fits(self, priority: Priority, n: int) -> bool:
        queued = self.queued(priority)
        return queued == 0 or queued + n <= self._max_queued  # a request above the bound comes alone

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            if not any(self.queued(priority) for priority in Priority):
                self._work.clear()
                await self._work.wait()
                await asyncio.sleep(0)  # callers of this turn of the loop come along
                if (
                    self.queued(Priority.EVENT) + self.queued(Priority.ITEM) < self._max_batch
                    and self._max_wait_s > 0
                ):
                    await asyncio.sleep(self._max_wait_s)
                continue
            batch = self._next_batch()
            self._room.set()
            texts = [text for request, start, stop in batch for text in request.texts[start:stop]]
            try:
                vectors = await loop.run_in_executor(self._executor, self._encode, texts)
            except Exception as error:
                for request, _, _ in batch:
                    _fail(request, error)
            else:
                _hand_out(batch, vectors)
            self._room.set()

    def _next_batch(self) -> list[tuple[_Request, int, int]]:
        """(request, first text, end) of the next batch; requests that are fully taken leave their queue."""
        batch: list[tuple[_Request, int, int]] = []
        free = self._max_batch
        for priority, queue in self._queues.items():
            room = min(free, self._limits[priority])
            while queue and room > 0:
                request = queue[0]
                if not request.done.done():  # else cancelled, or failed in an earlier batch
                    stop = min(request.taken + room, len(request.texts))
                    batch.append((request, request.taken, stop))
                    room -= stop - request.taken
                    free -= stop - request.taken
                    request.taken = stop
                if request.done.done() or request.taken == len(request.texts):
                    queue.popleft()
        return batch


def _hand_out(batch: list[tuple[_Request, int, int]], vectors: F32) -> None:
    at = 0
    for request, start, stop in batch:
        request.parts.append(vectors[at : at + stop - start])
        at += stop - start
        if stop == len(request.texts) and not request.done.done():
            request.done.set_result(
                request.parts[0] if len(request.parts) == 1 else np.concatenate(request.parts)
            )


def _fail(request: _Request, error: Exception) -> None:
    if not request.done.done():
        request.done.set_exception(error)
