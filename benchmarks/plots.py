"""Results as pictures: PNG files for README and docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Result

SIZE_INCHES, DPI = (7.0, 3.6), 120
OURS, OTHERS, INK = "#0b6e99", "#b8c4cc", "#33383d"
PERCENTILES = {"p50_ms": ("p50", ":"), "p99_ms": ("p99", "-"), "p999_ms": ("p99.9", "--")}
NAMES = {
    "events_per_s": "Headwater",
    "plain_faust_events_per_s": "plain Faust",
    "quix_events_per_s": "Quix Streams",
    "kafka_streams_events_per_s": "Kafka Streams",
    "bytewax_events_per_s": "Bytewax",
}


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """A picture for each kind of result that is there. Raises ModuleNotFoundError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {result.name: result for result in results}
    pictures = {
        "throughput": _throughput(_of(named, "throughput-")),
        "latency": _latency(_of(named, "latency-")),
        "growth": _growth(named.get("growth")),
        "soak": _soak(list(_of(named, "soak-").values())),
    }
    made = []
    for name, picture in pictures.items():
        if picture is not None:
            path = folder / f"{name}.png"
            # Without the version of matplotlib in it the same figures give the same file.
            picture.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
            made.append(path)
    return made


def _of(named: Mapping[str, Result], prefix: str) -> dict[str, Result]:
    return {name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)}


def _axes(columns: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=SIZE_INCHES if columns == 1 else (3.4 * columns, 3.2), layout="constrained")
    FigureCanvasAgg(picture)
    axes = [picture.add_subplot(1, columns, column + 1) for column in range(columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=INK, labelsize=8)
        each.grid(axis="y", color="#e6eaed", linewidth=0.8)
        each.set_axisbelow(True)
    return picture, axes


def _throughput(results: Mapping[str, Result]) -> Any:
    """A workload's contestants side by side."""
    if not results:
        return None
    picture, (axes,) = _axes()
    keys = [key for key in NAMES if any(key in result.figures for result in results.values())]
    width = 0.8 / len(keys)
    for n, key in enumerate(keys):
        places = [at for at, result in enumerate(results.values()) if key in result.figures]
        values = [result.figures[key].value for result in results.values() if key in result.figures]
        bars = axes.bar(
            [at + (n - (len(keys) - 1) / 2) * width for at in places],
            values,
            width * 0.92,
            color=OURS if n == 0 else OTHERS,
            alpha=1.0 if n == 0 else 1.0 - 0.15 * (n - 1),
            label=NAMES[key],
            hatch=None if n == 0 else ["", "//", "..", "xx"][(n - 1) % 4],
            edgecolor="white",
        )
        axes.bar_label(bars, [_short(value) for value in values], fontsize=6, color=INK, padding=1)
    axes.set_xticks(range(len(results)), list(results))
    axes.set_ylabel("events/s, one core", color=INK, fontsize=8)
    axes.legend(fontsize=7, frameon=False, ncols=len(keys), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return picture


def _latency(results: Mapping[str, Result]) -> Any:
    """Percentiles against the rate; of other workers than Headwater's too where there are any."""
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for name, result in results.items():
        rate, _, who = name.partition("-")
        values = [result.figures[key].value for key in PERCENTILES if key in result.figures]
        if len(values) == len(PERCENTILES):
            lines.setdefault(who or "headwater", []).append((float(rate), values))
    if not lines:
        return None
    picture, (axes,) = _axes()
    for who, points in sorted(lines.items(), key=lambda pair: pair[0] != "headwater"):
        points.sort(key=lambda point: point[0])
        for column, (label, style) in enumerate(PERCENTILES.values()):
            axes.plot(
                [rate for rate, _ in points],
                [values[column] for _, values in points],
                style,
                marker="o",
                markersize=3,
                color=OURS if who == "headwater" else OTHERS,
                label=f"{who} {label}",
            )
    _log_x(axes, [rate for points in lines.values() for rate, _ in points])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events/s", color=INK, fontsize=8)
    axes.set_ylabel("event to recommendation, ms", color=INK, fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return picture


def _growth(result: Result | None) -> Any:
    """Processor time per event along each axis."""
    if result is None:
        return None
    lines: dict[str, list[tuple[int, float]]] = {}
    for key, figure in result.figures.items():
        if match := re.fullmatch(r"(\w+)_(\d+)_cpu_us", key):
            lines.setdefault(match[1], []).append((int(match[2]), figure.value))
    if not lines:
        return None
    picture, several = _axes(len(lines))
    for axes, (axis, points) in zip(several, lines.items(), strict=True):
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, color=OURS)
        _log_x(axes, [at for at, _ in points])
        axes.set_ylim(0, 1.1 * max(cost for _, cost in points))
        axes.set_xlabel(axis, color=INK, fontsize=8)
    several[0].set_ylabel("µs of processor per event", color=INK, fontsize=8)
    return picture


def _soak(results: Sequence[Result]) -> Any:
    """RSS over time, of the longest run."""
    if not results:
        return None
    longest = max(results, key=lambda result: float(result.name.partition("-")[2]))
    samples, minutes = longest.figures["rss_mb"].runs, float(longest.name.partition("-")[2])
    picture, (axes,) = _axes()
    axes.plot([minutes * (n + 0.5) / len(samples) for n in range(len(samples))], samples, color=OURS)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", color=INK, fontsize=8)
    axes.set_ylabel("worker's RSS, MB", color=INK, fontsize=8)
    return picture


def _log_x(axes: Any, values: Sequence[float]) -> None:
    """With ticks at the values and nowhere else."""
    axes.set_xscale("log")
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [_short(value) for value in ticks], minor=False)
    axes.set_xticks([], minor=True)


def _short(value: float) -> str:
    """Three digits at most: 950, 1.3k, 15k, 1M."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if value >= unit:
            return f"{value / unit:.{1 if value < 10 * unit else 0}f}".removesuffix(".0") + name
    return f"{value:.0f}"
