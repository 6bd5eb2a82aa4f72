"""The order of the demo's steps, and that everything started is stopped however it ends."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from streamer.cli.demo import keep, passes, prepare, report
from streamer.cli.demo.steps import DemoFailed, Screen
from streamer.errors import HeadwaterError
from streamer.settings import Settings
from streamer.transport.local_broker import free_port

SHORT_EVENTS, SHORT_EPOCHS = 1500, 2
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    data: Path | None
    light: bool
    report: Path | None
    keep: bool
    seed: int
    events: int | None
    training: tuple[str, ...]
    """Further arguments of `headwater train`."""

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        """`--short` is a default for --events and --epochs, and trains only once."""
        events = args.events if args.events is not None or not args.short else SHORT_EVENTS
        epochs = args.epochs if args.epochs is not None or not args.short else SHORT_EPOCHS
        training: tuple[str, ...] = () if epochs is None else ("--epochs", str(epochs))
        training += ("--no-refit",) if args.short else ()
        return cls(args.data, args.light, args.report, args.keep, args.seed, events, training)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """See streamer.cli.demo.run."""
    console = Console(highlight=False)
    _quiet_logs(settings)
    folder = settings.cache_dir.absolute() / "demo"
    signal.signal(signal.SIGTERM, _interrupt)
    if args.stop:
        with console.status("stopping"):
            stopped = keep.stop_all(folder)
        console.print(
            f"stopped {stopped} demo{'' if stopped == 1 else 's'}" if stopped else "no demo was left running"
        )
        return 0
    try:
        _conduct(Plan.of(args), settings, folder, Screen(console))
    except KeyboardInterrupt:
        console.print("interrupted: everything that was started is stopped", style="yellow")
        return EXIT_INTERRUPTED
    except HeadwaterError as error:
        _show_failure(error, console)
        return EXIT_FAILED
    return 0


def _conduct(plan: Plan, settings: Settings, folder: Path, screen: Screen) -> None:
    if keep.still_running(folder):
        screen.note("an earlier demo was kept and still runs: `headwater demo --stop` ends it")
    with _run_folder(folder) as run_folder, ExitStack() as started:
        try:
            _steps(plan, settings, folder, run_folder, started, screen)
        except BaseException:
            _finish_undisturbed()
            raise
        with screen.console.status("stopping what was started"):
            started.close()


def _steps(
    plan: Plan, settings: Settings, folder: Path, run_folder: Path, started: ExitStack, screen: Screen
) -> None:
    """All steps; what must be stopped is on `started`, unless it is to be kept."""
    started_s = time.monotonic()
    logs = run_folder / "logs"
    data = prepare.data(plan.data, settings.cache_dir.absolute(), plan.seed, plan.events, screen)
    broker = started.enter_context(prepare.broker(plan.light, run_folder / "broker", screen))
    main = _settings(settings, broker.address, run_folder)
    prepare.topics(main, screen)
    model = prepare.model(data, plan.seed, plan.training, folder / "models", main, screen)
    version = prepare.release(model, main, logs, screen)
    worker = started.enter_context(prepare.worker(main, logs / "worker.log"))
    prepare.catalogue(data.dataset.items, main, worker, screen)
    streamed = passes.stream(data, main, worker, screen)
    dead_letters, person = passes.last_look(data, streamed, main, screen)
    if not plan.keep:
        worker.stop()
    quality = passes.judged(data, streamed, screen)
    flat_out = _settings(main, broker.address, run_folder, "throughput-")
    speed = passes.flat_out(data, main, flat_out, logs / "worker-throughput.log", screen)
    found = report.Report(
        broker=broker.name,
        model_version=version,
        events=len(data.replayed),
        events_per_s=speed.events_per_s,
        latency_ms=streamed.latency_ms,
        latency_rate=passes.LATENCY_RATE,
        quality=quality,
        dead_letters=dead_letters,
        worker_rss_mb=max(worker.peak_rss_mb(), speed.worker_rss_mb),
        person=person,
        titles=data.titles,
    )
    report.show(found, screen.console)
    screen.console.print(f"the whole demo took {time.monotonic() - started_s:.0f} s", style="dim")
    if plan.report is not None:
        report.write_json(found, plan.report)
        screen.console.print(f"the report as JSON is in {plan.report}", style="dim")
    if plan.keep:
        keep.leave_running(folder, run_folder, broker, worker, main, found, screen.console)
        started.pop_all()  # closed by nobody: that is what --keep asks for


def _finish_undisturbed() -> None:
    """A second Ctrl-C must not leave half of it running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _settings(settings: Settings, brokers: str, run_folder: Path, prefix: str = "") -> Settings:
    """A worker's settings on our own broker: `prefix` separates topics, group and state of the two passes."""
    return replace(
        settings,
        brokers=brokers,
        security_protocol="PLAINTEXT",
        sasl_mechanism="",
        sasl_username="",
        sasl_password="",
        ssl_cafile=None,
        replication_factor=1,
        topic_prefix=prefix,
        state_dir=run_folder / f"{prefix}state",
        cache_dir=settings.cache_dir.absolute(),
        refresh="batch" if prefix else "event",
        exclude_seen=True,
        metrics_host="127.0.0.1",
        metrics_port=free_port(),
        log_format="text",
    )


@contextmanager
def _run_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder for broker, state and logs. It goes when all went well; after a failure the logs stay."""
    run_folder = folder / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    (run_folder / "logs").mkdir(parents=True)
    try:
        yield run_folder
    except BaseException:
        for part in run_folder.iterdir():
            if part.name != "logs":
                shutil.rmtree(part, ignore_errors=True)
        raise
    if not keep.is_kept(folder, run_folder):
        shutil.rmtree(run_folder, ignore_errors=True)


def _quiet_logs(settings: Settings) -> None:
    """The steps tell what happens; the clients' own log lines would only tear them apart."""
    if settings.log_level != "DEBUG":
        logging.getLogger().setLevel(logging.CRITICAL)


def _show_failure(error: HeadwaterError, console: Console) -> None:
    console.print()
    if isinstance(error, DemoFailed) and error.log_tail:
        console.print(Panel(Text(error.log_tail), title="the end of its log", border_style="red"))
    console.print(Text.assemble(("the demo failed: ", "bold red"), str(error)))


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
