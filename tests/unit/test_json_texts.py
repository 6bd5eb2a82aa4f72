"""JSON texts written by kernels: whatever the values, what is written is read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core import json_kernels
from streamer.core.json_kernels import (
    _put_decimal,
    _put_from,
    _put_whole,
)
from streamer.core.json_texts import SLACK, Phrases, Texts, quoted, written

int64 = st.integers(-(2**63) + 1, 2**63 - 1)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Hypothesis times its examples."""
    json_kernels.warm_up()
    _put_whole(np.zeros(8, np.uint8), 0, 1)
    _put_decimal(np.zeros(20, np.uint8), 0, 1.0)


def room() -> np.ndarray:
    return np.full(64, ord("?"), np.uint8)


@given(int64)
def test_integers(value: int) -> None:
    out = room()
    end = _put_whole(out, 3, value)
    assert out.tobytes() == b"???" + b"%d" % value + b"?" * (64 - end)


@given(st.floats(width=32))
def test_decimals_to_six_places(value: float) -> None:
    out = room()
    text = out[: _put_decimal(out, 0, value)].tobytes()
    expected = min(max(np.nan_to_num(value, posinf=np.inf, neginf=-np.inf), -9e12), 9e12)
    assert abs(json.loads(text) - expected) <= 5.1e-7 + abs(expected) * 1e-15
    assert len(text.split(b".")[1]) == 6


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=8)


def read(texts: Texts, number: int) -> bytes:
    out = np.zeros(1000 + SLACK, np.uint8)
    return out[: _put_from(out, 0, texts.table, number)].tobytes()


@given(texts)
def test_strings(names: list[str]) -> None:
    written = quoted([name.encode() for name in names])
    assert [json.loads(read(written, number)) for number in range(len(names))] == names


@given(texts, texts)
def test_texts_grow(first: list[str], more: list[str]) -> None:
    grown = Texts([text.encode() for text in first])
    grown.add([text.encode() for text in more])
    assert [read(grown, number).decode() for number in range(len(grown))] == first + more
    assert grown.longest == max(len(text.encode()) for text in first + more)


def test_phrases_are_encoded_once_and_grow() -> None:
    asked: list[int] = []

    def encode(number: int) -> bytes:
        asked.append(number)
        return b"x" * number

    phrases = Phrases(10, encode)
    for numbers in ([1, 3], [3, -1], [9, 1]):
        places = phrases(np.array(numbers))
        found = [read(phrases.texts, place) for place in places.tolist()]
        assert [len(text) for text in found] == [max(number, 0) for number in numbers]
    assert asked == [1, 3, 9]


@given(st.integers(0, 600), st.integers(1, 40))
def test_texts_are_written_in_turn_and_cut_where_they_end(n: int, longest: int) -> None:
    expected = [b"%d" % (i % longest) * (i % longest) for i in range(n)]

    def write(out: np.ndarray, ends: np.ndarray, first: int) -> None:
        some = expected[first : first + len(ends)]
        ends[:] = np.cumsum([len(text) for text in some])
        out[: ends[-1]] = np.frombuffer(b"".join(some), np.uint8)

    assert written(n, 2 * longest, write) == expected
