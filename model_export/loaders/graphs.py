"""Who follows or befriends whom: a table of two columns, or RecBole's `.net` file."""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.cells import id_of
from model_export.loaders.tables import TABLES, kind_of, read_table
from streamer.errors import DataError

_ENDS = (
    ("user_id", "friend_id"),
    ("userID", "friendID"),
    ("source_id", "target_id"),
    ("user_id", "target_user_id"),
)


def read_graph(file: Path, builder: InteractionsBuilder) -> None:
    """Add every pair of `file`: its columns user_id and friend_id (or target_user_id), else its first two.

    Users without events are kept: their friends may say something about them. Raises DataError.
    """
    if not file.is_file():
        raise DataError(f"there is no graph at {file}: give a table with the columns user_id, friend_id")
    if kind_of(file) not in (*TABLES, ".net"):
        raise DataError(f"{file} is no graph that can be read: give a {', '.join(TABLES[:6])} or .net file")
    names, rows = read_table(file)
    if len(names) < 2:
        raise DataError(f"{file.name} has {len(names)} columns: a graph has two, user_id and friend_id")
    user, friend = next((ends for ends in _ENDS if set(ends) <= set(names)), (names[0], names[1]))
    for number, row in enumerate(rows, 1):
        where = f"{file.name}, row {number}"
        builder.add_friend(id_of(row.get(user), where, user), id_of(row.get(friend), where, friend))
