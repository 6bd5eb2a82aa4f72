"""Starts Recommend.java, the job in Kafka Streams: its jars by jgo, its classes by the javac of any JDK."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from streamer.transport import kafka_jars

SOURCE = Path(__file__).with_name("Recommend.java")
COORDINATES = (
    f"org.apache.kafka:kafka-streams:{kafka_jars.VERSION}",
    "com.microsoft.onnxruntime:onnxruntime:1.29.0",
    "org.slf4j:slf4j-nop:1.7.36",
)
OLDEST_JDK = 17
OPTIONS = ("-XX:+UseSerialGC", "-Xms512m", "-Xmx1g")


def missing() -> str | None:
    """Why it cannot be had here."""
    try:
        javac(), jars()
    except LookupError as error:
        return str(error)
    return None


@cache
def javac() -> Path:
    """Of JAVA_HOME or on the PATH. Raises LookupError."""
    homes = [Path(home, "bin", "javac") for home in [os.environ.get("JAVA_HOME")] if home]
    found = shutil.which("javac")
    for path in [*homes, *([Path(found)] if found else [])]:
        if path.exists() and kafka_jars.java_version(path.with_name("java")) >= OLDEST_JDK:
            return path
    raise LookupError(f"there is no JDK {OLDEST_JDK} or newer (javac) in JAVA_HOME or on the PATH")


@cache
def jars() -> list[Path]:
    """Raises LookupError."""
    try:
        import jgo

        return list(jgo.build("+".join(COORDINATES)).all_jars)
    except Exception as error:  # whatever the registry, the network or the disk can do
        raise LookupError(f"its jars cannot be fetched ({type(error).__name__}: {error})") from error


def command(folder: Path) -> list[str]:
    """What runs it; its classes go to `folder`. Raises RuntimeError when they do not compile."""
    path = os.pathsep.join(map(str, jars()))
    if not list(folder.glob("*.class")):
        done = subprocess.run(
            [str(javac()), "-cp", path, "-d", str(folder), str(SOURCE)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr[-3000:]}")
    return [
        str(javac().with_name("java")),
        *OPTIONS,
        "-cp",
        os.pathsep.join([str(folder), path]),
        "Recommend",
    ]
