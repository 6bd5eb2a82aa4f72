"""`python -m benchmarks.quality`: how good are the lists on this log, beside those of plain recommenders?

All settings are the product's defaults; nothing is tuned to the log. docs/quality.md has the method and what was measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.figures import Figure, Result, show
from streamer.errors import HeadwaterError

PROTOCOLS = ("prequential", "leave-one-out")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Judge the quality of Headwater's lists on any event log, with default settings.",
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="prequential")
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="CSV, TSV, Parquet, JSON lines or a RecBole .inter file"
    )
    parser.add_argument("--user", metavar="COL", default="user_id", help="whose event (default: %(default)s)")
    parser.add_argument(
        "--item", metavar="COL", default="item_id", help="of which item (default: %(default)s)"
    )
    parser.add_argument(
        "--time",
        metavar="COL",
        help="when: ISO 8601 or an epoch in s, ms, µs or ns; several columns: date,clock or year,month,day",
    )
    parser.add_argument("--type", metavar="COL", help="what the user did")
    parser.add_argument("--value", metavar="COL", help="a rating, a duration")
    parser.add_argument("--items", type=Path, metavar="FILE", help="what the items are")
    parser.add_argument(
        "--item-text",
        metavar="COLS",
        default="",
        help="its columns with titles and texts, separated by commas",
    )
    parser.add_argument(
        "--graph", type=Path, metavar="FILE", help="pairs of users who are friends, or who follow whom"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=7,
        metavar="N",
        help="of ties, sampling and training (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: whether it works, no measurement"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        result = measure(options)
    except HeadwaterError as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    show([result])
    if options.json:
        result.write(options.json)
    return 0


def measure(options: argparse.Namespace) -> Result:
    """Raises HeadwaterError with what to mend."""
    from benchmarks.quality import figures
    from benchmarks.quality.log import Source, load
    from streamer.errors import DataError

    if options.events is None:
        raise DataError("--events is missing: name the file with the log")
    source = Source(
        options.events,
        options.user,
        options.item,
        options.time,
        options.type,
        options.value,
        options.items,
        tuple(name.strip() for name in options.item_text.split(",") if name.strip()),
        options.graph,
    )
    if options.protocol == "prequential" and options.time is None:
        raise DataError(
            "a log without time stamps is no prequential evidence: name its column with --time, "
            "or judge it with --protocol leave-one-out"
        )
    log = load(source, options.seed)
    for note in (f"{len(log):,} events of {log.users:,} users on {len(log.items):,} items", *log.notes):
        say(note)
    from benchmarks.quality import prequential

    judged = prequential.run(log, quick=options.quick, seed=options.seed, say=say)
    for note in judged.notes:
        say(note)
    name = f"quality-prequential-{options.events.stem}"
    return Result.here(name, figures.of_prequential(judged))


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


__all__ = ["Figure", "main"]

if __name__ == "__main__":
    sys.exit(main())
