"""What is wrong with a log, mended where that is safe, and said; per-user standing of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model_export.interactions import NONE, Interactions
from streamer.core.event_types import EventTypes
from streamer.core.events import MAX_AHEAD_MS
from streamer.errors import DataError

F32 = NDArray[np.float32]
_PRIOR = 5.0
"""Ratings of the average user that are counted in with each user's own."""


def clean(
    data: Interactions, types: EventTypes, now_ms: int, say: Callable[[str], None] = lambda line: None
) -> Interactions:
    """The events that a worker would take, each once, in the order of the log; `say` hears what was left out.

    Left out: what lies before 1970 or more than a day after `now_ms`, values outside their type's range, and exact repeats
    (user, item, type, time, value and text the same). Raises DataError when that is half of the log or more (repeats
    aside), or when one user is all there is.
    """
    in_time = (data.timestamp_ms >= 0) & (data.timestamp_ms <= now_ms + MAX_AHEAD_MS)
    _leave_out(data, ~in_time, "with a time before 1970 or in the future", _time_hint(data, in_time), say)
    data = data.take(np.flatnonzero(in_time))
    wrong = _out_of_range(data, types)
    hint = "give the type its value_min and value_max with --event-types"
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        kind = types.by_code[int(data.type[first])]
        hint += (
            f" (a {kind.name} of {data.value[first]:g}, taken are {kind.value_min:g} to {kind.value_max:g})"
        )
    _leave_out(data, wrong, "with a value out of its type's range", hint, say)
    data = _once(data.take(np.flatnonzero(~wrong)), say)
    users = len(np.unique(data.user))
    if users < 2:
        name = data.users[int(data.user[0])]
        raise DataError(
            f"all {len(data):,} events are of one user, {name!r}: what others do cannot be learned from that. "
            "Name the right column with --column user_id=COLUMN, or give a log of several users"
        )
    if (unordered := int((np.diff(data.timestamp_ms) < 0).sum())) and unordered > len(data) // 100:
        say(
            f"the log is not in time order ({unordered:,} steps back): its events are sorted by their timestamps"
        )
    _look_at_items(data, say)
    _look_at_graph(data, say)
    return data


def standing(data: Interactions, types: EventTypes) -> F32:
    """How a value stands among its user's values of that type, (n,) in about [-3, 3]; 0 for types without values.

    A z-score whose mean and variance are shrunk towards the type's: users rate on scales of their own (Herlocker et al.
    1999), and a user's first few ratings say little about it.
    """
    scores = np.zeros(len(data), np.float64)
    for each in types:
        rows = np.flatnonzero(data.type == each.code)
        if not each.uses_value or not len(rows):
            continue
        value, user = data.value[rows].astype(np.float64), data.user[rows]
        mean, variance = value.mean(), value.var()
        n = np.bincount(user, minlength=len(data.users)) + _PRIOR
        own = (np.bincount(user, value, len(data.users)) + _PRIOR * mean) / n
        off = value - own[user]
        spread = (np.bincount(user, off**2, len(data.users)) + _PRIOR * variance) / n
        scores[rows] = off / np.sqrt(np.maximum(spread[user], 1e-12))
    return np.clip(scores, -3, 3).astype(np.float32)


def weigh_by_value(data: Interactions, types: EventTypes, strength: float) -> Interactions:
    """Targets that their user liked count more: the type's weight times exp(strength × standing), mean kept."""
    if not strength:
        return data
    weight = data.weights(types)
    factor = np.exp(strength * standing(data, types))
    total = float((weight * factor).sum())
    scale = float(weight.sum()) / total if total else 1.0
    return replace(data, weight=(weight * factor * scale).astype(np.float32))


def _leave_out(
    data: Interactions, which: NDArray[np.bool_], what: str, hint: str, say: Callable[[str], None]
) -> None:
    n = int(which.sum())
    if 2 * n >= len(data):
        raise DataError(f"{n:,} of {len(data):,} events are {what}: {hint}")
    if n:
        say(f"left out: {n:,} of {len(data):,} events {what} ({hint})")


def _time_hint(data: Interactions, in_time: NDArray[np.bool_]) -> str:
    if in_time.all():
        return ""
    worst = int(data.timestamp_ms[~in_time][0])
    return (
        f"the first such time is {worst} ms since 1970; map seconds with --column timestamp_s=COLUMN, "
        "milliseconds with timestamp_ms=COLUMN, anything else with timestamp=COLUMN"
    )


def _out_of_range(data: Interactions, types: EventTypes) -> NDArray[np.bool_]:
    low, high = np.full(32, -np.inf), np.full(32, np.inf)
    for each in types:
        if each.uses_value:
            low[each.code], high[each.code] = each.value_min, each.value_max
    # a value that is absent is stored as 0, which every type may have
    wrong: NDArray[np.bool_] = (data.value < low[data.type]) | (data.value > high[data.type])
    wrong &= data.value != 0
    return wrong


def _once(data: Interactions, say: Callable[[str], None]) -> Interactions:
    columns = (data.user, data.item, data.type, data.timestamp_ms, data.value, data.text)
    order = np.lexsort(columns[::-1])
    same = np.ones(len(order) - 1, np.bool_)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    first = np.ones(len(order), np.bool_)
    first[order[1:][same]] = False  # lexsort is stable: the first of equals stays
    if repeats := int(same.sum()):
        say(f"left out: {repeats:,} exact repeats of an event")
    return data.take(np.flatnonzero(first))


def _look_at_items(data: Interactions, say: Callable[[str], None]) -> None:
    seen = np.flatnonzero(data.popularity)
    bare = sum(1 for row in seen.tolist() if not (data.items[row].title or data.items[row].text))
    if bare:
        say(
            f"{bare:,} of {len(seen):,} items have no text: new ones among them can only be ranked by what others do "
            "with them; give their titles with --items FILE"
        )


def _look_at_graph(data: Interactions, say: Callable[[str], None]) -> None:
    if not len(data.friends):
        return
    active = np.bincount(data.user, minlength=len(data.users)) > 0
    known = active[data.friends]  # (m, 2)
    dangling = int((~known.any(axis=1)).sum())
    ends = int((~active[np.unique(data.friends)]).sum())
    if ends:
        say(
            f"{ends:,} users of the graph have no event; they are known by their friends alone "
            f"({dangling:,} of {len(data.friends):,} pairs join two such users and say nothing)"
        )


def describe_items(data: Interactions, most: int = 1500) -> Interactions:
    """Items without any text get their earliest reviews (the texts of their events), up to `most` characters.

    Call it on the events before the cut: the text of a later review would tell who wrote it.
    """
    bare = np.array([not (item.title or item.text) for item in data.items])
    rows = np.flatnonzero((data.text != NONE) & (data.item != NONE) & bare[data.item])
    rows = rows[np.argsort(data.timestamp_ms[rows], kind="stable")]
    texts: dict[int, str] = {}
    for item, text in zip(data.item[rows].tolist(), data.text[rows].tolist(), strict=True):
        so_far = texts.get(item, "")
        if len(so_far) < most:
            texts[item] = f"{so_far} {data.texts[text]}".strip()[:most]
    items = list(data.items)
    for item, text in texts.items():
        items[item] = type(items[item])(
            items[item].item_id, "", text=text, categories=items[item].categories, price=items[item].price
        )
    return replace(data, items=items)
