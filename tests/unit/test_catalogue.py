"""The catalogue under a model: which rows there are, what may be recommended, and that order and history do not matter."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.hash_index import HashIndex
from streamer.core.hashing import item_hash, label_hash
from streamer.core.protocol import ItemVector
from streamer.serving.catalogue import Catalogue, CatalogueSnapshot
from streamer.serving.device import CPU
from streamer.serving.exact import Search
from streamer.serving.model import Model

ENCODER = "00000000000000aa"


class FakeModel:
    """Two trained items; the tower takes the first two numbers of a content, and the third as the bias."""

    version = "v1"
    dim = 2
    item_ids = ("t1", "t2")
    item_vectors = np.array([[1, 1], [2, 2]], np.float32)
    item_bias = np.array([0.1, 0.2], np.float32)
    unknown = np.array([9, 9], np.float32)
    manifest = SimpleNamespace(encoder=ENCODER)
    device = CPU

    def search(self, items: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> Search:
        return cast(Search, object())

    def tower(
        self, content: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return content[:, :2], content[:, 2]


def fake_model() -> Model:
    return cast(Model, FakeModel())


def record(
    item_id: str,
    offset: int = 0,
    *,
    at: float = 5.0,
    available: bool = True,
    categories: tuple[str, ...] = (),
    encoder: str = ENCODER,
    partition: int = 0,
) -> tuple[str, ItemVector]:
    content = np.zeros(384, "<f2")
    content[:3] = at, at + 1, 0.5
    vector = ItemVector(item_id, encoder, content.tobytes(), available, list(categories), partition, offset)
    return item_id, vector


def row(snapshot: CatalogueSnapshot, item_id: str) -> int:
    return int(snapshot.rows(np.array([item_hash(item_id)], np.uint64))[0])


def test_trained_items_have_rows_before_the_catalogue_is_read_but_are_not_recommended() -> None:
    snapshot = Catalogue().snapshot(fake_model())
    assert snapshot.ids == ["t1", "t2"]
    assert snapshot.vectors.tolist() == [[1, 1], [2, 2]]
    assert snapshot.has_vector.all()
    assert np.isneginf(snapshot.bias).all()


def test_an_item_that_training_never_saw_gets_the_towers_vector() -> None:
    catalogue = Catalogue()
    assert (
        catalogue.apply([record("new", categories=("drama", "war")), record("t2", categories=("war",))]) == 2
    )
    snapshot = catalogue.snapshot(fake_model())
    assert snapshot.ids == ["new", "t1", "t2"]
    assert snapshot.vectors.tolist() == [[5, 6], [1, 1], [2, 2]]
    assert snapshot.bias.tolist() == [0.5, -np.inf, np.float32(0.2)]
    assert snapshot.categories[0].tolist() == [label_hash("drama"), label_hash("war"), 0, 0, 0, 0]
    assert {snapshot.labels[int(h)] for h in snapshot.categories.ravel() if h} == {"drama", "war"}
    assert [row(snapshot, i) for i in ("new", "t1", "t2", "never")] == [0, 1, 2, -1]


def test_unavailable_items_keep_their_vector() -> None:
    catalogue = Catalogue()
    catalogue.apply([record("new", available=False), record("t1", available=False)])
    snapshot = catalogue.snapshot(fake_model())
    assert snapshot.has_vector.all()
    assert np.isneginf(snapshot.bias).all()
    catalogue.apply([record("new", 1), record("t1", 1)])
    assert np.isfinite(catalogue.snapshot(fake_model()).bias).tolist() == [True, True, False]


def test_withdrawn_items() -> None:
    catalogue, model = Catalogue(), fake_model()
    catalogue.apply([record("new", 3), record("t1", 4)])
    assert catalogue.snapshot(model).ids == ["new", "t1", "t2"]
    assert catalogue.apply([("new", None), ("t1", None), ("never", None)]) == 2
    snapshot = catalogue.snapshot(model)
    assert snapshot.ids == ["t1", "t2"]
    assert np.isneginf(snapshot.bias).all()
    assert catalogue.apply([record("new", 2)]) == 0, "an older vector that arrives late revives nothing"
    assert catalogue.apply([record("new", 5)]) == 1


def test_the_newest_items_record_wins_whatever_the_order() -> None:
    catalogue = Catalogue()
    catalogue.apply([record("new", 7, at=7), record("new", 6, at=6)])
    assert catalogue.snapshot(fake_model()).vectors[0].tolist() == [7, 8]


def test_content_of_another_encoder_or_no_content_is_no_vector() -> None:
    catalogue = Catalogue()
    broken = ItemVector("c", ENCODER, b"\x00" * 10, True, ["drama"], 0, 0)
    infinite = ItemVector("d", ENCODER, np.full(384, np.inf, "<f2").tobytes(), True, [], 0, 0)
    catalogue.apply(
        [record("b", encoder="00000000000000bb"), ("c", broken), ("d", infinite), record("t1", encoder="x")]
    )
    snapshot = catalogue.snapshot(fake_model())
    assert snapshot.has_vector.tolist() == [False, False, False, True, True]
    assert snapshot.vectors[:3].tolist() == [[9, 9]] * 3
    assert np.isfinite(snapshot.bias).tolist() == [False, False, False, True, False]
    assert snapshot.categories[1, 0] == label_hash("drama")


def test_a_snapshot_stays_as_it_was() -> None:
    catalogue, model = Catalogue(), fake_model()
    catalogue.apply([record("new")])
    before = catalogue.snapshot(model)
    assert catalogue.snapshot(model) is before
    catalogue.apply([record("new", 1, at=8), record("newer", 2)])
    assert catalogue.snapshot(model) is not before
    assert before.ids == ["new", "t1", "t2"]
    assert before.vectors[0].tolist() == [5, 6]
    assert not before.vectors.flags.writeable


def test_records_are_taken_while_a_snapshot_is_built_and_come_with_the_next() -> None:
    catalogue = Catalogue()
    catalogue.apply([record("a", 1)])

    class Slow(FakeModel):
        def tower(
            self, content: npt.NDArray[np.float32]
        ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            applied = threading.Thread(target=catalogue.apply, args=([record("b", 2)],))
            applied.start()
            applied.join(10.0)
            assert not applied.is_alive(), "the event loop would stand still"
            return super().tower(content)

    model = cast(Model, Slow())
    assert catalogue.snapshot(model).ids == ["a", "t1", "t2"]
    assert catalogue.snapshot(model).ids == ["a", "b", "t1", "t2"]


def test_a_snapshot_that_failed_is_built_by_the_next_call() -> None:
    catalogue = Catalogue()
    catalogue.apply([record("a", 1)])

    class Failing(FakeModel):
        failures = 1

        def tower(
            self, content: npt.NDArray[np.float32]
        ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            if self.failures:
                self.failures -= 1
                raise MemoryError
            return super().tower(content)

    model = cast(Model, Failing())
    with pytest.raises(MemoryError):
        catalogue.snapshot(model)
    assert catalogue.snapshot(model).ids == ["a", "t1", "t2"]


ITEMS = st.sampled_from(["a", "b", "t1", "t2", "u", "z"])
CHANGES = st.one_of(
    ITEMS.map(lambda i: (i, None)),
    st.builds(
        lambda item, offset, available, known, at, categories: record(
            item,
            offset,
            available=available,
            encoder=ENCODER if known else "00000000000000bb",
            at=float(at),
            categories=tuple(categories),
        ),
        ITEMS,
        st.integers(0, 9),
        st.booleans(),
        st.booleans(),
        st.integers(0, 9),
        st.lists(st.sampled_from("pqrs"), max_size=3),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=5), max_size=6))
def test_snapshots_along_the_way_change_nothing(batches: list[list[tuple[str, ItemVector | None]]]) -> None:
    stepwise, model = Catalogue(), fake_model()
    for batch in batches:
        stepwise.apply(batch)
        stepwise.snapshot(model)
    at_once = Catalogue()
    at_once.apply(change for batch in batches for change in batch)
    one, other = stepwise.snapshot(model), at_once.snapshot(model)
    assert one.ids == other.ids == sorted(other.ids)
    for name in ("hashes", "vectors", "bias", "has_vector", "categories"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.labels == other.labels
    assert [row(one, i) for i in one.ids] == list(range(len(one.ids)))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40) | st.integers(0, 2**64 - 1), max_size=60),
    st.lists(st.integers(0, 60) | st.integers(0, 2**64 - 1), max_size=60),
)
def test_the_hash_index_finds_what_a_dictionary_finds(hashes: list[int], sought: list[int]) -> None:
    expected = {h: row for row, h in reversed(list(enumerate(hashes))) if h != 0}
    sought = sought + hashes
    rows = HashIndex(np.array(hashes, np.uint64)).rows(np.array(sought, np.uint64))
    assert rows.tolist() == [expected.get(h, -1) for h in sought]
