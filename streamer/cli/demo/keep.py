"""What `headwater demo --keep` leaves running: where it is written down, how to use it, and how it is stopped."""

from __future__ import annotations

import atexit
import shutil
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from streamer.cli.demo.processes import Child, end_groups, group_alive
from streamer.cli.demo.report import Report
from streamer.settings import Settings
from streamer.transport.local_broker import LocalBroker

KCAT_PARTITIONER = {"murmur2": "murmur2_random", "crc32": "consistent_random", "off": "murmur2_random"}
"""librdkafka's name for each value of HEADWATER_PARTITIONER."""


class Kept(msgspec.Struct, frozen=True):
    """A demo left running. Process groups, the one to be stopped first in front."""

    folder: str
    brokers: str
    groups: list[int]


def _register(folder: Path) -> Path:
    return folder / "kept.json"


def kept_demos(folder: Path) -> list[Kept]:
    """Every demo that was left running and not stopped since."""
    try:
        return msgspec.json.decode(_register(folder).read_bytes(), type=list[Kept])
    except (FileNotFoundError, msgspec.MsgspecError):
        return []


def still_running(folder: Path) -> bool:
    return any(group_alive(group) for demo in kept_demos(folder) for group in demo.groups)


def is_kept(folder: Path, run_folder: Path) -> bool:
    return any(demo.folder == str(run_folder) for demo in kept_demos(folder))


def stop_all(folder: Path) -> int:
    """Stop what was left running and remove its folders; returns how many demos there were."""
    demos = kept_demos(folder)
    for demo in demos:
        end_groups(demo.groups)
        shutil.rmtree(demo.folder, ignore_errors=True)
    _register(folder).unlink(missing_ok=True)
    return len(demos)


def leave_running(
    folder: Path,
    run_folder: Path,
    broker: LocalBroker,
    worker: Child,
    settings: Settings,
    report: Report,
    console: Console,
) -> None:
    """Write down what stays, take it out of our own exit's way, and say how to use and to stop it."""
    assert broker.pid is not None, "the broker runs"
    kept = Kept(str(run_folder), broker.address, [worker.pid, broker.pid])
    _register(folder).write_bytes(msgspec.json.encode([*kept_demos(folder), kept]))
    detach(broker)
    console.rule("[bold]still running", align="left")
    for comment, line in instructions(settings, report, folder):
        console.print(Text.assemble(("  # " + comment, "dim")))
        console.print(Text("  " + line), soft_wrap=True)


def detach(broker: LocalBroker) -> None:
    """Let the broker outlive this process, which it would otherwise be ended with."""
    atexit.unregister(broker._at_exit)


def instructions(settings: Settings, report: Report, folder: Path) -> list[tuple[str, str]]:
    """(what it does, command line) pairs. kcat must be told the partitioner, else its events are dead letters."""
    user = report.person.recommendations.user_id
    item = report.person.recommendations.items[0].item_id if report.person.recommendations.items else "1"
    event = (
        f'{{"event_id": "by-hand-1", "user_id": "{user}", "item_id": "{item}", "type": "rating", '
        f'"value": 5, "timestamp_ms": {time.time_ns() // 1_000_000}}}'
    )
    kcat = f"kcat -b {settings.brokers}"
    partitioner = f"-X partitioner={KCAT_PARTITIONER[settings.partitioner]}"
    here = f"HEADWATER_BROKERS={settings.brokers} {sys.executable} -m streamer"
    stop = f"HEADWATER_CACHE_DIR={folder.parent} {sys.executable} -m streamer demo --stop"
    return [
        ("recommendations as they come", f"{kcat} -C -t {settings.topic('recommendations')} -o end"),
        (
            f"an event of user {user}, by hand",
            f"echo '{event}' | {kcat} -P -t {settings.topic('events')} -k {user} {partitioner}",
        ),
        ("profiles", f"{kcat} -C -t {settings.topic('profiles')} -o beginning -e"),
        (
            "the same with titles, without kcat",
            f"{here} consume recommendations --user {user} --titles --follow",
        ),
        ("what the worker keeps about the user", f"{here} inspect user {user} --from changelog"),
        ("the worker's metrics", f"curl http://{settings.metrics_host}:{settings.metrics_port}/metrics"),
        ("stop broker and worker", stop),
    ]
