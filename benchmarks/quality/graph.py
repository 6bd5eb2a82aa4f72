"""Who is whose friend: pairs of users out of any table of two columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.quality.reading import NoColumn, read_columns
from streamer.errors import DataError

ENDS = (
    ("user_id", "friend_id"),
    ("userID", "friendID"),
    ("source_id", "target_id"),
    ("user_id", "target_user_id"),
)
"""How the two columns are often called; else they are the first two."""


def friends_of(
    file: Path, ids: Callable[[pl.Series], pl.Series], rows: Mapping[str, int]
) -> tuple[NDArray[np.int64], str]:
    """Pairs (F, 2) of users of `rows`, each once, and a sentence about the others. Raises DataError."""
    if not file.is_file():
        raise DataError(f"there is no graph at {file}: --graph takes a table of pairs of users")
    frame = _columns(file)
    pairs = zip(*(ids(frame[name]).to_list() for name in frame.columns[:2]), strict=True)
    known = {
        (min(rows[a], rows[b]), max(rows[a], rows[b])) for a, b in pairs if a != b and a in rows and b in rows
    }
    if not known:
        raise DataError(
            f"no pair of {file.name} names two users of the log: check that both call users alike"
        )
    found = np.array(sorted(known), np.int64)
    return found, (
        f"{len(found):,} pairs of friends among {len(np.unique(found)):,} users; the other pairs of {file.name}'s "
        f"{len(frame):,} rows repeat one, or name somebody without an event"
    )


def _columns(file: Path) -> pl.DataFrame:
    names: list[str] = []
    for ends in ENDS:
        try:
            return read_columns(file, list(ends))
        except NoColumn as error:
            names = list(error.names)
    if len(names) < 2:
        raise DataError(f"{file.name} has {len(names)} columns: a graph has two, one user in each")
    return read_columns(file, names[:2])
