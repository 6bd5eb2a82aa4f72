"""How the log is written: text or JSON lines, rationed, and an absent broker reported once.

While the broker is away aiokafka logs thousands of lines a second. So a line of code may speak once a second, and lines of
aiokafka are held back altogether from the moment that no broker can be reached until one can be again.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import IO

log = logging.getLogger("headwater.broker")

INTERVAL_S = 1.0
PROBE_INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 2.0
TEXT_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
CHATTY = ("aiokafka", "faust", "mode", "urllib3", "streamer.transport")
"""Whose INFO lines are of no use to an operator (Faust logs under the modules that subclass it); DEBUG lets them speak."""


def install(level: str, fmt: str, brokers: str = "", stream: IO[str] | None = None) -> logging.Handler:
    """Make one handler the root logger's only one.

    brokers: host:port list that a long-running command depends on. Without it aiokafka's complaints are held back:
    a short command ends with a sentence of its own.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if fmt == "json" else logging.Formatter(TEXT_FORMAT))
    if brokers:
        handler.addFilter(BrokerWatch(lambda: reachable(brokers.split(","))))
    handler.addFilter(Ration())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in CHATTY:
        quiet = logging.CRITICAL if name == "aiokafka" and not brokers else logging.WARNING
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else quiet)
    return handler


class JsonLines(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and `error` with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        milliseconds = f"{record.created % 1:.3f}"[1:]
        shown = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(record.created))) + milliseconds + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            shown["error"] = self.formatException(record.exc_info)
        return json.dumps(shown, ensure_ascii=False)


class Ration(logging.Filter):
    """At most one record per (logger, line of code) and interval; the next one says how many were suppressed."""

    def __init__(self, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s, self._clock = interval_s, clock
        self._last: dict[tuple[str, str, int], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.CRITICAL:
            return True
        where, now = (record.name, record.pathname, record.lineno), self._clock()
        with self._lock:
            spoke, suppressed = self._last.get(where, (-self._interval_s, 0))
            if now - spoke < self._interval_s:
                self._last[where] = (spoke, suppressed + 1)
                return False
            self._last[where] = (now, 0)
        if suppressed:
            record.msg = f"{record.getMessage()} ({suppressed} more like it suppressed)"
            record.args = None
        return True


class BrokerWatch(logging.Filter):
    """Says "broker away" and "broker back" once each, in place of what aiokafka has to say about it.

    reached: whether any broker can be reached; called in a thread of its own, only after aiokafka complained.
    """

    def __init__(self, reached: Callable[[], bool], interval_s: float = PROBE_INTERVAL_S) -> None:
        super().__init__()
        self._reached, self._interval_s = reached, interval_s
        self._lock = threading.Lock()
        self._away = self._probing = False
        self._held_back = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka") or record.levelno < logging.WARNING:
            return True
        with self._lock:
            if self._away:
                self._held_back += 1
                return False
            if not self._probing:
                self._probing = True
                threading.Thread(target=self._probe, name="broker-watch", daemon=True).start()
        return True

    def _probe(self) -> None:
        """Ends at once when a broker can be reached; otherwise stays until one can."""
        try:
            if self._reached():
                return
            left = time.monotonic()
            with self._lock:
                self._away, self._held_back = True, 0
            log.warning("broker away: nothing answers; waiting for it")
            while not self._reached():
                time.sleep(self._interval_s)
            with self._lock:
                self._away, held_back = False, self._held_back
            away_s = time.monotonic() - left
            log.warning("broker back after %.1f s (%d lines of aiokafka held back)", away_s, held_back)
        finally:
            with self._lock:
                self._probing = False


def reachable(addresses: Iterable[str]) -> bool:
    """Whether any host:port accepts a connection."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        except OSError:
            continue
        return True
    return False
