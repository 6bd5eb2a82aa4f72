"""Fetches that are sent no faster than batches are wanted.

A fetch is answered as soon as one record is there, so at a thousand events a second aiokafka makes hundreds of requests for one
or two records each, and every answer costs Faust and two event loops half a millisecond. Sent a little later, the same fetch
brings what has come for all partitions meanwhile. The broker's own means (`fetch.min.bytes`) would need to know how much that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from streamer.core.pace import Pace

Actions = tuple[list[Any], dict[Any, Any], float, bool, list[Any]]
"""Fetches to send, positions to look up, seconds until to ask again, whether metadata is stale, what else to wait for."""


class PacedFetches:
    """In place of aiokafka's `Fetcher._get_actions_per_node`: holds fetches back until the pace allows the next."""

    def __init__(self, actions: Callable[[Any], Actions], pace: Pace) -> None:
        self._actions, self._pace, self._sent_s = actions, pace, float("-inf")

    def __call__(self, assignment: Any) -> Actions:
        fetches, resets, timeout_s, stale, others = self._actions(assignment)
        if fetches:
            now_s = time.monotonic()
            wait_s = self._sent_s + self._pace.interval_s - now_s
            if wait_s > 0:
                return [], resets, min(timeout_s, wait_s), stale, others
            self._sent_s = now_s
        return fetches, resets, timeout_s, stale, others
