"""What the demo found, on the screen and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamer.cli.demo.judging import SOON, Quality
from streamer.core.protocol import Profile, Recommendations
from streamer.datasets import Interaction

NAMES = {"stream": "Headwater's stream", "item_knn": "item-kNN that learns along", "popularity": "popularity"}
SHOWN_EVENTS = 5


@dataclass(frozen=True)
class Person:
    """One user as the demo ends: last events, oldest first, and the two outputs."""

    events: Sequence[Interaction]
    profile: Profile
    recommendations: Recommendations


@dataclass(frozen=True)
class Report:
    """Everything that is reported; `latency_ms` are single events' latencies, `worker_rss_mb` is a peak in 10^6 bytes."""

    broker: str
    model_version: str
    events: int
    events_per_s: float
    latency_ms: Sequence[float]
    latency_rate: float
    quality: Quality
    dead_letters: int
    worker_rss_mb: float
    person: Person
    titles: Mapping[str, str]

    def latency(self, percent: float) -> float:
        """Percentile in ms, NaN without a measurement."""
        return float(np.percentile(self.latency_ms, percent)) if len(self.latency_ms) else math.nan


def to_json(report: Report) -> bytes:
    """The report's stable form; a figure that could not be measured is null."""
    figures: dict[str, Any] = {
        "events": report.events,
        "events_per_s": round(report.events_per_s, 1),
        "latency_ms": {"p50": _figure(report.latency(50), 2), "p99": _figure(report.latency(99), 2)},
        "hit_rate_at_10": _figures(report.quality.hit_rate_at_10),
        "ndcg_at_10": _figures(report.quality.ndcg_at_10),
        "dead_letters": report.dead_letters,
        "worker_rss_mb": round(report.worker_rss_mb, 1),
        "model_version": report.model_version,
        "broker": report.broker,
        "events_soon_after_same_user": _figure(report.quality.follows_soon, 4),
        "events_of_users_unseen_in_training": _figure(report.quality.unseen_users, 4),
    }
    return msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n"


def _figure(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _figures(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _figure(values[name], 4) for name in ("stream", "popularity", "item_knn")}


def write_json(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_json(report))


def show(report: Report, console: Console) -> None:
    """The report for a reader."""
    console.print()
    console.rule("[bold]Headwater, measured on this machine", align="left")
    console.print(Padding(_speed(report), (1, 2, 0, 2)))
    console.print(Padding(_quality(report), (1, 2, 0, 2)))
    console.print(Padding(_context(report), (1, 2, 0, 2)))
    console.print(Padding(_person(report), (1, 2, 1, 2)))


def _speed(report: Report) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(
        "throughput", f"[bold]{report.events_per_s:,.0f}[/bold] events/s", "at full speed, refresh=batch"
    )
    table.add_row(
        "event → recommendation",
        f"p50 [bold]{report.latency(50):.0f}[/bold] ms, p99 [bold]{report.latency(99):.0f}[/bold] ms",
        f"at {report.latency_rate:.0f} events/s, refresh=event",
    )
    table.add_row("worker's peak memory", f"[bold]{report.worker_rss_mb:,.0f}[/bold] MB", "one process")
    style = "bold red" if report.dead_letters else "bold"
    table.add_row("dead letters", f"[{style}]{report.dead_letters}[/{style}]", f"of {report.events:,} events")
    table.columns[2].style = "dim"
    return table


def _quality(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim")
    table.add_column("each event judged by the list published before it")
    table.add_column("hit-rate@10", justify="right")
    table.add_column("NDCG@10", justify="right")
    quality = report.quality
    best = max(quality.ndcg_at_10, key=lambda name: quality.ndcg_at_10[name])
    for name, shown in NAMES.items():
        style = "bold green" if name == best else ""
        table.add_row(
            shown, f"{quality.hit_rate_at_10[name]:.3f}", f"{quality.ndcg_at_10[name]:.3f}", style=style
        )
    return table


def _context(report: Report) -> Text:
    quality = report.quality
    return Text.assemble(
        "Why streaming: ",
        (f"{quality.follows_soon:.0%}", "bold"),
        f" of these {report.events:,} events come within {SOON} events of the same user's last one, and ",
        (f"{quality.unseen_users:.0%}", "bold"),
        " belong to users that training never saw. ",
        (f"Model {report.model_version} on {report.broker}.", "dim"),
    )


def _person(report: Report) -> RenderableType:
    person, titles = report.person, report.titles
    return Group(
        Text.assemble("User ", (person.recommendations.user_id, "bold cyan"), ", as the demo ends"),
        Padding(_events(person.events[-SHOWN_EVENTS:], titles), (0, 0, 0, 2)),
        Padding(_profile(person.profile), (0, 0, 1, 2)),
        Padding(_top(person.recommendations, titles), (0, 0, 0, 2)),
    )


def _events(events: Sequence[Interaction], titles: Mapping[str, str]) -> Text:
    line = Text("did ", style="dim")
    for number, event in enumerate(events):
        line.append(" → " if number else "", style="dim")
        line.append(titles.get(event.item_id, event.item_id), style="default")
        line.append(f" {event.type} {event.value:g}", style="yellow")
    return line


def _profile(profile: Profile) -> Text:
    line = Text("likes ", style="dim")
    labels = profile.interests.get("short_term") or profile.interests.get("long_term") or []
    line.append(
        ", ".join(f"{label.label} {label.p:.0%}" for label in labels) or "nothing yet", style="default"
    )
    for window, counts in profile.activity.items():
        if counts:
            line.append(f"  {window}: ", style="dim")
            line.append(", ".join(f"{n} {kind}" for kind, n in counts.items()), style="default")
    return line


def _top(recommendations: Recommendations, titles: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for rank, item in enumerate(recommendations.items, 1):
        because = "" if item.because is None else f"because of {titles.get(item.because, item.because)}"
        table.add_row(
            Text(f"{rank:>2}", style="dim"),
            Text(titles.get(item.item_id, item.item_id), style="bold"),
            Text(because, style="dim"),
        )
    return table
