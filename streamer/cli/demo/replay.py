"""Events go in, recommendations come out: both seen by one process with one clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streamer.cli.demo.steps import DemoFailed
from streamer.cli.produce import Sent
from streamer.core.protocol import Recommendations
from streamer.settings import Settings
from streamer.transport.log_reader import LogFollower, LogRecord

STALL_S = 60.0
"""The worker may take this long between two outputs before the demo gives up."""

_decoder = msgspec.json.Decoder(Recommendations)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A recommendation as it came in. `at_s`: time.monotonic of its receipt; `written_ms`: Kafka's timestamp."""

    at_s: float
    written_ms: int
    output: Recommendations


@dataclass
class Outputs:
    """Everything that came on `recommendations`, and how far each user's outputs reach."""

    arrivals: list[Arrival] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    """User → highest source offset of an output."""
    moved_s: float = field(default_factory=time.monotonic)

    async def take(self, records: list[LogRecord]) -> None:
        """For LogFollower."""
        at_s = self.moved_s = time.monotonic()
        for record in records:
            if record.value is not None:
                output = _decoder.decode(record.value)
                self.arrivals.append(Arrival(at_s, record.timestamp_ms, output))
                offset = output.source.offset
                if offset > self.reached.get(output.user_id, -1):
                    self.reached[output.user_id] = offset

    def missing(self, last: Mapping[str, int]) -> int:
        """How many users have no output yet that includes their last event."""
        return sum(self.reached.get(user, -1) < offset for user, offset in last.items())


class OutputWatch:
    """Follows `recommendations` while the `async with` block lasts."""

    def __init__(self, settings: Settings) -> None:
        self.outputs = Outputs()
        self._follower = LogFollower(
            settings.brokers, settings.topic("recommendations"), self.outputs.take, settings.kafka_options()
        )

    async def __aenter__(self) -> OutputWatch:
        await self._follower.start()
        await self._follower.caught_up()
        self.outputs.moved_s = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._follower.stop()

    async def covered(
        self,
        last: Mapping[str, int],
        check: Callable[[], None],
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Wait until every user's outputs reach their last event's offset.

        `check` raises when the worker is gone; `advance` hears how many outputs there are. Raises DemoFailed when
        nothing moves for STALL_S.
        """
        self.outputs.moved_s = time.monotonic()
        while missing := self.outputs.missing(last):
            check()
            advance(len(self.outputs.arrivals))
            if time.monotonic() - self.outputs.moved_s > STALL_S:
                raise DemoFailed(
                    f"the worker published nothing for {STALL_S:.0f} s, and {missing} of {len(last)} users still "
                    "lack the recommendations that include their last event"
                )
            await asyncio.sleep(0.05)
        advance(len(self.outputs.arrivals))


def last_offsets(users: Sequence[str], sent: Sequence[Sent]) -> dict[str, int]:
    """User → offset of the last event sent. A user's events lie in one partition, in the order of sending."""
    return {user: record.offset for user, record in zip(users, sent, strict=True)}


def latencies_ms(users: Sequence[str], sent: Sequence[Sent], arrivals: Sequence[Arrival]) -> list[float]:
    """From when each event was due until the first output that includes it was received.

    An open loop: an event that was sent late because its producer was held up still counts from when it was due.
    """
    by_user: dict[str, list[tuple[float, int]]] = {}
    first_due_s = min((record.due_s for record in sent), default=0.0)
    for arrival in arrivals:
        if arrival.at_s >= first_due_s:
            reach = (arrival.at_s, arrival.output.source.offset)
            by_user.setdefault(arrival.output.user_id, []).append(reach)
    found = []
    for user, record in zip(users, sent, strict=True):
        received = [at_s for at_s, offset in by_user.get(user, ()) if offset >= record.offset]
        if received:
            found.append((min(received) - record.due_s) * 1000.0)
    return found


def throughput(arrivals: Sequence[Arrival], events: int, ready_ms: int) -> float:
    """Events per second from when the worker was ready (epoch) until its last output was written; 0 without any."""
    last_ms = max((arrival.written_ms for arrival in arrivals), default=None)
    return 0.0 if last_ms is None else events / (max(last_ms - ready_ms, 1) / 1000.0)
