"""What users of a foreign log do, as Headwater's event types, and the values of their events."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamer.core.event_types import EventType, EventTypes

OWN_CODES = range(17, 32)
"""Codes of event types that Headwater does not know by default; 0 to 16 are taken."""
SYNONYMS = {
    "transaction": "purchase",
    "buy": "purchase",
    "order": "purchase",
    "addtocart": "cart",
    "add_to_cart": "cart",
    "basket": "cart",
    "pv": "view",
    "pageview": "view",
    "clk": "click",
    "fav": "favourite",
    "favorite": "favourite",
    "rate": "rating",
    "listen": "play",
    "watch": "play",
}


def event_types(
    names: pl.Series | None, values: pl.Series | None, events: int
) -> tuple[EventTypes, NDArray[np.uint8]]:
    """The table of event types, and the code of each event (n,). Rows without a type count as views."""
    if values is not None and not values.is_finite().fill_null(False).any():
        values = None
    if names is None:
        each = EventTypes.DEFAULT.by_name["view" if values is None else "rating"]
        each = replace(each, weight=1.0, **({} if values is None else _bounds(values)))
        return EventTypes([each]), np.full(events, each.code, np.uint8)
    plain = names.fill_null("view").str.to_lowercase()
    counted = plain.value_counts(sort=True)[plain.name].to_list()
    free = list(OWN_CODES)
    table: dict[int, EventType] = {}
    code_of: dict[str, int] = {}
    for name in counted:
        known = EventTypes.DEFAULT.by_name.get(SYNONYMS.get(name, name))
        if known is not None:
            table[known.code] = replace(known, needs_target=False, uses_text=False)
            code_of[name] = known.code
        elif len(free) > 1 or name == counted[-1]:
            code = free.pop(0)
            table[code] = EventType(_type_name(name, code), code, 0.5)
            code_of[name] = code
        else:  # the rarest share the last code
            code_of[name] = free[0]
            table.setdefault(free[0], EventType("other", free[0], 0.3))
    bounds = {"uses_value": False} if values is None else _bounds(values)
    table = {code: replace(each, **bounds) for code, each in table.items()}
    return EventTypes(table.values()), np.array([code_of[name] for name in plain.to_list()], np.uint8)


def _type_name(name: str, code: int) -> str:
    cleaned = re.sub(r"[^a-z0-9_.-]", "-", name)[:50].strip("-")
    return f"t{code}-{cleaned}" if cleaned else f"t{code}"


def _bounds(values: pl.Series) -> dict[str, Any]:
    """The range of a value: what a few outliers have is cut to it (`_values`)."""
    there = values.filter(values.is_finite().fill_null(False))
    low, high = float(there.quantile(0.005) or 0.0), float(there.quantile(0.995) or 0.0)
    return {"uses_value": True, "value_min": low, "value_max": high if high > low else low + 1.0}


def clipped(values: pl.Series | None, events: int) -> NDArray[np.float32]:
    """(n,) cut to the range that most have; NaN where there is none."""
    if values is None:
        return np.full(events, np.nan, np.float32)
    finite = values.set(~values.is_finite().fill_null(False), None)
    if finite.null_count() == events:
        return np.full(events, np.nan, np.float32)
    bounds = _bounds(finite)
    cut = finite.clip(bounds["value_min"], bounds["value_max"])
    return cut.cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()


def with_follow(types: EventTypes) -> EventTypes:
    """The same table with `follow`, by which users are met."""
    if "follow" in types.by_name:
        return types
    return EventTypes([*types, replace(EventTypes.DEFAULT.by_name["follow"], needs_target=False)])
