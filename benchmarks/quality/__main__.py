"""`python -m benchmarks.quality`: how good are the lists on this log, beside those of plain recommenders?

All settings are the product's defaults; nothing is tuned to the log. docs/quality.md has the method and what was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.figures import WIDTH, Result
from benchmarks.quality.log import Log, Source, load
from streamer.errors import DataError, HeadwaterError

PREQUENTIAL, LEAVE_ONE_OUT = "prequential", "leave-one-out"
MOVIELENS = "ml-100k"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Judge the quality of Headwater's lists on any event log, with default settings.",
    )
    add = parser.add_argument
    add(
        "--protocol", choices=(PREQUENTIAL, LEAVE_ONE_OUT), default=PREQUENTIAL, help="(default: %(default)s)"
    )
    add(
        "--events",
        metavar="FILE",
        default=MOVIELENS,
        help="CSV, TSV, Parquet, JSON lines or RecBole's .inter (default: %(default)s, fetched)",
    )
    add("--user", metavar="COL", default="user_id", help="whose event (default: %(default)s)")
    add("--item", metavar="COL", default="item_id", help="of which item (default: %(default)s)")
    add(
        "--time",
        metavar="COL",
        help="when: ISO 8601, or an epoch in s, ms, µs or ns; several columns as date,clock or year,month,day",
    )
    add("--type", metavar="COL", help="what the user did")
    add("--value", metavar="COL", help="a rating, a duration")
    add("--items", type=Path, metavar="FILE", help="what the items are")
    add(
        "--item-text",
        metavar="COLS",
        default="",
        help="its columns with titles and texts, separated by commas",
    )
    add("--graph", type=Path, metavar="FILE", help="pairs of users who are friends, or who follow whom")
    add(
        "--seed",
        type=int,
        default=7,
        metavar="N",
        help="of ties, sampling and training (default: %(default)s)",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="leave-one-out: trainings of each model (default: %(default)s)",
    )
    add(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="leave-one-out: for each training; RecBole's stop there with their best epoch (default: 900)",
    )
    add(
        "--recbole",
        metavar="MODELS",
        default="Pop,ItemKNN,GRU4Rec,SASRec",
        help="leave-one-out: which of RecBole's models, separated by commas, or none (default: %(default)s)",
    )
    add(
        "--freshness",
        action="store_true",
        help="prequential: show the quality against the delay of the state",
    )
    add("--plots", type=Path, metavar="FOLDER", help="write PNG plots there")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--quick", action="store_true", help="under a minute: whether it works, no measurement")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 with a sentence about what to mend."""
    options = parser().parse_args(argv)
    try:
        result = measure(options)
    except HeadwaterError as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    if options.json:
        result.write(options.json)
    for label, value in result.machine.items():
        print(f"{label}: {value}")
    print(f"commit: {result.commit or 'unknown'}")
    return 0


def measure(options: argparse.Namespace) -> Result:
    """Raises HeadwaterError with what to mend."""
    from benchmarks.quality.training import Budget

    source = source_of(options)
    if options.protocol == PREQUENTIAL and source.time is None:
        raise DataError(
            "a log without time stamps is no prequential evidence: name its column with --time, "
            "or judge it with --protocol leave-one-out"
        )
    log = load(source, options.seed, max_events=Budget.of(options.quick).events)
    tell(f"{len(log):,} events of {log.users:,} users on {len(log.items):,} items", *log.notes)
    name = f"quality-{options.protocol}-{source.events.stem}"
    if options.protocol == PREQUENTIAL:
        return _prequential(name, log, options)
    return _leave_one_out(name, log, options)


def _prequential(name: str, log: Log, options: argparse.Namespace) -> Result:
    from benchmarks.quality import figures, prequential

    judged = prequential.run(log, quick=options.quick, seed=options.seed, say=tell)
    tell(*judged.notes)
    found = figures.of_prequential(judged)
    console = _console()
    console.print(figures.prequential_table(found, list(judged.ranks)))
    ratio = found["ndcg_at_10_stream_over_best_baseline"].value
    console.print(f"stream / best baseline: {ratio:.3f}; {len(judged.rows):,} events judged", highlight=False)
    if options.freshness:
        key = "ndcg_at_10_stream_delay_"
        delays = {
            each.removeprefix(key): figure.value for each, figure in found.items() if each.startswith(key)
        }
        shown = ", ".join(f"{delay}: {value:.4f}" for delay, value in delays.items())
        console.print(f"NDCG@10 by delay: {shown or 'the log is too short to say'}", highlight=False)
    if options.plots:
        from benchmarks.quality import plots

        plots.of_prequential(found, list(judged.ranks), options.plots / f"{name}.png", name)
    return Result.here(name, found)


def _leave_one_out(name: str, log: Log, options: argparse.Namespace) -> Result:
    from benchmarks.quality import figures, leave_one_out

    if options.seeds < 1:
        raise DataError(f"--seeds is {options.seeds}: at least one training is needed")
    budget_s = options.budget if options.budget is not None else 10.0 if options.quick else 900.0
    held = leave_one_out.run(
        log,
        seeds=options.seeds,
        seed=options.seed,
        budget_s=budget_s,
        recbole=_names(options.recbole),
        quick=options.quick,
        say=tell,
    )
    tell(*held.notes)
    found = figures.of_leave_one_out(held)
    _console().print(figures.leave_one_out_table(found, list(held.ranks)))
    if options.plots:
        from benchmarks.quality import plots

        plots.of_leave_one_out(found, list(held.ranks), options.plots / f"{name}.png", name)
    return Result.here(name, found)


def source_of(options: argparse.Namespace) -> Source:
    """What to read. Raises DataError."""
    texts = tuple(name.strip() for name in options.item_text.split(",") if name.strip())
    if options.events == MOVIELENS and not Path(options.events).exists():
        from model_export.event_log import CACHE
        from streamer import datasets

        folder = datasets.fetch(MOVIELENS, CACHE.expanduser(), say=tell)
        items = folder / f"{MOVIELENS}.item"
        return Source(
            folder / f"{MOVIELENS}.inter",
            "user_id",
            "item_id",
            "timestamp",
            None,
            "rating",
            items,
            ("movie_title", "class"),
        )
    return Source(
        Path(options.events),
        options.user,
        options.item,
        options.time,
        options.type,
        options.value,
        options.items,
        texts,
        options.graph,
    )


def _names(given: str) -> tuple[str, ...]:
    """Raises DataError for a model that is not known here."""
    from benchmarks.quality.peers import MODELS

    names = tuple(name.strip() for name in given.split(",") if name.strip() not in ("", "none"))
    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        raise DataError(f"--recbole names {unknown[0]!r}: known are {', '.join(MODELS)}, or none")
    return names


def tell(*sentences: str) -> None:
    for sentence in sentences:
        print(sentence, file=sys.stderr, flush=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH + 20)


if __name__ == "__main__":
    sys.exit(main())
