"""What streaming buys: the same lists, served with a delay between an event and the state that knows of it."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.judging import NONE, ranks_in
from streamer.core.evaluation import Ranks

if TYPE_CHECKING:
    from benchmarks.quality.prequential import Judged

DELAYS_MS = {"0s": 0, "1min": 60_000, "1h": 3_600_000, "1d": 86_400_000}


def curve(judged: Judged) -> tuple[dict[str, Ranks], NDArray[np.int64]]:
    """Ranks of the judged events by delay, and the places of these events among the judged ones.

    With a delay d an event at time t is judged by the list published after its user's last event at or before t - d, or by
    what a stranger got at that time; or by a list that was asked for since, if the user's events before the request lay at
    least d before it, so that they were known. Only events count of which the lists at every delay are known: those whose user
    has no event of the training part within the longest delay before them.
    """
    log, cut = judged.log, judged.cut
    longest = max(DELAYS_MS.values())
    times = log.time_ms
    last_before = np.full(log.users, -(1 << 62), np.int64)
    np.maximum.at(last_before, log.user[:cut], times[:cut])
    rows = judged.rows
    usable = np.flatnonzero(last_before[log.user[rows]] <= times[rows] - longest)
    own = _Own(judged)
    ranks = {}
    for name, delay_ms in DELAYS_MS.items():
        lists = (
            np.stack([own.at(int(row), delay_ms) for row in rows[usable].tolist()])
            if len(usable)
            else own.none
        )
        ranks[name] = ranks_in(lists, log.item[rows[usable]])
    return ranks, usable


class _ByUser:
    """Rows of the log for which `there` (m,) says yes, by user, ascending."""

    def __init__(self, judged: Judged, there: NDArray[np.bool_]) -> None:
        rows, user = np.flatnonzero(there) + judged.cut, judged.log.user
        self._rows = rows[np.argsort(user[rows], kind="stable")]
        self._first = np.searchsorted(user[self._rows], np.arange(judged.log.users + 1))

    def of(self, user: int) -> NDArray[np.int64]:
        return self._rows[self._first[user] : self._first[user + 1]]


class _Own:
    """Lists by user and time."""

    def __init__(self, judged: Judged) -> None:
        self._judged = judged
        self._listed, self._requested = (_ByUser(judged, each) for each in (judged.listed, judged.requested))
        self.none = np.zeros((0, judged.lists.shape[1]), np.int32)

    def at(self, row: int, delay_ms: int) -> NDArray[np.int32]:
        judged = self._judged
        log = judged.log
        user, at_most = int(log.user[row]), int(log.time_ms[row]) - delay_ms
        rows = self._listed.of(user)
        rows = rows[: np.searchsorted(rows, row)]
        if delay_ms:
            rows = rows[: np.searchsorted(log.time_ms[rows], at_most, side="right")]
        asked = self._requested.of(user)
        asked = asked[(asked <= row) & (asked > (rows[-1] if len(rows) else NONE))]
        asked = asked[judged.since_ms[asked - judged.cut] >= delay_ms]
        if len(asked):
            wanted: NDArray[np.int32] = judged.requested_lists[asked[-1] - judged.cut]
            return wanted
        if len(rows):
            found: NDArray[np.int32] = judged.lists[rows[-1] - judged.cut]
            return found
        if user in judged.warm_lists:
            return judged.warm_lists[user]
        by_time, by_row = (judged.stranger_times, at_most), (judged.stranger_rows, row)
        made, until = by_time if delay_ms else by_row
        return judged.stranger_lists[max(bisect_right(made, until) - 1, 0)]
