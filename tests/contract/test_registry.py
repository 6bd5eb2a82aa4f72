"""From the trainer's model to a release that a worker accepts, and everything that must not get that far."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export import export
from model_export.network import UserModel
from model_export.verify import verify_artefact
from streamer.core.manifest import GRAPHS
from streamer.core.protocol import Release
from streamer.errors import ArtefactError, DataError, DigestMismatch, ManifestInvalid, ParityMismatch
from streamer.serving.artefact import check_release, read_manifest, release_record, resolve, verify_files
from streamer.serving.text_encoder import TextEncoder
from tests.tiny_artefact import CATEGORIES, EVENT_TYPES, item_texts, random_model

Damage = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(artefact: Path) -> UserModel:
    """The torch model that the artefact was exported from."""
    return random_model(TextEncoder.load(artefact).encode(item_texts()))


def export_again(model: UserModel, out: Path, artefact: Path, *, version: str | None = None) -> Path:
    items = model.config.items
    return export.export_artefact(
        model,
        out,
        item_ids=[f"i{i}" for i in range(items)],
        content=model.content.numpy(),
        popularity=np.arange(items, 0, -1, dtype=np.float32),
        head_labels={"category": CATEGORIES, "event_type": EVENT_TYPES},
        metrics={},
        seed=0,
        data_hash="0" * 16,
        window=100,
        encoder_dir=artefact,
        version=version,
    )


# ---- export and verify


def test_torch_and_onnx_agree_on_random_and_real_sequences(artefact: Path, trained: UserModel) -> None:
    items = torch.tensor([[3, 1, 4, 1], [59, 0, 0, 0]])
    with torch.no_grad():
        windows = trained.item_vectors()[items].numpy()
    sequences = {
        "item": windows,
        "type": np.array([[1, 2, 6, 7], [7, 0, 0, 0]]),
        "gap": np.array([[0.0, 0.2, 0.5, 0.9], [0, 0, 0, 0]], np.float32),
        "value": np.array([[0, 0, 0, 0.8], [0.4, 0, 0, 0]], np.float32),
        "lengths": np.array([4, 1]),
    }
    deviations = verify_artefact(artefact, trained, sequences)
    assert set(deviations) == {
        "step by step and replay",
        *(
            f"torch and ONNX, {operation}"
            for operation in ("step", "steps", "replay", "query", "score", "heads", "tower")
        ),
    }
    assert max(deviations.values()) <= 1e-4


def test_another_torch_model_is_noticed(artefact: Path, trained: UserModel) -> None:
    other = random_model(trained.content.numpy(), seed=1)
    with pytest.raises(ParityMismatch):
        verify_artefact(artefact, other)


def test_the_same_model_is_the_same_version(artefact: Path, trained: UserModel) -> None:
    inode = artefact.stat().st_ino
    assert export_again(trained, artefact.parent, artefact) == artefact
    assert artefact.stat().st_ino == inode


def copy_graphs(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds of exporting, where the graphs do not matter."""

    def copied(model: UserModel, folder: Path) -> None:
        for name in GRAPHS:
            (folder / name).write_bytes((artefact / name).read_bytes())

    monkeypatch.setattr(export, "_write_graphs", copied)


def test_a_published_version_is_never_replaced(
    artefact: Path, trained: UserModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_graphs(artefact, monkeypatch)
    monkeypatch.setattr(export, "verify_artefact", lambda *_: {})
    other = random_model(trained.content.numpy(), seed=1)
    before = {path.name: path.stat().st_mtime_ns for path in artefact.iterdir()}
    with pytest.raises(ArtefactError, match="holds another model"):
        export_again(other, artefact.parent, artefact, version=artefact.name)
    assert {path.name: path.stat().st_mtime_ns for path in artefact.iterdir()} == before


@pytest.mark.parametrize(
    "at", ["_write_graphs", "_write_tables", "_write_parity", "verify_artefact", "_flush"]
)
def test_a_failed_export_leaves_nothing(
    artefact: Path, trained: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    copy_graphs(artefact, monkeypatch)
    monkeypatch.setattr(export, at, full)
    with pytest.raises(OSError, match="No space"):
        export_again(trained, tmp_path, artefact)
    assert list(tmp_path.iterdir()) == []


def test_only_old_leftovers_of_killed_exports_are_removed(
    artefact: Path, trained: UserModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, running = tmp_path / ".export-old", tmp_path / ".export-running"
    old.mkdir()
    running.mkdir()
    os.utime(old, (0, 0))
    monkeypatch.setattr(export, "_write_graphs", lambda *_: (_ for _ in ()).throw(ArtefactError("stop here")))
    with pytest.raises(ArtefactError, match="stop here"):
        export_again(trained, tmp_path, artefact)
    assert list(tmp_path.iterdir()) == [running]


def test_arguments_that_do_not_fit(artefact: Path, trained: UserModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="head_labels"):
        export.export_artefact(
            trained,
            tmp_path,
            item_ids=[f"i{i}" for i in range(60)],
            content=trained.content.numpy(),
            popularity=np.zeros(60, np.float32),
            head_labels={"category": CATEGORIES},
            metrics={},
            seed=0,
            data_hash="",
            window=100,
            encoder_dir=artefact,
        )


def test_no_local_path_is_in_the_files(artefact: Path) -> None:
    for graph in GRAPHS:
        content = (artefact / graph).read_bytes()
        assert str(Path(export.__file__).parent.parent).encode() not in content, graph
        assert b"site-packages" not in content, graph


# ---- release


def test_a_release_names_the_artefact_by_its_manifest(artefact: Path) -> None:
    release = release_record(artefact, now_ms=1_700_000_000_000)
    assert (release.version, release.released_ms, release.metrics) == (
        artefact.name,
        1_700_000_000_000,
        {"ndcg_at_10": 0.1},
    )
    check_release(resolve(release.uri), release)
    assert resolve(release.uri) == resolve(str(artefact)) == artefact


def test_no_release_of_a_damaged_artefact(damaged: Damage) -> None:
    with pytest.raises(DigestMismatch):
        release_record(damaged(lambda folder: (folder / "items.ids").write_text("[]"), sign=False))


def test_an_artefact_that_is_not_the_released_one(artefact: Path, damaged: Damage) -> None:
    release = release_record(artefact)
    other = damaged(lambda folder: (folder / "items.ids").write_text("[]"), sign=True)
    with pytest.raises(DigestMismatch, match=r"manifest\.json"):
        check_release(other, release)
    renamed = Release("another", release.uri, release.sha256, release.released_ms)
    with pytest.raises(ManifestInvalid, match="another"):
        check_release(artefact, renamed)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/model", "https://example.org/model.tar", "file://elsewhere/model", "/no/such/folder"]
)
def test_what_cannot_be_resolved(uri: str) -> None:
    with pytest.raises(ArtefactError, match=uri):
        resolve(uri)


def test_a_path_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    assert resolve(folder.as_uri()) == folder


def test_only_the_named_files_are_verified(damaged: Damage) -> None:
    folder = damaged(lambda folder: (folder / "items.ids").write_text("[]"), sign=False)
    verify_files(folder, read_manifest(folder), ("encoder.onnx",))
    with pytest.raises(DigestMismatch):
        verify_files(folder, read_manifest(folder))
