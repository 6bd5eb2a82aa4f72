"""What was judged as the figures of the benchmark suite, and as tables for people."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.quality.freshness import curve
from benchmarks.quality.leave_one_out import Held
from benchmarks.quality.metrics import METRICS, K, gains, paired_bootstrap
from benchmarks.quality.prequential import OURS, Judged
from streamer.core.evaluation import Ranks, ndcg_at_k

GOAL, RECBOLE_GOAL, SPEED_GOAL = 1.10, 1.15, 3.0
SMALLEST = 1e-9


def of_prequential(judged: Judged) -> dict[str, Figure]:
    """Keys: METRIC_RECOMMENDER, and behind them its slices (_warm_users, _cold_users, _warm_items, _cold_items),
    ndcg_at_10_stream_minus_BASELINE with _low and _high (95 %), ndcg_at_10_stream_delay_D, coverage_RECOMMENDER, seconds_STEP;
    the first of them also for stream_unasked and stream_asked.
    """
    figures = {
        f"{metric}_{name}": Figure.of([measure(ranks, K)], "share")
        for metric, measure in METRICS.items()
        for name, ranks in judged.ranks.items()
    }
    ours = [name for name in OURS if name in judged.ranks]
    baselines = [name for name in judged.ranks if name not in ours]
    best = max(baselines, key=lambda name: ndcg_at_k(judged.ranks[name], K))
    users = judged.log.user[judged.rows]
    for mine in ours:
        ratio = _ratio(judged.ranks[mine], judged.ranks[best], GOAL)
        figures[f"ndcg_at_10_{mine}_over_best_baseline"] = ratio
        for name in baselines:
            found = paired_bootstrap(judged.ranks[mine], judged.ranks[name], users)
            for key, value in zip(("", "_low", "_high"), found, strict=True):
                figures[f"ndcg_at_10_{mine}_minus_{name}{key}"] = Figure.of([value], "share")
    for part, at in slices(judged).items():
        figures[f"judged_events_{part}"] = Figure.of([int(at.sum())], "events")
        if at.any():
            figures |= {
                f"{metric}_{name}_{part}": Figure.of([measure(ranks[at], K)], "share")
                for metric, measure in METRICS.items()
                for name, ranks in judged.ranks.items()
            }
    figures |= {
        f"coverage_{name}": Figure.of([value], "share of items") for name, value in judged.coverage.items()
    }
    ranks, usable = curve(judged)
    if len(usable):
        figures |= {
            f"ndcg_at_10_stream_delay_{delay}": Figure.of([ndcg_at_k(each, K)], "share")
            for delay, each in ranks.items()
        }
    figures["judged_events_delay"] = Figure.of([len(usable)], "events")
    figures["judged_events"] = Figure.of([len(judged.rows)], "events")
    figures["training_events"] = Figure.of([judged.cut], "events")
    figures["history_masked"] = Figure.of([float(judged.mask)], "1 = yes")
    return figures | {f"seconds_{name}": Figure.of([value], "s") for name, value in judged.seconds.items()}


def slices(judged: Judged) -> dict[str, np.ndarray]:
    """Which judged events (n,) are of users and items that the training part knows (warm) or not (cold)."""
    log, rows, cut = judged.log, judged.rows, judged.cut
    known_user, known_item = np.zeros(log.users, bool), np.zeros(len(log.items), bool)
    known_user[log.user[:cut]], known_item[log.item[:cut]] = True, True
    user, item = known_user[log.user[rows]], known_item[log.item[rows]]
    return {"warm_users": user, "cold_users": ~user, "warm_items": item, "cold_items": ~item}


def of_leave_one_out(held: Held) -> dict[str, Figure]:
    """Keys: METRIC_RECOMMENDER with the history masked, METRIC_RECOMMENDER_raw without; a run per seed.

    ndcg_at_10_RECOMMENDER_standard_error is over users, of the mean over seeds. `stream` is the recurrent state that is served.
    """
    figures: dict[str, Figure] = {}
    for name, seeds in held.ranks.items():
        for metric, measure in METRICS.items():
            for kind, which in (("", 1), ("_raw", 0)):
                figures[f"{metric}_{name}{kind}"] = Figure.of(
                    [measure(each[which], K) for each in seeds], "share"
                )
        per_user = np.mean([gains(each[1]) for each in seeds], axis=0)
        error = float(per_user.std(ddof=1) / np.sqrt(len(per_user))) if len(per_user) > 1 else 0.0
        figures[f"ndcg_at_10_{name}_standard_error"] = Figure.of([error], "share")
    for metric in METRICS:
        figures[f"{metric}_stream"] = figures[f"{metric}_headwater_gru"]
    rivals = [name for name in ("recbole_gru4rec", "recbole_sasrec") if name in held.ranks]
    if rivals:
        best = max(figures[f"ndcg_at_10_{name}"].value for name in rivals)
        ratio = figures["ndcg_at_10_stream"].value / max(best, SMALLEST)
        figures["ndcg_at_10_stream_over_best_recbole"] = Figure.of([ratio], "ratio", RECBOLE_GOAL)
    figures |= _speed(held, figures)
    figures["judged_users"] = Figure.of([held.users], "users")
    return figures | {f"training_seconds_{name}": Figure.of(runs, "s") for name, runs in held.seconds.items()}


def _speed(held: Held, figures: dict[str, Figure]) -> dict[str, Figure]:
    """How many times faster training was than RecBole's GRU4Rec up to its best epoch; nothing where it is not as good."""
    trace = held.traces.get("recbole_gru4rec")
    if trace is None or not len(trace):
        return {}
    if figures["ndcg_at_10_stream"].value < figures["ndcg_at_10_recbole_gru4rec"].value:
        return {}
    theirs = float(trace[trace[:, 1].argmax(), 0])
    ours = [theirs / max(seconds, SMALLEST) for seconds in held.seconds["headwater_gru"]]
    return {"training_speed_at_gru4rec_quality": Figure.of(ours, "times GRU4Rec's", SPEED_GOAL)}


