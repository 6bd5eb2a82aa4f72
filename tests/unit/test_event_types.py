"""The table of event types and the stored hashes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from streamer.core.event_types import EventType, EventTypes
from streamer.core.hashing import event_hash, item_hash, label_hash, model_number
from streamer.errors import SettingsError


def test_default_codes_are_those_in_stored_records() -> None:
    assert {each.name: each.code for each in EventTypes.DEFAULT} == {
        "view": 1, "click": 2, "dwell": 3, "search": 4, "cart": 5, "purchase": 6, "rating": 7, "favourite": 8,
        "review": 9, "share": 10, "follow": 11, "like": 12, "comment": 13, "play": 14, "skip": 15,
        "impression": 16, "tag": 17,
    }  # fmt: skip


def test_default_roles() -> None:
    def named(field: str) -> set[str]:
        return {each.name for each in EventTypes.DEFAULT if getattr(each, field)}

    assert named("consumes") == {"purchase", "rating", "favourite", "review", "play"}
    assert named("explicit") == {"purchase", "rating", "favourite", "review", "like", "tag"}
    assert named("uses_text") == {"search", "review", "comment", "tag"}
    assert named("uses_value") == {"dwell", "rating", "review"}
    assert named("needs_target") == {"follow"}


def test_a_table_is_found_by_name_and_code() -> None:
    types = EventTypes.from_table(
        [
            {"name": "watch", "code": 31, "weight": 1},
            {"name": "rate", "code": 2, "weight": 0.5, "uses_value": True},
        ]
    )
    assert types.by_name["watch"] is types.by_code[31]
    assert [each.name for each in types] == ["rate", "watch"]
    assert types == EventTypes([EventType("rate", 2, 0.5, uses_value=True), EventType("watch", 31, 1)])


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        EventTypes.DEFAULT.by_name["view"] = EventType("view", 1, 1.0)  # type: ignore[index]


GOOD = {"name": "watch", "code": 1, "weight": 1.0}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "empty"),
        (["watch"], "name, code and weight"),
        ([{"name": "watch", "code": 1}], "'weight' is missing"),
        ([GOOD | {"wieght": 1}], "'wieght' is no field"),
        ([GOOD | {"code": 0}], "code is 0"),
        ([GOOD | {"code": 32}], "code is 32"),
        ([GOOD | {"code": True}], "code is True"),
        ([GOOD | {"name": ""}], "a name is"),
        ([GOOD | {"name": "a b"}], "a name is"),
        ([GOOD | {"name": "refresh"}], "'refresh': the name is reserved"),
        ([GOOD | {"weight": -1}], "weight is -1"),
        ([GOOD | {"weight": math.nan}], "weight is nan"),
        ([GOOD | {"consumes": 1}], "consumes is 1"),
        ([GOOD | {"value_min": 3, "value_max": 3}], "value_min 3"),
        ([GOOD, GOOD | {"code": 2}], "listed twice"),
        ([GOOD, GOOD | {"name": "see"}], "share code 1"),
    ],
)
def test_a_bad_table_says_what_to_mend(rows: list[Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        EventTypes.from_table(rows)


def test_stored_hashes_never_change() -> None:
    assert item_hash("i-1") == 0xA76494C7C69EA2F6
    assert event_hash("e-1") == label_hash("e-1") == model_number("e-1") == 0xC0A98A0C


def test_no_string_hashes_to_none() -> None:
    assert event_hash("") == label_hash("") == model_number("") == 1  # crc32 of nothing is 0
