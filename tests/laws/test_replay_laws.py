"""However the log is cut into runs, replaying it gives the table that record by record, highest applied offset wins, gives."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core import replay
from streamer.core.replay import EMPTY, UNKNOWN, Replay, applied_offsets
from streamer.core.state_records import SCHEMA, applied

KEYS = [b"ha", b"hb", b"hc", b"pa\xffs\0", b"pb\xffc\1"]

Log = list[tuple[bytes, bytes | None]]


def record(offset: int, body: int) -> bytes:
    return struct.pack("<BBqB", SCHEMA, b"hsc"[body % 3], offset, body)


offsets = st.one_of(st.integers(0, 12), st.just(-1), st.integers(-(1 << 40), 1 << 40))
values = st.one_of(st.none(), st.builds(record, offsets, st.integers(0, 255)))
logs = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=60)


def one_by_one(log: Log, table: dict[bytes, bytes]) -> set[bytes]:
    """Changes `table`; returns the keys whose last record lost."""
    regressed: set[bytes] = set()
    for key, value in log:
        have = table.get(key)
        if value is None:
            table.pop(key, None)
            regressed.discard(key)
        elif have is not None and applied(have) > applied(value):
            regressed.add(key)
        else:
            table[key] = value
            regressed.discard(key)
    return regressed


def in_runs(log: Log, cuts: list[int], table: dict[bytes, bytes], known: Replay) -> set[bytes]:
    regressed: set[bytes] = set()
    bounds = [0, *sorted(cut % (len(log) + 1) for cut in cuts), len(log)]
    for start, end in itertools.pairwise(bounds):
        run = log[start:end]
        changes, fell = known.absorb([k for k, _ in run], [v for _, v in run], table.get)
        for key, value in changes.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
        regressed = (regressed - changes.keys()) | fell
        assert all(applied(value) <= known.ceiling for value in table.values())
    return regressed


@pytest.mark.parametrize("remembered", [0, 2, 1000])
def test_any_cut_into_runs_gives_the_same_table(monkeypatch: Any, remembered: int) -> None:
    """Also after a restart in between, with and without a known ceiling; and however few keys are remembered."""
    monkeypatch.setattr(replay, "REMEMBERED_KEYS", remembered)

    @given(logs, logs, st.lists(st.integers(0, 60), max_size=8), st.booleans())
    def law(before: Log, after: Log, cuts: list[int], ceiling_known: bool) -> None:
        expected: dict[bytes, bytes] = {}
        first = one_by_one(before, expected)
        found: dict[bytes, bytes] = {}
        known = Replay(EMPTY)
        assert in_runs(before, cuts, found, known) == first
        assert found == expected
        second = one_by_one(after, expected)
        restarted = Replay(known.ceiling if ceiling_known else UNKNOWN)
        assert in_runs(after, cuts, found, restarted) == second
        assert found == expected

    law()


def test_a_log_in_order_is_applied_without_looking_into_the_table() -> None:
    """Batches of users in any order, cut anywhere: what makes recovery cheap."""
    log = [(b"h%d" % (n * 7 % 1000), record(batch * 1000 + n, 0)) for batch in range(20) for n in range(1000)]
    looked: list[bytes] = []
    known = Replay(EMPTY)
    for start in range(0, len(log), 700):
        run = log[start : start + 700]
        known.absorb([k for k, _ in run], [v for _, v in run], looked.append)
    assert not looked


def test_a_refresh_of_settled_users_is_looked_up() -> None:
    known, table = Replay(9), {b"ha": record(5, 0)}
    assert known.absorb([b"ha"], [record(5, 3)], table.get).changes == {b"ha": record(5, 3)}
    assert known.absorb([b"hb"], [record(4, 3)], table.get).changes == {b"hb": record(4, 3)}


@given(st.lists(values, max_size=20))
def test_applied_offsets_are_those_of_the_records(given_values: list[bytes | None]) -> None:
    assert applied_offsets(given_values).tolist() == [
        EMPTY if value is None else applied(value) for value in given_values
    ]