def prequential_table(figures: dict[str, Figure], names: list[str]) -> Table:
    """A row per recommender."""
    table = Table(
        "",
        "NDCG@10",
        "hit@10",
        "MRR@10",
        "coverage",
        "warm users",
        "cold users",
        "warm items",
        "cold items",
        "stream − it (95 %)",
    )
    for name in names:
        keys = [f"{metric}_{name}" for metric in METRICS] + [f"coverage_{name}"]
        keys += [
            f"ndcg_at_10_{name}_{part}" for part in ("warm_users", "cold_users", "warm_items", "cold_items")
        ]
        cells = [f"{figures[key].value:.4f}" if key in figures else "–" for key in keys]
        table.add_row(name, *cells, _interval(figures, name))
    return table


def leave_one_out_table(figures: dict[str, Figure], names: list[str]) -> Table:
    table = Table("", "NDCG@10", "± (users)", "seeds", "hit@10", "MRR@10", "raw NDCG@10", "training s")
    for name in names:
        main = figures[f"ndcg_at_10_{name}"]
        seconds = figures.get(f"training_seconds_{name}")
        table.add_row(
            name,
            f"{main.value:.4f}",
            f"{figures[f'ndcg_at_10_{name}_standard_error'].value:.4f}",
            " ".join(f"{run:.4f}" for run in main.runs),
            *(f"{figures[f'{metric}_{name}'].value:.4f}" for metric in ("hit_rate_at_10", "mrr_at_10")),
            f"{figures[f'ndcg_at_10_{name}_raw'].value:.4f}",
            "" if seconds is None else f"{seconds.value:.0f}",
        )
    return table


def _interval(figures: dict[str, Figure], name: str) -> str:
    key = f"ndcg_at_10_stream_minus_{name}"
    if key not in figures:
        return ""
    return f"{figures[key].value:+.4f} ({figures[f'{key}_low'].value:+.4f} to {figures[f'{key}_high'].value:+.4f})"


def _ratio(ours: Ranks, theirs: Ranks, goal: float) -> Figure:
    return Figure.of([ndcg_at_k(ours, K) / max(ndcg_at_k(theirs, K), SMALLEST)], "ratio", goal)
