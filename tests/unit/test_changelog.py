"""The fence against zombies: the offsets of our own changelog acknowledgements must follow one another."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any

import pytest

from streamer.core.state_records import SCHEMA
from streamer.errors import ForeignWrite
from streamer.transport.batch_producer import Sent
from streamer.transport.changelog import Changelog

P = 2


def head(applied: int, body: bytes = b"") -> bytes:
    return struct.pack("<BBq", SCHEMA, ord("h"), applied) + body


class Log:
    """One changelog partition that others may write to, and the producer that appends to it."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None]] = []
        self.answers_duplicate = False

    async def send(
        self, topic: str, partition: int, pairs: Any, groups: Any = (), *, compression: str
    ) -> list[Sent]:
        base = len(self.records)
        self.records += [*pairs, *(record for group in groups for record in group)]
        return [Sent(-1 if self.answers_duplicate else base, len(self.records) - base)]


class Store:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.regressed: dict[int, set[bytes]] = defaultdict(set)

    def read(self, partition: int, key: bytes) -> bytes | None:
        return self.values.get(key)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def changelog(log: Log, store: Store, monkeypatch: pytest.MonkeyPatch) -> Changelog:
    anything: Any = store
    producer: Any = log
    made = Changelog("users-changelog", anything, producer)

    async def read(partition: int, start: int, end: int | None = None) -> list[Any]:
        stop = len(log.records) if end is None else end
        return [(offset, *log.records[offset]) for offset in range(start, stop)]

    monkeypatch.setattr(made, "_read_all", read)
    await made.recovered(P, 0)
    return made


async def test_contiguous_appends_tell_how_far_local_state_covers_the_log(changelog: Changelog) -> None:
    assert await changelog.append(P, [], [[(b"pu\xffs\0", head(1)), (b"hu", head(1))]]) == 1
    assert await changelog.append(P, [(b"hu", head(2)), (b"hv", head(3))]) == 3


async def test_whoever_is_behind_a_foreign_record_crashes(log: Log, changelog: Changelog) -> None:
    await changelog.append(P, [(b"hu", head(1))])
    log.records.append((b"hu", head(9)))  # the new owner's
    with pytest.raises(ForeignWrite, match="newer than ours"):
        await changelog.append(P, [(b"hu", head(2))])


async def test_whoever_is_ahead_sends_state_and_outputs_again(
    log: Log, store: Store, changelog: Changelog
) -> None:
    republished: list[list[bytes]] = []

    async def republish(partition: int, keys: list[bytes]) -> None:
        republished.append(keys)

    changelog.republish = republish
    store.values = {b"hu": head(7), b"hv": head(8)}
    await changelog.append(P, [(b"hu", head(7))])
    log.records.append((b"hu", head(3, b"zombie")))
    assert await changelog.append(P, [(b"hv", head(8))]) == 3
    assert log.records[-1] == (b"hu", head(7)), "the user's newest record is the log's last again"
    assert republished == [[b"hu"]]


async def test_a_repair_after_recovery(log: Log, store: Store, changelog: Changelog) -> None:
    """Recovery found that the log's last record of a key is not its newest."""
    store.values = {b"hu": head(7)}
    store.regressed[P].add(b"hu")
    log.records += [(b"hu", head(7)), (b"hu", head(6))]
    await changelog.recovered(P, 2)
    assert log.records[2:] == [(b"hu", head(7))]
    assert await changelog.append(P, [(b"hv", head(8))]) == 3


async def test_an_acknowledgement_without_offset_is_looked_up(log: Log, changelog: Changelog) -> None:
    """'Duplicate sequence' means that the records are in the log, but no longer where."""
    log.answers_duplicate = True
    assert await changelog.append(P, [(b"hu", head(1)), (b"hv", head(1))]) == 1
    log.answers_duplicate = False
    assert await changelog.append(P, [(b"hu", head(2))]) == 2
