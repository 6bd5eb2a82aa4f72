"""A topic read as a log: every partition, between offsets, without a consumer group.

`read_log` ends where the log ended when it was called (or at the offsets given); `LogFollower` reads to the end,
says so, and stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from aiokafka.errors import KafkaConnectionError, KafkaError

from streamer.errors import BrokerUnavailable, DataError
from streamer.transport.log_cursor import LogCursor, LogRecord

log = logging.getLogger("headwater.log_reader")

SILENCE_S = 10.0
"""A follower says once that the broker is silent, after this long."""
RETRY_S = 1.0
TOPIC_CHECK_S = 30.0
"""How often a follower looks for new partitions of its topic."""

OnRecords = Callable[[list[LogRecord]], Awaitable[None]]

__all__ = ["LogFollower", "LogRecord", "OnRecords", "iter_log", "log_extent", "read_log"]


async def iter_log(
    brokers: str,
    topic: str,
    until: Mapping[int, int] | None = None,
    start: Mapping[int, int] | None = None,
    security: Mapping[str, Any] | None = None,
    patience_s: float = 60.0,
) -> AsyncIterator[list[LogRecord]]:
    """Batches of a topic's records from `start` (default: the first) up to `until` (default: the end now), exclusive.

    A partition that `until` does not name is left out. Raises DataError when there is no such topic,
    BrokerUnavailable when no broker answers or nothing comes for `patience_s`.
    """
    cursor = LogCursor(brokers, topic, security or {})
    try:
        try:
            await cursor.connect()
            found = await cursor.open(start, until)
        except KafkaError as error:
            raise BrokerUnavailable(f"no Kafka broker answers at {brokers}: {error}") from error
        if not found:
            raise DataError(
                f"topic {topic!r} does not exist on {brokers}: create it with `headwater topics create`"
            )
        progress_s = time.monotonic()
        while not cursor.complete:
            before = dict(cursor.positions)
            batch = [r for r in await cursor.poll() if r.offset < cursor.until[r.partition]]
            if batch:
                yield batch
            cursor.pause_finished()
            if cursor.positions != before:
                progress_s = time.monotonic()
            elif time.monotonic() - progress_s > patience_s:
                raise BrokerUnavailable(f"{brokers} has sent nothing of {topic!r} for {patience_s:.0f} s")
    finally:
        await cursor.close()


def read_log(
    brokers: str,
    topic: str,
    until: Mapping[int, int] | None = None,
    start: Mapping[int, int] | None = None,
    security: Mapping[str, Any] | None = None,
    patience_s: float = 60.0,
) -> Iterator[LogRecord]:
    """`iter_log` for synchronous code, record by record. Not to be called where an event loop runs."""
    batches = iter_log(brokers, topic, until, start, security, patience_s)
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    batch = runner.run(_next(batches))
                except StopAsyncIteration:
                    return
                yield from batch
        finally:
            runner.run(_close(batches))


async def _next(batches: AsyncIterator[list[LogRecord]]) -> list[LogRecord]:
    return await anext(batches)


async def _close(batches: AsyncIterator[list[LogRecord]]) -> None:
    close = getattr(batches, "aclose", None)
    if close is not None:
        await close()


async def log_extent(
    brokers: str, topic: str, security: Mapping[str, Any] | None = None
) -> dict[int, tuple[int, int]]:
    """First and end offset of each partition, {} where the topic does not exist. Raises BrokerUnavailable."""
    cursor = LogCursor(brokers, topic, security or {})
    try:
        await cursor.connect()
        return await cursor.extent()
    except KafkaError as error:
        raise BrokerUnavailable(f"no Kafka broker answers at {brokers}: {error}") from error
    finally:
        await cursor.close()


class LogFollower:
    """Hands every record of a topic to `on_records`, in offset order per partition, for ever.

    An outage of the broker is waited out: positions are kept, and the log says it once. A topic that does not exist
    yet is waited for. What `on_records` raises ends the follower; `on_failure` is told, `caught_up()` and `join()` raise it on.
    """

    def __init__(
        self,
        brokers: str,
        topic: str,
        on_records: OnRecords,
        security: Mapping[str, Any] | None = None,
        *,
        gather_ms: int = 0,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        """gather_ms: see LogCursor."""
        self._cursor = LogCursor(brokers, topic, security or {}, retry_ms=1000, gather_ms=gather_ms)
        self._on_records, self._on_failure = on_records, on_failure
        self._caught_up = asyncio.Event()
        self._start: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._silent = False

    @property
    def positions(self) -> dict[int, int]:
        """Next offset per partition."""
        return dict(self._cursor.positions)

    async def start(self, offsets: Mapping[int, int] | None = None) -> None:
        """Begins in the background; does not wait for a broker.

        offsets: by partition, where to begin instead of with the first record. Where the log does not reach back or on to there,
        it begins with the first, and says so.
        """
        self._start = dict(offsets or {})
        self._task = asyncio.create_task(self._follow(), name=f"follow {self._cursor.topic}")
        self._task.add_done_callback(self._ended)

    async def caught_up(self) -> None:
        """Returns once `on_records` has had everything that was in the log when the topic was opened."""
        await self._or_failure(self._caught_up.wait())

    async def join(self) -> None:
        """Returns after stop(); raises what ended the follower otherwise."""
        assert self._task is not None, "start() comes first"
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._cursor.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if (
            self._on_failure is not None
            and not task.cancelled()
            and (failure := task.exception()) is not None
        ):
            self._on_failure(failure)

    async def _or_failure(self, awaitable: Any) -> None:
        assert self._task is not None, "start() comes first"
        waiter = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait([waiter, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not waiter.done():
                waiter.cancel()
        if not self._caught_up.is_set():
            self._task.result()
            raise asyncio.CancelledError(f"the follower of {self._cursor.topic} was stopped")

    async def _follow(self) -> None:
        await self._connected()
        checked_s = time.monotonic()
        while True:
            try:
                records = await self._cursor.poll(max_records=5000)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaConnectionError)):
                    raise
                self._say_silent()
                await asyncio.sleep(RETRY_S)
                continue
            if records:
                await self._on_records(records)
            if time.monotonic() - checked_s > TOPIC_CHECK_S:
                checked_s = time.monotonic()
                try:  # without a broker aiokafka raises a bare KafkaError here
                    await self._take_new_partitions()
                except KafkaError:
                    self._say_silent()
            if not self._caught_up.is_set() and self._cursor.complete:
                self._caught_up.set()
                log.info("%s read to its end: %s", self._cursor.topic, self._cursor.positions)
            self._watch_answers()

    async def _connected(self) -> None:
        said = False
        while True:
            try:
                await self._cursor.connect()
                break
            except (KafkaError, OSError):
                self._say_silent()
                await asyncio.sleep(RETRY_S)
        while True:
            try:
                if await self._cursor.open(await self._there() if self._start else None):
                    return
                if not said:
                    log.warning("topic %s does not exist yet: waiting for it", self._cursor.topic)
                    said = True
            except (KafkaError, OSError):
                self._say_silent()
            await asyncio.sleep(RETRY_S)

    async def _there(self) -> dict[int, int]:
        """Of the offsets to begin at those that the log has."""
        topic, there = self._cursor.topic, {}
        for partition, (first, end) in (await self._cursor.extent()).items():
            wanted = self._start.get(partition, first)
            if first <= wanted <= end:
                there[partition] = wanted
            elif wanted < first:
                log.warning(
                    "%s/%d begins at %d: the %d records before it, from %d on, are gone",
                    topic, partition, first, first - wanted, wanted,
                )  # fmt: skip
            else:
                log.warning(
                    "%s/%d ends at %d, before %d: it is another log by now, read from its beginning",
                    topic, partition, end, wanted,
                )  # fmt: skip
        return there

    async def _take_new_partitions(self) -> None:
        if set(await self._cursor.partitions()) - set(self._cursor.positions):
            await self._cursor.open()

    def _watch_answers(self) -> None:
        answered_s = max((self._cursor.answered_s(p) for p in self._cursor.positions), default=0.0)
        if answered_s and time.time() - answered_s > SILENCE_S:
            self._say_silent()
        elif self._silent:
            self._silent = False
            log.info("%s is followed again", self._cursor.topic)

    def _say_silent(self) -> None:
        if not self._silent:
            self._silent = True
            log.warning("no broker answers for %s: waiting, the positions are kept", self._cursor.topic)
