"""Processes that the demo starts, and how they end: always, with everything they started themselves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from streamer.cli.demo.steps import DemoFailed
from streamer.settings import Settings

STOP_TIMEOUT_S = 25.0
TAIL_LINES = 25


def headwater(*arguments: str) -> list[str]:
    """Command line of a `headwater` subcommand under this interpreter."""
    return [sys.executable, "-m", "streamer", *arguments]


def environment_of(settings: Settings) -> Mapping[str, str]:
    """Environment of a child that is to load exactly these settings, whatever this process was given."""
    inherited = {name: value for name, value in os.environ.items() if name not in settings.environment()}
    return {**inherited, **settings.environment()}


class Child:
    """A process in a group of its own, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], settings: Settings, log: Path) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment_of(settings)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._peak_mb = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises DemoFailed when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise self.failure(f"the {self.name} ended with exit code {code}")

    def failure(self, what: str) -> DemoFailed:
        """An error that shows the end of the log."""
        return DemoFailed(f"{what}; its log is {self.log}", tail(self.log))

    def peak_rss_mb(self) -> float:
        """Largest resident memory so far in MB (10^6 bytes); of a process that has ended, as last asked before."""
        self._peak_mb = max(self._peak_mb, peak_rss_mb(self.pid))
        return self._peak_mb

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whatever of the group is left."""
        if self._process.poll() is None:
            self.peak_rss_mb()
            stop_group(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        stop_group(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_to_end(name: str, command: Sequence[str], settings: Settings, log: Path | None = None) -> None:
    """Run a process in a group of its own until it ends; its stderr is ours, or it writes to `log`.

    Raises DemoFailed when its exit code is not 0. An interrupt ends the whole group.
    """
    out = log.open("ab") if log is not None else None
    process = subprocess.Popen(
        list(command),
        env=dict(environment_of(settings)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if out is None else out,
        stderr=None if out is None else subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        code = process.wait()
    finally:
        stop_group(process.pid, signal.SIGKILL)
        process.wait()
        if out is not None:
            out.close()
    if code != 0:
        raise DemoFailed(f"{name} ended with exit code {code}", tail(log) if log is not None else "")


def stop_group(pid: int, how: signal.Signals) -> None:
    """Signal the process group that `pid` leads; nothing happens when nobody of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


def group_alive(pid: int) -> bool:
    """Whether anybody of the group is left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_groups(pids: Sequence[int]) -> None:
    """Stop process groups that are not our children: in order, then hard."""
    for pid in pids:
        stop_group(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while group_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        stop_group(pid, signal.SIGKILL)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def peak_rss_mb(pid: int) -> float:
    """VmHWM where /proc is, elsewhere the resident memory of now; 0 when the process is gone."""
    status = Path(f"/proc/{pid}/status")
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found.group(1)) * 1024 / 1e6
    if Path("/proc/self/status").exists():
        return 0.0
    shown = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return int(shown.strip() or 0) * 1024 / 1e6


def read_metric(port: int, name: str) -> float | None:
    """Value of an unlabelled metric that a process of this machine serves; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else None
