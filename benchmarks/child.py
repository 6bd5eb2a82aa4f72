"""A process that a benchmark started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOG_TAIL = 3000
POLL_S = 0.1


@dataclass
class Child:
    """A process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def name(self) -> str:
        return self.log.stem

    def said(self, words: str) -> bool:
        """Whether its log holds `words`. Raises RuntimeError when it has ended without."""
        text = self.log.read_text(errors="replace")
        if words not in text:
            self.must_live()
        return words in text

    def must_live(self) -> None:
        """Raises RuntimeError when it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    def wait(
        self, done: Callable[[], bool], what: str, within_s: float = 120.0, every_s: float = POLL_S
    ) -> None:
        """Until `done`. Raises RuntimeError when it ends or the time runs out first."""
        deadline = time.monotonic() + within_s
        while not done():
            self.must_live()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come within {within_s:.0f} s:\n{self.tail()}")
            time.sleep(every_s)

    def cpu_s(self) -> float:
        """User and system time so far; NaN where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))

    def rss_mb(self) -> float:
        """Resident memory, 10^6 bytes; NaN where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
                pages = int(statm.read().split()[1])
        except (OSError, IndexError):
            return float("nan")
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def resident_mb(self) -> tuple[float, float]:
        """Resident memory of its own, and of files: libraries' code, which all processes share. NaN as above."""
        try:
            with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as rollup:
                kb = {words[0]: int(words[1]) for line in rollup if len(words := line.split()) == 3}
        except OSError:
            return float("nan"), float("nan")
        own = kb["Anonymous:"] * 1024 / 1e6
        return own, kb["Rss:"] * 1024 / 1e6 - own

    def stop(self, within_s: float = 60.0) -> None:
        """In order. Raises subprocess.TimeoutExpired when it does not end."""
        self.process.terminate()
        self.process.wait(within_s)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
