"""Columns of JSON text: whatever the values, what is written is read back."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.json_rows import Phrases, Texts, commas, decimal, elements, quoted, where, whole, write

int64 = st.integers(-(2**63) + 1, 2**63 - 1)


@given(st.lists(int64, min_size=1, max_size=20))
def test_integers(values: list[int]) -> None:
    assert write(len(values), [whole(np.array(values))]) == [b"%d" % value for value in values]


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_decimals_to_six_places(values: list[float]) -> None:
    written = write(len(values), [decimal(np.array(values, np.float32))])
    for value, text in zip(values, written, strict=True):
        expected = min(max(np.nan_to_num(value, posinf=np.inf, neginf=-np.inf), -9e12), 9e12)
        assert abs(json.loads(text) - expected) <= 5.1e-7 + abs(expected) * 1e-15


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_strings(names: list[str]) -> None:
    written = write(len(names), [quoted([name.encode() for name in names])])
    assert [json.loads(text) for text in written] == names


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_lists_leave_out_what_is_absent(present: list[list[bool]]) -> None:
    there = np.array(present)
    numbers = np.where(there, np.arange(3), -1)
    column = elements(commas(there), Texts([b'"a"', b'"bb"', b'"ccc"'])(numbers), where(there, b" "))
    names = ["a", "bb", "ccc"]
    assert [json.loads(text) for text in write(len(present), [b"[", column, b"]"])] == [
        [name for name, wanted in zip(names, row, strict=True) if wanted] for row in present
    ]


def test_phrases_are_encoded_once_and_grow() -> None:
    asked: list[int] = []

    def encode(number: int) -> bytes:
        asked.append(number)
        return b"x" * number

    phrases = Phrases(10, encode)
    for numbers in ([[1, 3]], [[3, -1]], [[9, 1]]):
        column = phrases(np.array(numbers))
        assert [len(text) for text in write(2, [column[0]])] == [max(number, 0) for number in numbers[0]]
    assert asked == [1, 3, 9]


def test_nothing_to_write() -> None:
    assert write(0, [b"[", np.zeros((0, 3), np.uint8), b"]"]) == []
