"""The demo's screen: one line per step, with a spinner or a bar while it lasts, and a mark when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from streamer.errors import HeadwaterError


class DemoFailed(HeadwaterError):
    """A step of the demo did not work; `log_tail` is the end of the log of the process that failed."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(message)


class Step:
    """A running step. `result` is what its line says when it is done."""

    def __init__(self, progress: Progress | None, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, result="") if progress is not None else None
        self.result = ""

    def advance_to(self, done: int) -> None:
        """`done` of `total` are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """What the step is doing now; `result` until something better is set."""
        self.result = text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, result=text)


class Screen:
    """Prints the steps of the demo."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, title: str, total: int | None = None, own_output: bool = False) -> Iterator[Step]:
        """A step with a spinner (`total` None) or a bar.

        With `own_output` a child process writes to the terminal meanwhile, so nothing moves here.
        """
        started_s = time.monotonic()
        progress = None if own_output else self._progress(total)
        if own_output:
            self.console.print(Text.assemble(("… ", "cyan"), title))
        step = Step(progress, title, total)
        try:
            if progress is None:
                yield step
            else:
                with progress:
                    yield step
        except BaseException:
            self.console.print(Text.assemble(("✗ ", "bold red"), (title, "bold")))
            raise
        self._done(title, step.result, time.monotonic() - started_s)

    def note(self, text: str) -> None:
        """A line between steps."""
        self.console.print(Text.assemble("  ", (text, "yellow")))

    def _done(self, title: str, result: str, took_s: float) -> None:
        line = Text.assemble(("✓ ", "bold green"), title)
        if result:
            line.append(f": {result}", style="dim")
        line.append(f"  {took_s:.1f} s", style="cyan")
        self.console.print(line, soft_wrap=True)

    def _progress(self, total: int | None) -> Progress:
        bar = () if total is None else (BarColumn(), MofNCompleteColumn())
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *bar,
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[result]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
