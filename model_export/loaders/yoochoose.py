"""YooChoose (RecSys Challenge 2015): sessions of clicks and buys, each session a user who never comes back.

Either as published (`yoochoose-clicks.dat`, `yoochoose-buys.dat`: commas, no header, ISO times) or prepared as by
session-rec (`yoochoose-clicks-*.txt`: tabs, SessionId, ItemId, Time in seconds); all files of the folder are one log.
"""

from __future__ import annotations

from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders.cells import id_of, time_ms_of
from model_export.loaders.tables import open_text
from streamer.errors import DataError

_FILES = "yoochoose-*"


def recognises(path: Path) -> bool:
    return bool(_files(path))


def read(path: Path, builder: InteractionsBuilder) -> None:
    for file in _files(path):
        kind = "purchase" if "buys" in file.name else "click"
        with open_text(file) as lines:
            for number, line in enumerate(lines, 1):
                where = f"{file.name}:{number}"
                prepared = "\t" in line
                fields = line.rstrip("\r\n").split("\t" if prepared else ",")
                if prepared and fields[0] == "SessionId":
                    continue
                if len(fields) < 3:
                    raise DataError(f"{where}: {line.strip()!r} is not session, item, time")
                session, item, time = fields[:3] if prepared else (fields[0], fields[2], fields[1])
                builder.add(
                    id_of(session, where, "SessionId"),
                    id_of(item, where, "ItemId"),
                    kind,
                    time_ms_of(time, where, "Time", scale=1000),
                )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.match(_FILES) else []
    return [file for file in sorted(path.glob(_FILES)) if file.suffix in (".dat", ".txt")]
