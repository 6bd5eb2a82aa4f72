"""RecBole's atomic files (Zhao et al. 2021, arXiv:2011.01731): NAME.inter, NAME.item and, for social data, NAME.net.

Tab-separated, their header names each column and its type: `user_id:token  item_id:token  rating:float  timestamp:float`,
timestamps in seconds.
"""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.catalogues import item_of
from model_export.loaders.cells import id_of, is_empty, number_of, time_ms_of
from model_export.loaders.graphs import read_graph
from model_export.loaders.tables import read_table
from streamer.errors import DataError


def recognises(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.inter"))


def read(path: Path, builder: InteractionsBuilder) -> None:
    """Ratings, or views where there is no rating. Raises DataError."""
    logs = sorted(path.glob("*.inter"))
    if len(logs) != 1:
        raise DataError(
            f"{path} must hold exactly one .inter file (found: {', '.join(log.name for log in logs)})"
        )
    items, net = logs[0].with_suffix(".item"), logs[0].with_suffix(".net")
    if items.is_file():
        for number, row in enumerate(read_table(items)[1], 2):
            builder.add_item(item_of(row, f"{items.name}:{number}"))
    for number, row in enumerate(read_table(logs[0])[1], 2):
        where = f"{logs[0].name}:{number}"
        rating = row.get("rating")
        builder.add(
            id_of(row.get("user_id"), where, "user_id"),
            id_of(row.get("item_id"), where, "item_id"),
            "view" if is_empty(rating) else "rating",
            time_ms_of(row.get("timestamp"), where, "timestamp", scale=1000),
            None if is_empty(rating) else number_of(rating, where, "rating"),
        )
    if net.is_file():
        read_graph(net, builder)
