"""Last.fm-2K (HetRec 2011, Cantador et al.): artists, tag assignments with their day, and the graph of friends.

A user's tags for an artist on one day are one explicit event, `tag`, the tags its text. An artist's categories are the tags
that at least `USERS` users gave it. The listening counts (`user_artists.dat`) have no time and would tell a model what the
user did after the cut, so they are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.catalogues import clipped
from streamer.core.protocol import ItemRecord
from streamer.core.rejections import MAX_TEXT_BYTES
from streamer.errors import DataError

USERS, TAGS = 3, 6
"""Users who must agree on an artist's tag, and the most tags of an artist."""


def recognises(path: Path) -> bool:
    return (path / "user_taggedartists.dat").is_file() and (path / "artists.dat").is_file()


def read(path: Path, builder: InteractionsBuilder) -> None:
    tags = {tag: name for _, (tag, name) in _rows(path / "tags.dat", 2)}
    given: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    agree: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for where, (user, artist, tag, day, month, year) in _rows(path / "user_taggedartists.dat", 6):
        try:
            moment = datetime(int(year), int(month), int(day), tzinfo=UTC)
        except ValueError as error:
            raise DataError(f"{where}: day {day}, month {month}, year {year} is no date") from error
        if moment.year < 2000:  # a few assignments are dated 1956 to 1979, before Last.fm was
            builder.leave_out("tag assignments dated before 2000")
            continue
        name = tags.get(tag, "")
        given[user, artist, int(moment.timestamp() * 1000)].append(name)
        agree[artist][name].add(user)
    for _, (artist, name, *_) in _rows(path / "artists.dat", 2):
        found = {tag: len(users) for tag, users in agree[artist].items() if tag and len(users) >= USERS}
        labels = sorted(found, key=lambda tag: (-found[tag], tag))[:TAGS]
        builder.add_item(ItemRecord(artist, name, categories=labels))
    for (user, artist, time_ms), names in given.items():
        builder.add(
            user, artist, "tag", time_ms, text=clipped(", ".join(filter(None, names)), MAX_TEXT_BYTES)
        )
    if (path / "user_friends.dat").is_file():
        for _, (user, friend) in _rows(path / "user_friends.dat", 2):
            builder.add_friend(user, friend)


def _rows(file: Path, least: int) -> Iterator[tuple[str, list[str]]]:
    """(where it stands, fields) of every line but the header."""
    if not file.is_file():
        raise DataError(f"{file.parent} has no {file.name}: unpack hetrec2011-lastfm-2k.zip into it")
    with file.open(encoding="latin-1" if file.name == "tags.dat" else "utf-8", newline="\n") as lines:
        next(lines, None)
        for number, line in enumerate(lines, 2):
            row = line.rstrip("\r\n").split("\t")
            if len(row) < least:
                raise DataError(
                    f"{file.name}:{number} has {len(row)} fields separated by tabs, expected {least}"
                )
            yield f"{file.name}:{number}", row
