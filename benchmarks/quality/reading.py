"""Columns out of a file that nobody has seen before: CSV, TSV and their kin, RecBole's atomic files, Parquet, JSON lines.

Text formats are read as text; what a column means is decided afterwards (times.py, log.py), never by the reader.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from streamer.errors import DataError

_SEPARATORS = ("\t", ",", ";", "|", "::", " ")
_PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 1 << 16


def read_columns(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of `file`, under these names, in file order.

    A column may be named with or without RecBole's type (`user_id:token`), and by its number from 1 where every name given
    is a number and no header has it (then the file has no header). Raises DataError.
    """
    if not file.exists():
        raise DataError(f"there is no file {file}: check the path")
    if not file.is_file():
        raise DataError(f"{file} is a folder: name the file in it that holds the table")
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    if not head:
        raise DataError(f"{file} is empty")
    if head.startswith(_PARQUET):
        return _parquet(file, columns)
    if head.startswith(_GZIP):
        with gzip.open(file) as unpacked:
            head = unpacked.read(_HEAD_BYTES)
    if head.startswith(_ZIP):
        raise DataError(f"{file} is a ZIP archive or a spreadsheet: unpack it, or save the sheet as CSV")
    if head.lstrip().startswith((b"{", b"[")):
        return _json(file, columns)
    return _text(file, head, columns)


def first_column(file: Path) -> str:
    """The name of the first column, as `read_columns` takes it. Raises DataError."""
    try:
        read_columns(file, ["\0"])
    except NoColumn as error:
        if error.names:
            return error.names[0]
        raise
    raise DataError(f"{file} has no columns")


class NoColumn(DataError):
    """A wanted column is not there; `names` are."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = names


def _parquet(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        names = list(pl.read_parquet_schema(file))
        found = _find(file, names, columns)
        return _named(pl.read_parquet(file, columns=list(dict.fromkeys(found))), found, columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _json(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """JSON lines, or one array of objects. What cannot be decoded names its line."""
    content = _bytes(file)
    try:
        rows: list[Any] = (
            msgspec.json.decode(content) if content.lstrip().startswith(b"[") else _lines(file, content)
        )
    except msgspec.DecodeError as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    rows = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    found = _find(file, names, columns)
    values = {name: [_flat(row.get(name)) for row in rows] for name in dict.fromkeys(found)}
    frame = pl.DataFrame({name: pl.Series(name, each, strict=False) for name, each in values.items()})
    return _named(frame, found, columns)


def _lines(file: Path, content: bytes) -> list[Any]:
    decode = msgspec.json.Decoder().decode
    rows, bad = [], 0
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad += 1
            if bad > max(10, number // 10):
                raise DataError(
                    f"{file.name}:{number} is no JSON ({error}): write one object a line"
                ) from error
    return rows


def _flat(value: Any) -> Any:
    """Lists of texts become one text: categories, tags."""
    if isinstance(value, list):
        return " ".join(str(each) for each in value)
    return str(value) if isinstance(value, dict | bool) else value


def _text(file: Path, head: bytes, columns: Sequence[str]) -> pl.DataFrame:
    header = head.decode("utf-8-sig", "replace").splitlines()[0]
    separator = _separator(header, columns)
    names = [name.strip().strip('"') for name in header.split(separator)]
    numbered = all(name.isdigit() for name in columns) and not set(columns) & set(names)
    if numbered:
        names = [str(number) for number in range(1, len(names) + 1)]
    source: Any = file
    if separator == "::":
        content = _bytes(file).decode("utf-8", "replace").replace("\t", " ").replace("::", "\t").encode()
        source, separator = content, "\t"
    found = _find(file, names, columns)
    frame = _csv(file, source, separator, names, has_header=not numbered)
    return _named(frame.select(list(dict.fromkeys(found))), found, columns)


def _separator(header: str, columns: Sequence[str]) -> str:
    """The one that finds most of the wanted columns in the first line; of equals the one that splits it into more."""

    def found(separator: str) -> tuple[int, int]:
        names = {name.strip().strip('"').partition(":")[0] for name in header.split(separator)}
        return len(names & set(columns)), header.count(separator) if separator != "::" else 2 * header.count(
            "::"
        )

    return max(_SEPARATORS, key=found)


def _csv(file: Path, source: Any, separator: str, names: list[str], *, has_header: bool) -> pl.DataFrame:
    """With quotes as CSV has them; where that fails (a lone quote in a text) without any."""
    problem: Exception | None = None
    for quote in ('"', None):
        try:
            frame = pl.read_csv(
                source,
                separator=separator,
                has_header=has_header,
                new_columns=names,
                infer_schema=False,
                quote_char=quote,
                encoding="utf8-lossy",
                truncate_ragged_lines=True,
            )
        except (pl.exceptions.PolarsError, OSError, EOFError) as error:
            problem = error
            continue
        return frame
    raise DataError(f"{file} cannot be read as a table separated by {separator!r}: {problem}") from problem


def _bytes(file: Path) -> bytes:
    content = file.read_bytes()
    try:
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be unpacked: {error}") from error


def _find(file: Path, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The file's own name of each wanted column."""
    ways: tuple[Callable[[str], str], ...] = (str.lower, lambda name: name.partition(":")[0], str)
    own = {way(name): name for way in ways for name in reversed(names)}  # the exact name wins
    own |= {name: own[name.lower()] for name in columns if name not in own and name.lower() in own}
    missing = [name for name in columns if name not in own]
    if missing:
        shown = ", ".join(names[:40]) or "none"
        raise NoColumn(
            f"{file.name} has no column {missing[0]!r}; its columns are {shown}. "
            "(A file without a header: name its columns by number, from 1)",
            names,
        )
    return [own[name] for name in columns]


def _named(frame: pl.DataFrame, found: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    own = dict(zip(columns, found, strict=True))
    return frame.select(pl.col(its).alias(name) for name, its in own.items())
