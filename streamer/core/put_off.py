"""Whose refresh was put off while the worker lagged, and when it has to be made up for.

State is never put off, only its publication. Until a partition's refreshes are made, none of the runs that caused them counts
as done: a crash replays those events, and their users are refreshed then.
"""

from __future__ import annotations

from collections.abc import Iterable


class PutOff:
    """Users per partition. `limit_s`: how stale a published record may be; 0 = never put off."""

    def __init__(self, limit_s: float, most_users: int) -> None:
        """most_users: with more than these waiting, the refresh is due whatever their age: it bounds what one costs."""
        self._limit_s, self._most_users = limit_s, most_users
        self._users: dict[int, dict[bytes, None]] = {}
        self._since_s: float | None = None

    def __len__(self) -> int:
        """Users waiting."""
        return sum(map(len, self._users.values()))

    def may(self, now_s: float) -> bool:
        """Whether refreshes may be put off now."""
        return self._limit_s > 0 and not self.due(now_s)

    def due(self, now_s: float) -> bool:
        """Whether what was put off has to be made up for."""
        return self._since_s is not None and (
            now_s >= self._since_s + self._limit_s or len(self) >= self._most_users
        )

    def due_at_s(self) -> float | None:
        """When it will be due at the latest; None while nobody waits."""
        return None if self._since_s is None else self._since_s + self._limit_s

    def add(self, partition: int, users: Iterable[bytes], now_s: float) -> None:
        self._users.setdefault(partition, {}).update(dict.fromkeys(users))
        if self._since_s is None:
            self._since_s = now_s

    def take(self, refreshed: Iterable[tuple[int, Iterable[bytes]]] = ()) -> dict[int, list[bytes]]:
        """Everybody who waits, by partition; those `refreshed` meanwhile (partition, users) need no other refresh.

        A partition of whom all were refreshed comes with an empty list: its runs are done.
        """
        waiting, self._users, self._since_s = self._users, {}, None
        for partition, users in refreshed:
            if partition in waiting:
                for user in users:
                    waiting[partition].pop(user, None)
        return {partition: list(users) for partition, users in waiting.items()}
