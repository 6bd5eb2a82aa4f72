"""What a user can do: the table of event types, explicit and implicit signals side by side.

State records keep the *code* of a type, never its name, so a code is stable forever; 0 means "no event": a request for a
fresh list has it on its way through a batch, and no record ever does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from streamer.errors import SettingsError

MAX_CODE = 31
"""Codes fit five bits: the rolling counts and the model's type embedding have room for 0..31."""

REFRESH, REFRESH_CODE = "refresh", 0
"""Type of a record on `events` that is none: it asks for the user's profile and list as they would be now."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event.

    `weight` is what it adds to the user's interests, `consumes` says that its item counts as consumed
    (`exclude_seen`), and `value_min`..`value_max` (both inclusive) bound `value`; infinite bounds mean "no
    range of its own".
    """

    name: str
    code: int
    weight: float
    explicit: bool = False
    uses_value: bool = False
    uses_text: bool = False
    consumes: bool = False
    value_min: float = -math.inf
    value_max: float = math.inf
    needs_target: bool = False
    """An event of this type must name a `target_user_id`."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise SettingsError(f"event type {self.name!r}: {problem}")


class EventTypes:
    """An immutable table of event types, found by name (in events) and by code (in state records)."""

    DEFAULT: ClassVar[EventTypes]

    __slots__ = ("_ordered", "by_code", "by_name")

    by_name: Mapping[str, EventType]
    by_code: Mapping[int, EventType]

    def __init__(self, types: Iterable[EventType]) -> None:
        """Raises SettingsError when two types share a name or a code, or there are none."""
        by_name: dict[str, EventType] = {}
        by_code: dict[int, EventType] = {}
        for each in types:
            if each.name in by_name:
                raise SettingsError(f"event type {each.name!r} is listed twice: keep one of the two")
            if each.code in by_code:
                raise SettingsError(
                    f"event types {by_code[each.code].name!r} and {each.name!r} share code {each.code}: "
                    "give one of them a free code"
                )
            by_name[each.name] = by_code[each.code] = each
        if not by_name:
            raise SettingsError(
                "the table of event types is empty: list at least one, or leave the setting out"
            )
        self._ordered = tuple(by_code[code] for code in sorted(by_code))
        self.by_name = MappingProxyType(by_name)
        self.by_code = MappingProxyType(by_code)

    @classmethod
    def from_table(cls, rows: Iterable[Mapping[str, Any]]) -> EventTypes:
        """The types of a configuration table: rows of EventType's fields. Raises SettingsError."""
        return cls(_from_row(position, row) for position, row in enumerate(rows))

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._ordered)

    def __len__(self) -> int:
        return len(self._ordered)

    def __eq__(self, other: object) -> bool:
        return self._ordered == other._ordered if isinstance(other, EventTypes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._ordered)

    def __repr__(self) -> str:
        return f"EventTypes({', '.join(f'{each.name}={each.code}' for each in self._ordered)})"


def _from_row(position: int, row: Mapping[str, Any]) -> EventType:
    if not isinstance(row, Mapping):
        raise SettingsError(
            f"event type number {position + 1} is {row!r}: write it as a table with name, code and weight"
        )
    where = f"event type {row.get('name', f'number {position + 1}')!r}"
    known = {field.name for field in fields(EventType)}
    unknown = sorted(set(map(str, row)) - known)
    if unknown:
        raise SettingsError(
            f"{where}: {unknown[0]!r} is no field of an event type; the fields are {', '.join(sorted(known))}"
        )
    missing = [name for name in ("name", "code", "weight") if name not in row]
    if missing:
        raise SettingsError(f"{where}: {missing[0]!r} is missing; name, code and weight are required")
    return EventType(**row)


def _problem(each: EventType) -> str | None:
    """What is wrong with a type, as the end of a sentence; None when nothing is."""
    if not isinstance(each.name, str) or not _NAME.fullmatch(each.name):
        return "a name is a letter followed by at most 63 letters, digits, '_', '.' or '-'"
    if each.name == REFRESH:
        return "the name is reserved: a record of that type asks for a fresh list and is no event; choose another"
    if type(each.code) is not int or not 1 <= each.code <= MAX_CODE:
        return f"code is {each.code!r}, it must be a whole number from 1 to {MAX_CODE}"
    for name in ("explicit", "uses_value", "uses_text", "consumes", "needs_target"):
        if type(getattr(each, name)) is not bool:
            return f"{name} is {getattr(each, name)!r}, it must be true or false"
    for name in ("weight", "value_min", "value_max"):
        if type(getattr(each, name)) not in (int, float) or math.isnan(getattr(each, name)):
            return f"{name} is {getattr(each, name)!r}, it must be a number"
    if not 0 <= each.weight < math.inf:
        return f"weight is {each.weight!r}, it must be finite and not negative"
    if not each.value_min < each.value_max:
        return f"value_min {each.value_min!r} is not below value_max {each.value_max!r}"
    return None


EventTypes.DEFAULT = DEFAULT = EventTypes(
    (
        EventType("view", 1, 0.3),
        EventType("click", 2, 0.4),
        EventType("dwell", 3, 0.5, uses_value=True, value_min=0.0),  # seconds
        EventType("search", 4, 0.2, uses_text=True),
        EventType("cart", 5, 0.7),
        EventType("purchase", 6, 1.0, explicit=True, consumes=True),
        EventType(
            "rating", 7, 1.0, explicit=True, uses_value=True, consumes=True, value_min=0.0, value_max=10.0
        ),
        EventType("favourite", 8, 0.9, explicit=True, consumes=True),
        EventType(
            "review",
            9,
            1.0,
            explicit=True,
            uses_value=True,
            uses_text=True,
            consumes=True,
            value_min=0.0,
            value_max=10.0,
        ),
        EventType("share", 10, 0.8),
        EventType("follow", 11, 0.5, needs_target=True),
        EventType("like", 12, 0.8, explicit=True),
        EventType("comment", 13, 0.7, uses_text=True),
        EventType("play", 14, 0.6, consumes=True),
        EventType("skip", 15, 0.1),
        EventType("impression", 16, 0.05),
        EventType("tag", 17, 0.7, explicit=True, uses_text=True),
    )
)
"""The types that Headwater knows without any configuration. Add, never renumber."""
