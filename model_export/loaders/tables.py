"""Tables by their ending: CSV, TSV, Parquet and JSON lines, plain or gzipped, as rows by column name."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from model_export.loaders.cells import Row
from streamer.errors import DataError

TABLES = (".csv", ".tsv", ".txt", ".dat", ".parquet", ".jsonl", ".ndjson", ".json")
_JSON = (".jsonl", ".ndjson", ".json")


def kind_of(path: Path) -> str:
    """The ending that tells what is in the file, `.gz` aside."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def open_text(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8-sig", newline="") if path.suffix == ".gz" else path.open(
        encoding="utf-8-sig", newline=""
    )  # fmt: skip


def read_table(file: Path) -> tuple[Sequence[str], Iterable[Row]]:
    """Column names and rows of a table. Raises DataError, also while rows are taken."""
    kind = kind_of(file)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    if kind == ".parquet":
        return _parquet(file)
    if kind in _JSON:
        return _json_lines(file)
    return _separated(file)


def _separated(file: Path) -> tuple[Sequence[str], Iterable[Row]]:
    with open_text(file) as lines:
        header = lines.readline().rstrip("\r\n")
    separator = max(("\t", ",", ";", "|"), key=header.count)
    quoting: Literal[0, 3] = (
        csv.QUOTE_NONE if separator == "	" else csv.QUOTE_MINIMAL
    )  # a title may hold a quote
    names = next(csv.reader([header], delimiter=separator, quoting=quoting), [])
    names = [name.strip().partition(":")[0] for name in names]  # RecBole writes the type behind a colon

    def rows() -> Iterator[Row]:
        csv.field_size_limit(1 << 24)
        with open_text(file) as lines:
            reader = csv.reader(lines, delimiter=separator, quoting=quoting)
            next(reader, None)
            try:
                for row in reader:
                    if row:
                        yield dict(zip(names, row, strict=False))
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{file.name}, line {reader.line_num}: {error}") from error

    return names, rows()


def _parquet(file: Path) -> tuple[Sequence[str], Iterable[Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from error
    return opened.schema_arrow.names, (row for batch in opened.iter_batches() for row in batch.to_pylist())


def _json_lines(file: Path) -> tuple[Sequence[str], Iterable[Row]]:
    first = next(_objects(file), {})
    return list(first), _objects(file)


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise DataError(f"{file.name}:{number} is no JSON object: {error}") from error
