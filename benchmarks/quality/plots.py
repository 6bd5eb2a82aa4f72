"""The figures as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.quality.freshness import DELAYS_MS
from streamer.errors import DataError

OURS, THEIRS = "#1f6feb", "#9aa4b2"


def of_prequential(figures: dict[str, Figure], names: list[str], file: Path, title: str) -> None:
    """Bars of NDCG@10 by recommender, and beside them the freshness curve. Raises DataError where matplotlib is missing."""
    plot = _pyplot()
    drawn, (left, right) = plot.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
    ordered = sorted(names, key=lambda name: figures[f"ndcg_at_10_{name}"].value)
    values = [figures[f"ndcg_at_10_{name}"].value for name in ordered]
    left.barh(ordered, values, color=[OURS if name.startswith("stream") else THEIRS for name in ordered])
    left.set_xlabel("NDCG@10")
    delays = [delay for delay in DELAYS_MS if f"ndcg_at_10_stream_delay_{delay}" in figures]
    right.plot(
        delays, [figures[f"ndcg_at_10_stream_delay_{delay}"].value for delay in delays], "o-", color=OURS
    )
    right.set_ylim(bottom=0)
    right.set_xlabel("delay between event and refreshed state")
    right.set_ylabel("NDCG@10")
    _save(drawn, file, title)


def of_leave_one_out(figures: dict[str, Figure], names: list[str], file: Path, title: str) -> None:
    """Bars of NDCG@10, history masked, with standard errors. Raises DataError where matplotlib is missing."""
    plot = _pyplot()
    drawn, axes = plot.subplots(figsize=(7, 4))
    ordered = sorted(names, key=lambda name: figures[f"ndcg_at_10_{name}"].value)
    axes.barh(
        ordered,
        [figures[f"ndcg_at_10_{name}"].value for name in ordered],
        xerr=[figures[f"ndcg_at_10_{name}_standard_error"].value for name in ordered],
        color=[OURS if name.startswith("headwater") else THEIRS for name in ordered],
    )
    axes.set_xlabel("NDCG@10, history masked")
    _save(drawn, file, title)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise DataError("--plots needs matplotlib: pip install 'headwater[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(drawn: Any, file: Path, title: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.suptitle(title)
    drawn.tight_layout()
    drawn.savefig(file, dpi=110, metadata={"Software": None})
    _pyplot().close(drawn)
