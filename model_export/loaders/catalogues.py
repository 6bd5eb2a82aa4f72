"""Items: a catalogue file of any kind of table, whatever it calls its columns."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from model_export.interactions import InteractionsBuilder
from model_export.loaders.cells import Row, id_of, is_empty
from model_export.loaders.tables import TABLES, kind_of, read_table
from streamer.core.protocol import MAX_CATEGORIES, MAX_ITEM_TEXT_BYTES, ItemRecord
from streamer.core.rejections import MAX_TEXT_BYTES
from streamer.errors import DataError

_IDS = (
    "item_id",
    "itemId",
    "ItemId",
    "movieId",
    "parent_asin",
    "asin",
    "product_id",
    "StockCode",
    "news_id",
    "id",
)
_TITLES = ("title", "movie_title", "name", "item_name", "Title", "Description")
_TEXTS = ("text", "description", "abstract", "feature", "features", "summary")
_YEARS = ("release_year", "year")
_CATEGORIES = ("categories", "class", "genre", "genres", "category", "main_category", "tags")


def read_items(file: Path, builder: InteractionsBuilder) -> None:
    """Add every item of a catalogue. Raises DataError, also for a file without an id column."""
    if not file.is_file():
        raise DataError(f"there is no catalogue at {file}")
    if kind_of(file) not in TABLES:
        raise DataError(f"{file} is no catalogue that can be read: give a {', '.join(TABLES[:6])} file")
    names, rows = read_table(file)
    wanted = next((name for name in _IDS if name in names), None)
    if wanted is None and names:
        raise DataError(
            f"{file.name} has no column of item ids, only {', '.join(names)}: call it item_id (or {', '.join(_IDS[1:4])})"
        )
    for number, row in enumerate(rows, 1):
        builder.add_item(item_of(row, f"{file.name}, row {number}"))


def item_of(row: Row, where: str) -> ItemRecord:
    """A row of a catalogue as an `items` record. Texts beyond what a worker takes are cut."""
    wanted = next((name for name in _IDS if not is_empty(row.get(name))), "item_id")
    title = _first(row, _TITLES)
    year = _first(row, _YEARS)
    named: Any = next((row[name] for name in _CATEGORIES if not is_empty(row.get(name))), [])
    price = row.get("price")
    return ItemRecord(
        id_of(row.get(wanted), where, wanted),
        clipped(f"{title} ({year})" if title and year.isdigit() else title, MAX_TEXT_BYTES),
        text=clipped(_first(row, _TEXTS), MAX_ITEM_TEXT_BYTES),
        categories=categories_of(named),
        price=float(price) if isinstance(price, (int, float)) and price >= 0 else None,
    )


def categories_of(found: Any) -> list[str]:
    """Distinct labels out of a list, a list of lists, its Python or JSON text, or a text with separators."""
    if isinstance(found, str):
        text = found.strip()
        if text.startswith("[") and text.endswith("]"):
            try:
                return categories_of(ast.literal_eval(text))
            except (ValueError, SyntaxError):
                pass
        for separator in ("|", ";", ","):
            if separator in text:
                return categories_of(text.split(separator))
        return categories_of(text.split())
    flat = [label for each in found for label in (each if isinstance(each, (list, tuple)) else [each])]
    labels = [str(label).strip()[:200] for label in flat if not is_empty(label)]
    return [label for label in dict.fromkeys(labels) if label][:MAX_CATEGORIES]


def clipped(text: str, most: int) -> str:
    """At most `most` bytes of UTF-8."""
    return text if len(text) <= most // 4 else text.encode()[:most].decode("utf-8", "ignore")


def _first(row: Row, names: tuple[str, ...]) -> str:
    found: Any = next((row[name] for name in names if not is_empty(row.get(name))), "")
    return " ".join(map(str, found)) if isinstance(found, list) else str(found).strip()
