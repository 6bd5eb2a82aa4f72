"""However the catalogue is searched, and whatever happened to it before: the same lists, to the last tie."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.hashing import item_hash
from streamer.core.manifest import IndexSpec
from streamer.core.protocol import ItemVector
from streamer.serving import ivf, layers
from streamer.serving.catalogue import Catalogue, CatalogueSnapshot
from streamer.serving.device import CPU
from streamer.serving.model import Model

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

DIM, ENCODER, K = 3, "00000000000000aa", 4
TRAINED = [f"t{i}" for i in range(6)]


class Sorting:
    """Exact top-k by a stable sort."""

    def __init__(self, items: F32, bias: F32) -> None:
        self._items, self._bias = items, bias

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        scores = state @ self._items.T + self._bias
        scores[excluded[:, 0], excluded[:, 1]] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, rows, 1)
        return best, np.where(np.isneginf(best), -1, rows)


class FakeModel:
    """Small whole numbers, so that scores are exact and ties frequent; a state is its own query."""

    version, dim, lists = "v1", DIM, None
    device = CPU
    item_ids = TRAINED
    manifest = SimpleNamespace(encoder=ENCODER, index=IndexSpec())
    unknown = np.full(DIM, 9, np.float32)
    item_bias = np.array([0, 1, 0, -1, 0, 1], np.float32)
    item_vectors = np.random.default_rng(1).integers(-2, 3, (6, DIM)).astype(np.float32)
    item_hashes = np.fromiter(map(item_hash, TRAINED), np.uint64)

    def query(self, state: F32) -> F32:
        return state

    def search(self, items: F32, bias: F32) -> Sorting:
        return Sorting(items, bias)

    def replay(self, item: F32, *_: object) -> F32:
        return item[:, 0]

    def tower(self, content: F32) -> tuple[F32, F32]:
        return content[:, :DIM], content[:, DIM]


def record(item_id: str, offset: int, numbers: list[int], available: bool) -> tuple[str, ItemVector]:
    content = np.zeros(384, "<f2")
    content[: DIM + 1] = numbers
    return item_id, ItemVector(item_id, ENCODER, content.tobytes(), available, ["a"], 0, offset)


IDS = [*TRAINED, *(f"{c}{i}" for c in "az" for i in range(12))]
ONE = st.one_of(
    st.sampled_from(IDS).map(lambda each: (each, None, True)),
    st.tuples(
        st.sampled_from(IDS),
        st.lists(st.integers(-2, 2), min_size=DIM + 1, max_size=DIM + 1),
        st.integers(0, 4).map(bool),
    ),
)
USERS = st.lists(st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM), min_size=1, max_size=5)


def listed(
    snapshot: CatalogueSnapshot, state: F32, seen: list[tuple[int, str]]
) -> list[list[tuple[str, float]]]:
    """Item ids and scores of each user's list."""
    users = np.array([user % len(state) for user, _ in seen], np.int64)
    rows = snapshot.rows(np.fromiter((item_hash(each) for _, each in seen), np.uint64, len(seen)))
    pairs = np.stack([users[rows >= 0], rows[rows >= 0]], axis=1)
    scores, found = snapshot.top_k(state, pairs, K)
    return [
        [(snapshot.ids[row], float(score)) for row, score in zip(*each, strict=True) if row >= 0]
        for each in zip(found.tolist(), scores.tolist(), strict=True)
    ]


@pytest.fixture(autouse=True)
def every_list_is_probed() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf, "TARGET_RECALL", 2.0)
        patch.setattr(ivf, "SPARE", 1)
        patch.setattr(layers, "LEAST_ROWS", 3)
        yield


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ONE, max_size=8), min_size=1, max_size=8),
    USERS,
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(IDS)), max_size=40),
    st.booleans(),
)
def test_an_index_that_probes_every_list_finds_what_sorting_finds(
    batches: list[list[tuple[str, list[int] | None, bool]]],
    users: list[list[int]],
    seen: list[tuple[int, str]],
    wait: bool,
) -> None:
    model = cast(Model, FakeModel())
    state = np.array(users, np.float32)
    sorted_, layered = Catalogue(), Catalogue(exact_items=0)
    offset = 0
    for batch in batches:
        records: list[tuple[str, ItemVector | None]] = []
        for item_id, numbers, available in batch:
            offset += 1
            records.append(
                (item_id, None) if numbers is None else record(item_id, offset, numbers, available)
            )
        sorted_.apply(records)
        layered.apply(records)
        one, other = sorted_.snapshot(model), layered.snapshot(model)
        assert listed(one, state, seen) == listed(other, state, seen)
        ids = np.fromiter(map(item_hash, IDS), np.uint64, len(IDS))
        at, there = one.rows(ids), other.rows(ids)
        assert (at >= 0).tolist() == (there >= 0).tolist()
        at, there = at[at >= 0], there[there >= 0]
        for name in ("vectors", "bias", "has_vector", "categories", "hashes"):
            np.testing.assert_array_equal(getattr(one, name)[at], getattr(other, name)[there])
        if wait:
            layered.wait()


def test_the_block_goes_into_the_index_and_that_is_said() -> None:
    said: list[str] = []
    model = cast(Model, FakeModel())
    catalogue = Catalogue(exact_items=0, on_rebuilt=lambda: said.append("rebuilt"))
    before = catalogue.snapshot(model)
    catalogue.apply(record(f"a{i}", i, [1, 0, 0, i % 3], True) for i in range(5))
    catalogue.apply([record("t1", 9, [0, 0, 0, 0], True)])
    changed = catalogue.snapshot(model)
    assert [part.size for part in changed.parts] == [6, 6]
    catalogue.wait()
    assert said == ["rebuilt"]
    after = catalogue.snapshot(model)
    assert after is not changed
    assert [part.size for part in after.parts] == [11]
    assert after.ids == [*(f"a{i}" for i in range(5)), *TRAINED]
    assert before.rows(np.array([item_hash("a1")], np.uint64)).tolist() == [-1], "a snapshot stays as it was"
    assert before.ids[:6] == TRAINED
    state = np.ones((2, DIM), np.float32)
    assert listed(changed, state, []) == listed(after, state, [])
