"""A model card: what a version was trained on, how good it is, and for whom. Mitchell et al. 2019, arXiv:1810.03993."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from model_export.interactions import Interactions
from model_export.slices import Judgement, Slice, gaps
from model_export.training_config import Epoch, TrainingConfig
from streamer.errors import DataError

CARD = "card.md"
Report = Mapping[str, Mapping[str, float]]
"""metric → recommender → value"""


@dataclass(frozen=True)
class Card:
    version: str
    config: TrainingConfig
    data: Interactions
    """Trained on."""
    data_hash: str
    seconds: float
    best_epoch: int
    epochs: Sequence[Epoch]
    validation: Mapping[str, float]
    judgement: Judgement | None = None
    """Of the later events."""

    def write(self, folder: Path) -> Path:
        """card.md and its plots (PNG) in `folder`; returns the former. Raises DataError where they cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            plots = dict(self._plots(folder))
            card = folder / CARD
            card.write_text("\n".join(self._lines(plots)) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write the model card to {folder}: {error}") from error
        return card

    def _lines(self, plots: Mapping[str, Path]) -> Iterator[str]:
        data = self.data
        days = [
            datetime.fromtimestamp(int(ms) / 1000, UTC).date()
            for ms in (min(data.timestamp_ms), max(data.timestamp_ms))
        ]
        yield f"# Model {self.version}\n"
        yield (
            f"A {self.config.encoder} over user events that scores the next item, trained in {self.seconds:.0f} s on "
            f"{len(data):,} events of {len(data.users):,} users and {len(data.items):,} items, {days[0]} to {days[1]} "
            f"(data {self.data_hash[:16]}, seed {self.config.seed}).\n"
        )
        judged = self.judgement
        if judged is not None:
            yield f"## Quality on the {judged.events:,} events after those\n"
            yield "Each is judged by the list that was published before it; the baselines learn along.\n"
            yield from _table(["", *judged.report], _by_recommender(judged.report))
        if self.validation:
            yield f"\n## Quality while training (best epoch {self.best_epoch})\n"
            yield "The events held out from training; `without_model` is what knowing no user would get.\n"
            yield from _table(
                ["metric", "value"], [[name, f"{value:.4f}"] for name, value in self.validation.items()]
            )
        for name in ("loss", "quality"):
            if name in plots:
                yield f"\n![{name} per epoch]({plots[name].name})"
        if judged is not None and judged.slices:
            yield "\n## For whom\n"
            rows = [
                [s.by, s.group, f"{s.events:,}", f"{s.hit_rate_at_10:.4f}", f"{s.ndcg_at_10:.4f}"]
                for s in judged.slices
            ]
            yield from _table(["by", "group", "events", "hit rate@10", "NDCG@10"], rows)
            for by, gap in gaps(judged.slices).items():
                yield f"\nLargest gap in NDCG@10 by {by}: {gap:.4f}"
            for name in ("activity", "popularity"):
                if name in plots:
                    yield f"\n![NDCG@10 by {name}]({plots[name].name})"
        if judged is not None:
            yield "\n## What it shows\n"
            yield from _table(
                ["figure", "value"], [[name, f"{value:.4f}"] for name, value in judged.exposure.items()]
            )
        yield "\n## Configuration\n"
        yield from _table(
            ["option", "value"], [[name, str(value)] for name, value in asdict(self.config).items()]
        )
        yield "\n## Limits\n"
        yield (
            "Items and users are as the log has them: what it under-represents is served worse, as the groups above show. "
            "Quality offline says what users took from other lists, not what these lists would have changed."
        )

    def _slices(self) -> Sequence[Slice]:
        return () if self.judgement is None else self.judgement.slices

    def _plots(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Matplotlib's object interface: no global state, no display."""
        from matplotlib.axes import Axes
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        def plot(name: str, title: str) -> tuple[Figure, Axes]:
            figure = Figure(figsize=(6, 3), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot(title=title)
            axes.spines[["top", "right"]].set_visible(False)
            return figure, axes

        validated = [epoch for epoch in self.epochs if epoch.validation]
        for name, title, curves in (
            (
                "loss",
                "loss per epoch (nats)",
                {fit: [e for e in self.epochs if e.fit == fit] for fit in ("validate", "refit")},
            ),
            ("quality", "validation NDCG@10 per epoch", {"": validated}),
        ):
            if any(curves.values()):
                figure, axes = plot(name, title)
                for label, epochs in curves.items():
                    values = [e.loss if name == "loss" else e.validation["ndcg_at_10"] for e in epochs]
                    axes.plot([e.number for e in epochs], values, marker=".", label=label)
                if name == "loss":
                    axes.legend(frameon=False)
                figure.savefig(folder / f"{name}.png", dpi=120)
                yield name, folder / f"{name}.png"
        for by in ("activity", "popularity"):
            bars = [each for each in self._slices() if each.by == by]
            if bars:
                figure, axes = plot(by, f"NDCG@10 by {_MEANS[by]}")
                axes.bar([f"{s.group}\n{s.events:,}" for s in bars], [s.ndcg_at_10 for s in bars])
                figure.savefig(folder / f"{by}.png", dpi=120)
                yield by, folder / f"{by}.png"


_MEANS = {
    "activity": "events of the user before, and number judged",
    "popularity": "item popularity, and number judged",
}


def _by_recommender(report: Report) -> list[list[str]]:
    names = dict.fromkeys(name for values in report.values() for name in values)
    return [[name, *(f"{values[name]:.4f}" for values in report.values())] for name in names]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
