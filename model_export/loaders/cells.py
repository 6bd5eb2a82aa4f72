"""One cell of a table as an id, a number or a moment, or a DataError that says where it stands and what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from streamer.errors import DataError

Row = Mapping[str, Any]

_DATES = (
    "%m/%d/%Y %I:%M:%S %p",  # MIND
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",  # only reached where the day is above 12
    "%m %d, %Y",  # Amazon's reviewTime
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%Y%m%d",
)
_LONGEST = 256
"""Bytes of an id that a worker takes (streamer.core.rejections)."""


def is_empty(found: Any) -> bool:
    return found is None or found == "" or (isinstance(found, float) and math.isnan(found))


def id_of(found: Any, where: str, name: str) -> str:
    """An id as text: whole floats (a column with gaps in pandas) lose their `.0`. Raises DataError."""
    if is_empty(found):
        raise DataError(f"{where}: {name!r} is empty")
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found).strip()
    if not text:
        raise DataError(f"{where}: {name!r} is empty")
    if len(text) > _LONGEST // 4 and len(text.encode()) > _LONGEST:
        raise DataError(
            f"{where}: {name!r} has {len(text.encode())} bytes ({text[:40]}…), an id has at most {_LONGEST}: "
            "is the column mapped rightly?"
        )
    return text


def number_of(found: Any, where: str, name: str) -> float:
    """A finite number; a decimal comma is taken for a point. Raises DataError."""
    try:
        number = float(found.replace(",", ".") if isinstance(found, str) else found)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError):
        pass
    raise DataError(f"{where}: {name!r} is {found!r}, which is no number")


def time_ms_of(found: Any, where: str, name: str, *, scale: int = 0, time_format: str | None = None) -> int:
    """Milliseconds since 1970 of a number, a date or its text; what has no zone is UTC.

    `scale`: milliseconds in one unit of a number; 0 goes by its size (seconds, milliseconds, microseconds or nanoseconds,
    which are told apart for all moments from 1973 to 5138). `time_format`: of strptime, for texts that are neither numbers
    nor ISO 8601. Raises DataError.
    """
    if isinstance(found, datetime):
        return _epoch_ms(found)
    if isinstance(found, date):
        return _epoch_ms(datetime(found.year, found.month, found.day))
    if time_format is not None and isinstance(found, str):
        try:
            return _epoch_ms(datetime.strptime(found.strip(), time_format))
        except ValueError as error:
            raise DataError(
                f"{where}: {name!r} is {found!r}, which does not fit the time format {time_format!r}"
            ) from error
    try:
        number = float(found)
    except (TypeError, ValueError):
        return _epoch_ms(_date_of(found, where, name))
    if not math.isfinite(number):
        raise DataError(f"{where}: {name!r} is {found!r}, which is no moment")
    return math.floor(number * (scale or _scale_of(number)) + 1e-6)


def _scale_of(number: float) -> float:
    size = abs(number)
    for limit, scale in ((1e11, 1000.0), (1e14, 1.0), (1e17, 1e-3)):
        if size < limit:
            return scale
    return 1e-6


def _date_of(found: Any, where: str, name: str) -> datetime:
    text = str(found).strip()
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for form in _DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise DataError(
        f"{where}: {name!r} is {found!r}, which is no number of seconds or milliseconds and no known date: "
        "write ISO 8601, or name its form with --time-format '%d.%m.%Y %H:%M'"
    )


def _epoch_ms(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
