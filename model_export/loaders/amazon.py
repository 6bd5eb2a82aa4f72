"""Amazon reviews as JSON lines, of 2014 and 2018 (reviewerID, asin, …) and of 2023 (user_id, parent_asin, …).

He & McAuley 2016, arXiv:1602.01585; Hou et al. 2024, arXiv:2403.03952. A review is one explicit event with its value and
its text. The items have no text of their own here: give their meta file with --items, or let `describe_items` take their
earlier reviews.
"""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.catalogues import clipped
from model_export.loaders.cells import id_of, is_empty, number_of, time_ms_of
from model_export.loaders.tables import kind_of, read_table
from streamer.core.rejections import MAX_TEXT_BYTES
from streamer.errors import DataError

_OLD, _NEW = {"reviewerID", "asin", "unixReviewTime"}, {"user_id", "asin", "rating", "timestamp", "text"}


def recognises(path: Path) -> bool:
    if not path.is_file():
        files = list(path.glob("*.json")) if path.is_dir() else []
        return len(files) == 1 and recognises(files[0])
    if kind_of(path) not in (".json", ".jsonl"):
        return False
    try:
        columns = set(read_table(path)[0])
    except DataError:  # the generic reader says what is wrong with it
        return False
    return columns >= _OLD or columns >= _NEW


def read(path: Path, builder: InteractionsBuilder) -> None:
    file = path if path.is_file() else next(path.glob("*.json"))
    columns, rows = read_table(file)
    old = set(columns) >= _OLD
    user, time, value = (
        ("reviewerID", "unixReviewTime", "overall") if old else ("user_id", "timestamp", "rating")
    )
    parts = ("summary", "reviewText") if old else ("title", "text")
    for number, row in enumerate(rows, 1):
        where = f"{file.name}:{number}"
        item = "asin" if old or is_empty(row.get("parent_asin")) else "parent_asin"
        rating = row.get(value)
        builder.add(
            id_of(row.get(user), where, user),
            id_of(row.get(item), where, item),
            "review",
            time_ms_of(row.get(time), where, time, scale=1000 if old else 0),
            None if is_empty(rating) else number_of(rating, where, value),
            clipped(". ".join(str(row[part]).strip() for part in parts if row.get(part)), MAX_TEXT_BYTES),
        )
