"""Whatever a log calls time → milliseconds since 1970.

Numbers are epochs, their unit told by their size, or dates written as YYYYMMDD; texts are numbers or one of the usual ways to
write a date. What says nothing stays null.
"""

from __future__ import annotations

import polars as pl

from streamer.errors import DataError

_UNITS = ((1e11, "s", 1_000.0), (1e14, "ms", 1.0), (1e17, "µs", 1e-3), (float("inf"), "ns", 1e-6))
"""Below the first number the median is in that unit: 10¹¹ s is the year 5138, 10¹¹ ms is 1973."""

_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f %#z",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%y %H:%M",
    "%m/%d/%y",
    "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M",
    "%d-%m-%Y",
    "%m %d, %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %b %Y",
    "%d %B %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
)
_SAMPLE = 2_000
_CALENDAR = ("year", "month", "day", "hour", "minute", "second")


def milliseconds(column: pl.Series) -> tuple[pl.Series, str]:
    """(n,) → (n,) Int64 with nulls where nothing can be read, and what the column was taken for.

    Raises DataError where not even half of the values that are there can be read.
    """
    kind = column.dtype
    if kind.is_temporal():
        return _of_dates(column)
    if kind == pl.Boolean or not (kind.is_numeric() or kind == pl.String):
        raise DataError(
            f"column {column.name!r} holds {kind}, which is no time: name the one with the time stamps"
        )
    there = column.drop_nulls()
    if not len(there):
        raise DataError(f"column {column.name!r} holds no time stamp at all")
    if kind.is_numeric():
        return _of_numbers(column.cast(pl.Float64))
    text = column.str.strip_chars().str.strip_chars('"')
    numbers = text.str.replace(r"^(\d+),(\d+)$", "$1.$2").cast(pl.Float64, strict=False)
    if numbers.is_not_null().sum() >= 0.5 * max(1, len(text.filter(text.fill_null("") != ""))):
        exact = text.cast(pl.Int64, strict=False)
        if exact.is_not_null().sum() == numbers.is_not_null().sum():
            return _of_integers(exact)
        return _of_numbers(numbers)
    return _of_texts(text)


def joined(frame: pl.DataFrame, names: list[str]) -> pl.Series:
    """Several columns as one time: year, month, day (and hour, minute, second) by those names, or a date and a clock."""
    lowered = {name.lower(): name for name in names}
    if set(lowered) <= set(_CALENDAR) and {"year", "month", "day"} <= set(lowered):
        parts = {
            part: pl.col(lowered[part]).cast(pl.Int32, strict=False) for part in _CALENDAR if part in lowered
        }
        return frame.select(pl.datetime(**parts).alias(",".join(names))).to_series()  # type: ignore[arg-type]
    text = pl.concat_str([pl.col(name).cast(pl.String) for name in names], separator=" ")
    return frame.select(text.alias(",".join(names))).to_series()


def _of_dates(column: pl.Series) -> tuple[pl.Series, str]:
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("ms")).dt.timestamp("ms"), "dates"
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.timestamp("ms"), "time stamps"
    raise DataError(
        f"column {column.name!r} holds {column.dtype}, which is no moment: name the one with date and time"
    )


def _of_integers(column: pl.Series) -> tuple[pl.Series, str]:
    dates = _calendar_days(column)
    if dates is not None:
        return dates
    return _of_numbers(column.cast(pl.Float64))


def _calendar_days(column: pl.Series) -> tuple[pl.Series, str] | None:
    """20140401: every value a day of the calendar since 1970, written as a number."""
    there = column.drop_nulls()
    if not there.is_between(19700101, 21001231).all():
        return None
    days = column.cast(pl.String).str.strptime(pl.Date, "%Y%m%d", strict=False)
    if days.null_count() > column.null_count():
        return None
    return days.cast(pl.Datetime("ms")).dt.timestamp("ms"), "dates YYYYMMDD"


def _of_numbers(column: pl.Series) -> tuple[pl.Series, str]:
    finite = column.set(~column.is_finite().fill_null(False), None)
    there = finite.drop_nulls()
    if not len(there):
        raise DataError(f"column {column.name!r} holds no number that could be a time")
    if (there == there.round(0)).all() and (dates := _calendar_days(there.cast(pl.Int64))) is not None:
        return _calendar_days(finite.cast(pl.Int64, strict=False)) or dates
    middle = abs(float(there.median() or 0.0))  # type: ignore[arg-type]
    unit, factor = next((unit, factor) for below, unit, factor in _UNITS if middle < below)
    return (finite * factor).round(0).cast(pl.Int64, strict=False), f"epochs in {unit}"


def _of_texts(column: pl.Series) -> tuple[pl.Series, str]:
    there = column.filter(column.fill_null("") != "")
    sample = there.sample(min(_SAMPLE, len(there)), seed=0) if len(there) else there
    rates = {each: _parsed(sample, each).is_not_null().mean() or 0.0 for each in _FORMATS}
    best = max(rates, key=lambda each: float(rates[each]))  # type: ignore[arg-type]  # the first of equals
    found = _parsed(column, best)
    for each in _FORMATS:  # a year that comes first leaves no doubt about the rest
        if each.startswith("%Y") and best.startswith("%Y") and found.null_count() > column.null_count():
            found = pl.select(pl.coalesce(found, _parsed(column, each))).to_series()
    if found.is_not_null().sum() < 0.5 * len(there):
        example = column.filter(found.is_null() & (column.fill_null("") != ""))[0]
        raise DataError(
            f"column {column.name!r} holds {example!r}, which is no time that can be read: write ISO 8601 "
            "(2024-05-01T12:00:00Z) or an epoch in s, ms, µs or ns"
        )
    return found, f"texts like {best.replace('%.f', '').replace('%#z', '%z')}"


def _parsed(column: pl.Series, form: str) -> pl.Series:
    try:
        if "%H" not in form and "%I" not in form:
            return column.str.strptime(pl.Date, form, strict=False).cast(pl.Datetime("ms")).dt.timestamp("ms")
        return column.str.strptime(pl.Datetime("ms"), form, strict=False).dt.timestamp("ms")
    except pl.exceptions.PolarsError:  # a format that this polars does not know
        return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
