"""Decoded runs of several partitions as one batch of events, and its results apart by partition again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_fields import EventFields
from streamer.core.stored import Stored
from streamer.core.user_state import Changes
from streamer.transport.batch_producer import Outgoing
from streamer.transport.sending import Delivery


@dataclass(slots=True)
class DecodedRun:
    """The good events and requests of a run, and the letters to bury."""

    topic: str
    fields: EventFields
    keys: list[bytes]
    offsets: NDArray[np.int64]
    record_times_ms: NDArray[np.int64]
    text_at: list[int] = field(default_factory=list)
    """Positions of the events that carry a text."""
    texts: list[str] = field(default_factory=list)
    """Theirs, until they are encoded."""
    text_content: np.ndarray | None = None
    """(len(text_at), 384) f32"""
    dead_letters: list[Outgoing] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """Events and requests of several partitions in one list; `user` indexes `users` (distinct) and `partitions`."""

    users: list[bytes] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    topics: dict[int, str] = field(default_factory=dict)
    fields: list[EventFields] = field(default_factory=list)
    user: list[int] = field(default_factory=list)
    offsets: list[NDArray[np.int64]] = field(default_factory=list)
    record_times_ms: list[NDArray[np.int64]] = field(default_factory=list)
    text_at: list[int] = field(default_factory=list)
    text_content: list[np.ndarray] = field(default_factory=list)
    index: dict[bytes, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.user)

    @classmethod
    def join(cls, work: dict[int, list[DecodedRun]]) -> list[Batch]:
        """One batch; one per partition where a user is on several (possible only without an agreed partitioner)."""
        batch = cls()
        for partition, runs in work.items():
            if not batch._add(partition, runs):
                return [batch for partition, runs in work.items() for batch in cls.join({partition: runs})]
        return [batch]

    def _add(self, partition: int, runs: list[DecodedRun]) -> bool:
        index, before = self.index, len(self.users)
        for run in runs:
            self.topics[partition] = run.topic
            base = self.size
            new = [key for key in dict.fromkeys(run.keys) if key not in index]
            index.update(zip(new, range(len(index), len(index) + len(new)), strict=True))
            self.users += new
            self.partitions += [partition] * len(new)
            numbers = list(map(index.__getitem__, run.keys))
            if min(numbers, default=before) < before:
                return False
            self.user += numbers
            self.fields.append(run.fields)
            self.offsets.append(run.offsets)
            self.record_times_ms.append(run.record_times_ms)
            self.text_at += [base + i for i in run.text_at]
            if run.text_content is not None:
                self.text_content.append(run.text_content)
        return True

    def by_partition(self) -> Iterator[tuple[int, list[bytes]]]:
        """Each partition's users."""
        partition = np.array(self.partitions, np.int64)
        for each in self.topics:
            yield each, [self.users[row] for row in np.flatnonzero(partition == each).tolist()]

    def deliver(self, changes: Changes, deliveries: dict[int, Delivery]) -> None:
        """State records, each to the partition of its user."""
        partition = np.array(self.partitions, np.int64)[changes.users]
        alone = np.ones(len(changes.users), bool)
        alone[np.searchsorted(changes.users, list(changes.before))] = False
        for each in self.topics:
            heads = np.flatnonzero(alone & (partition == each))
            deliveries[each].heads += [changes.heads[at] for at in heads.tolist()]
        for at in np.flatnonzero(~alone).tolist():
            group = [*changes.before[int(changes.users[at])], changes.heads[at]]
            deliveries[int(partition[at])].groups.append(group)

    def readers(self, of_partition: Callable[[int], Stored]) -> list[Stored]:
        """What is stored of each user's partition."""
        readers = {partition: of_partition(partition) for partition in set(self.partitions)}
        return [readers[partition] for partition in self.partitions]
