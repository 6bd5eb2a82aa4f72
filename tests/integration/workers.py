"""Real worker processes, started, killed and frozen by tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

READY = re.compile(r"ready: generation (\d+), partitions \[([\d, ]*)\]")
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


def wait_until(
    condition: Callable[[], T], timeout_s: float, what: str | Callable[[], str], every_s: float = 0.05
) -> T:
    """Poll until `condition()` is true and return its value; fail naming `what`, or what it says by then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what if isinstance(what, str) else what()}")


class WorkerProcess:
    """`headwater worker`, or another program that runs one (fault injection), with its own state folder and log."""

    def __init__(
        self, name: str, folder: Path, settings: dict[str, str], program: list[str] | None = None
    ) -> None:
        self.name, self.state_dir = name, folder / name
        self.log_path = folder / f"{name}.log"
        self._program = program or ["-m", "streamer", "worker"]
        self._settings = {
            "HEADWATER_METRICS_PORT": "0",
            **settings,
            "HEADWATER_STATE_DIR": str(self.state_dir),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    def start(self) -> WorkerProcess:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
        self._log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program],
                env={**clean, "PYTHONPATH": str(ROOT), **self._settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log_path.parent,
            )
        return self

    def log(self) -> str:
        """What this start of the process has logged."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def ready_count(self) -> int:
        return len(READY.findall(self.log()))

    def assigned(self) -> list[int] | None:
        """Partitions at the last 'ready'; None before the first."""
        found = READY.findall(self.log())
        return [int(p) for p in found[-1][1].split(",") if p.strip()] if found else None

    def wait_ready(self, times: int = 1, timeout_s: float = 60.0) -> WorkerProcess:
        def check() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(
                    f"{self.name} ended with {self.process.returncode}:\n{self.log()[-4000:]}"
                )
            return self.ready_count() >= times

        wait_until(
            check, timeout_s, lambda: f"{self.name} ready {times} times; its log ends:\n{self.log()[-3000:]}"
        )
        return self

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.alive:
            assert self.process is not None
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, frozen or not."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM: leave in order. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 40.0) -> int:
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"{self.name} did not end within {timeout_s:.0f} s:\n{self.log()[-4000:]}"
            ) from None

    def wipe(self) -> None:
        """Remove the state folder: RocksDB is gone, the changelog is what remains."""
        import shutil

        assert not self.alive
        shutil.rmtree(self.state_dir, ignore_errors=True)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.kill() if self.alive else None
