"""An artefact with more items than are searched exactly: its lists are exported, measured, verified and used."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from model_export import export
from streamer.core.manifest import LISTS
from streamer.core.protocol import ItemVector
from streamer.errors import ArtefactError
from streamer.serving.catalogue import Catalogue
from streamer.serving.ivf import IvfSearch
from streamer.serving.model import Model
from tests.contract.conftest import copy_and_change
from tests.tiny_artefact import build


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "EXACT_ITEMS", 10)
        return build(tmp_path_factory.mktemp("indexed"))


def test_the_manifest_says_how_to_search_and_what_that_finds(indexed: Path) -> None:
    model = Model.load(indexed)
    spec = model.manifest.index
    assert (spec.kind, spec.nlist, spec.k) == ("ivf", 16, 20)
    assert 0.95 <= spec.recall <= 1.0
    assert model.lists is not None
    assert model.lists.centroids.shape == (16, model.dim + 1)


def test_a_large_catalogue_is_searched_by_the_artefacts_lists(
    indexed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, catalogue = Model.load(indexed), Catalogue(exact_items=10)
    assert model.lists is not None
    content = np.zeros(384, "<f2").tobytes()
    for item_id in [*model.item_ids, "new"]:
        catalogue.apply([(item_id, ItemVector(item_id, model.manifest.encoder, content, True, [], 0, 0))])
    with caplog.at_level(logging.INFO):
        snapshot = catalogue.snapshot(model)
    assert "as the manifest says" in caplog.text
    search = snapshot.parts[0].search
    assert isinstance(search, IvfSearch)
    assert search.nprobe == model.manifest.index.nprobe
    rows = snapshot.rows(model.item_hashes)
    assert (search.lists.of_rows[rows] == model.lists.of_rows).all()


def test_an_index_is_built_where_the_artefact_has_none(
    artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Catalogue(exact_items=10).snapshot(Model.load(artefact))
    assert "measured here" in caplog.text


def test_without_faiss_a_large_catalogue_is_searched_exactly(
    artefact: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    model, catalogue = Model.load(artefact), Catalogue(exact_items=10)
    content = np.zeros(384, "<f2").tobytes()
    for item_id in [*model.item_ids, "new"]:
        catalogue.apply([(item_id, ItemVector(item_id, model.manifest.encoder, content, True, [], 0, 0))])
        snapshot = catalogue.snapshot(model)
    assert "install headwater[ann]" in caplog.text
    state = np.tanh(np.random.default_rng(0).standard_normal((4, 16), dtype=np.float32))
    nobody = np.zeros((0, 2), np.int64)
    scores, rows = snapshot.top_k(state, nobody, 61)
    assert sorted(snapshot.ids[row] for row in rows[0]) == sorted([*model.item_ids, "new"])
    assert np.allclose(scores, model.score(state, snapshot.vectors, snapshot.bias, nobody, 61)[0], atol=1e-5)


def test_lists_that_do_not_fit(indexed: Path, tmp_path: Path) -> None:
    def shorten(folder: Path) -> None:
        np.save(folder / LISTS, np.zeros(59, np.int32))

    with pytest.raises(ArtefactError, match=r"index\.lists\.i32\.npy is int32\(59,\)"):
        Model.load(copy_and_change(indexed, tmp_path / "damaged", shorten, sign=True))
