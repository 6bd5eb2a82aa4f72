"""What a training run shows: a bar per fit on the terminal; its figures also go to the trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from model_export.tracking import Tracker, scalars
from model_export.training_config import Epoch

_TITLES = {"validate": "training", "refit": "on all events"}


class TrainingScreen:
    """Its `watch` and `advance` are what `training.train` calls. Everything goes to the console, which is stderr."""

    def __init__(self, console: Console, trackers: Sequence[Tracker] = ()) -> None:
        self.console = console
        self.epochs: list[Epoch] = []
        """All that were watched."""
        self._trackers = trackers
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TrainingScreen:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
        for tracker in self._trackers:
            tracker.close()

    def advance(self, fit: str, done: int, steps: int) -> None:
        self._progress.update(self._task(fit), completed=done, total=steps)

    def watch(self, epoch: Epoch) -> None:
        found = epoch.validation.get("ndcg_at_10")
        state = f"loss {epoch.loss:.3f}" + ("" if found is None else f"  NDCG@10 {found:.4f}")
        self._progress.update(self._task(epoch.fit), state=state)
        if not self.console.is_terminal:
            self.console.print(f"{epoch.fit} epoch {epoch.number} of {epoch.epochs}: {state}")
        self.epochs.append(epoch)
        for tracker in self._trackers:
            tracker.scalars(scalars(epoch), epoch.number)

    def ended(self, epochs: int) -> None:
        """Training is over."""
        self._finish()
        self.console.print(f"best epoch: {epochs}")

    def _finish(self) -> None:
        """Full bars and stopped clocks, after an early stop too."""
        for task in self._tasks.values():
            self._progress.update(task, total=1, completed=1)

    def _task(self, fit: str) -> TaskID:
        if fit not in self._tasks:
            self._finish()
            self._tasks[fit] = self._progress.add_task(_TITLES[fit], total=None, state="")
        return self._tasks[fit]


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; the yielded function is told how much more is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda more: progress.advance(task, more)


def busy(console: Console, title: str) -> AbstractContextManager[object]:
    """A spinner, or a line where there is no terminal."""
    if not console.is_terminal:
        console.print(title)
    return console.status(title)


def quality_table(report: Mapping[str, Mapping[str, float]], events: int) -> Table:
    """metric → recommender → value, as PrequentialJudge reports it."""
    metrics = list(report)
    table = Table("judged on", *(metric.replace("_at_", "@").replace("_", " ") for metric in metrics))
    for name in report[metrics[0]]:
        table.add_row(name.replace("_", "-"), *(f"{report[metric][name]:.4f}" for metric in metrics))
    table.caption = f"{events:,} events, each judged by the list that was published before it"
    return table
