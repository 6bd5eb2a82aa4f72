"""MIND news (Wu et al. 2020, ACL): `behaviors.tsv` and `news.tsv`, both without headers.

An impression lists what was shown, `N1-1` if clicked, and what the user had clicked before. Clicks are events at the time of
their impression. The clicks before carry no time: those of a user's first impression are put a minute apart before it, in
their order, which is enough to learn from but no evidence in time. What was shown and not clicked is no step of the user's
and is left out.
"""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.cells import time_ms_of
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

_MINUTE_MS = 60_000


def recognises(path: Path) -> bool:
    return (path / "behaviors.tsv").is_file() and (path / "news.tsv").is_file()


def read(path: Path, builder: InteractionsBuilder) -> None:
    for _, (news, category, subcategory, title, abstract, *_) in _fields(path / "news.tsv", 5):
        labels = [label for label in dict.fromkeys((category, subcategory)) if label]
        builder.add_item(ItemRecord(news, title, text=abstract, categories=labels))
    impressions = []
    for where, (_, user, time, before, shown, *_) in _fields(path / "behaviors.tsv", 5):
        impressions.append((time_ms_of(time, where, "time"), user, before.split(), shown.split(), where))
    impressions.sort(key=lambda impression: impression[0])
    met: set[str] = set()
    for time_ms, user, history, listed, where in impressions:
        if user not in met:
            met.add(user)
            for place, news in enumerate(history):
                builder.add(user, news, "click", time_ms - (len(history) - place) * _MINUTE_MS)
        for each in listed:
            news, dash, clicked = each.rpartition("-")
            if not dash:  # the test set, which hides them
                raise DataError(f"{where}: {each!r} does not say whether it was clicked, as {each}-1 would")
            if clicked == "1":
                builder.add(user, news, "click", time_ms)


def _fields(file: Path, least: int) -> list[tuple[str, list[str]]]:
    rows = []
    with file.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            row = line.rstrip("\r\n").split("\t")
            if len(row) < least:
                raise DataError(
                    f"{file.name}:{number} has {len(row)} fields separated by tabs, expected {least}"
                )
            rows.append((f"{file.name}:{number}", row))
    return rows
