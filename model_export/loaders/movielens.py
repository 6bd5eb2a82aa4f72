"""MovieLens (Harper & Konstan 2015) as GroupLens publishes it: 100K through streamer.datasets; 1M, 10M, 20M and later here."""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.catalogues import categories_of, read_items
from model_export.loaders.cells import number_of, time_ms_of
from model_export.loaders.generic import read_events
from streamer import datasets
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError


def recognises(path: Path) -> bool:
    return path.is_dir() and any(
        (path / f"ratings{ending}").is_file() and (path / f"movies{ending}").is_file()
        for ending in (".dat", ".csv")
    )


def read(path: Path, builder: InteractionsBuilder) -> None:
    """1M and 10M separate their fields by `::`; 20M and later are CSV files with headers."""
    if (path / "ratings.csv").is_file():
        read_items(path / "movies.csv", builder)
        read_events(path / "ratings.csv", {}, builder)
        return
    for _, (item, title, genres) in _fields(path / "movies.dat", 3):
        builder.add_item(ItemRecord(item, title, categories=categories_of(genres.split("|"))))
    for where, (user, item, rating, seconds) in _fields(path / "ratings.dat", 4):
        time_ms = time_ms_of(seconds, where, "timestamp", scale=1000)
        builder.add(user, item, "rating", time_ms, number_of(rating, where, "rating"))


def read_100k(name: str, folder: Path, builder: InteractionsBuilder) -> None:
    """Either layout of MovieLens-100K."""
    found = datasets.load(name, folder)
    for item in found.items:
        builder.add_item(item)
    for event in found.interactions:
        builder.add(event.user_id, event.item_id, event.type, event.timestamp_ms, event.value)


def _fields(file: Path, fields: int) -> list[tuple[str, list[str]]]:
    rows = []
    with file.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines, 1):
            row = line.rstrip("\r\n").split("::")
            if len(row) != fields:
                raise DataError(
                    f"{file.name}:{number} has {len(row)} fields separated by '::', expected {fields}"
                )
            rows.append((f"{file.name}:{number}", row))
    return rows
