"""What a benchmark says: named figures with unit, goal and single runs, as JSON and as a table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

WIDTH = 130
"""Of the table in a file or pipe."""
SHOWN = 5
"""Runs in the table."""
ROOT = Path(__file__).resolve().parents[1]
COSTS = frozenset(
    {"s", "ms", "µs", "s/GB", "µs/event", "µs/user", "bytes", "bytes/event", "bytes/user", "MB", "MB/h"}
)
"""Units of which less is better: a goal in one of them is an upper bound."""


class Figure(msgspec.Struct, frozen=True):
    """goal: what to reach, None where the figure only informs; runs: what `value` is the median of."""

    value: float
    unit: str
    goal: float | None = None
    runs: list[float] = []

    @classmethod
    def of(cls, runs: Sequence[float], unit: str, goal: float | None = None) -> Figure:
        """The median of the runs."""
        return cls(statistics.median(runs), unit, goal, list(runs))

    @property
    def at_most(self) -> bool:
        """Whether the goal is an upper bound."""
        return self.unit in COSTS

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


class Result(msgspec.Struct, frozen=True):
    """One run of a benchmark."""

    name: str
    commit: str
    machine: dict[str, str]
    figures: dict[str, Figure]

    @classmethod
    def here(cls, name: str, figures: dict[str, Figure]) -> Result:
        return cls(name, commit(), machine(), figures)

    @classmethod
    def read(cls, path: Path) -> Result:
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


# ---------------------------------------------------------------------- the command line of every benchmark
def parser(doc: str | None) -> argparse.ArgumentParser:
    """With `--json FILE` and `--quick`; `doc`: the benchmark's docstring, of which the first line is shown."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write the result")
    made.add_argument("--quick", action="store_true", help="under a minute: whether it works, no measurement")
    return made


def report(result: Result, options: argparse.Namespace) -> None:
    """Show the result, and write it where `--json` says."""
    show([result])
    if options.json:
        result.write(options.json)


# ---------------------------------------------------------------------- where it was measured
def commit() -> str:
    """Short hash of the checkout, with `+` behind it where files have changed since; empty outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> dict[str, str]:
    """Processor, cores, how busy it was, Python."""
    found = {"processor": _processor(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.1f}"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# ---------------------------------------------------------------------- as a table
def table(results: Sequence[Result]) -> Table:
    shown = Table(
        "benchmark", "figure", "value", "unit", "goal", "met", "runs", title="Headwater, measured here"
    )
    shown.columns[1].no_wrap = True
    shown.columns[2].justify = "right"
    for result in results:
        shown.add_section()
        for key, figure in result.figures.items():
            runs = ", ".join(map(number, figure.runs[:SHOWN])) + (" …" if len(figure.runs) > SHOWN else "")
            shown.add_row(result.name, key, number(figure.value), figure.unit, *goal(figure), runs)
    return shown


def show(results: Sequence[Result]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table(results))
    for label, value in results[-1].machine.items():
        console.print(f"{label}: {value}", highlight=False)
    console.print(f"commit: {results[-1].commit or 'unknown'}", highlight=False)


def goal(figure: Figure) -> tuple[str, str]:
    """The goal with its direction, and whether it is met; empty where there is none."""
    if figure.goal is None:
        return "", ""
    met: Any = {True: "yes", False: "no", None: ""}[figure.met]
    return ("≤ " if figure.at_most else "≥ ") + number(figure.goal), met


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
