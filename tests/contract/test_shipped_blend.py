"""Weights of the blend in an artefact: read with the model, covered by its digests, and no reason to refuse it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.core.manifest import BLEND, MANIFEST, decode_manifest, encode_manifest
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.weights import Shipped
from streamer.errors import DigestMismatch
from streamer.serving.artefact import sha256_of
from streamer.serving.model import Model

Damage = Callable[..., Path]


def with_blend(content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / BLEND).write_bytes(content)
        manifest = decode_manifest((folder / MANIFEST).read_bytes())
        manifest.files[BLEND] = sha256_of(folder / BLEND)
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))

    return change


def test_it_is_read_with_the_model(artefact: Path, damaged: Damage) -> None:
    shipped = Shipped.of(Blend(HIDDEN, 0.003, 1), 1_500.0)
    assert Model.load(damaged(with_blend(shipped.learner), sign=False)).blend == shipped
    assert Model.load(artefact).blend is None


def test_weights_of_another_release_are_learned_anew_and_said(
    damaged: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    other = Shipped.of(Blend(HIDDEN + 1, 0.003, 1), 1_500.0)
    assert Model.load(damaged(with_blend(other.learner), sign=False)).blend is None
    assert "learned anew" in caplog.text


def test_other_bytes_than_were_exported_are_refused(damaged: Damage) -> None:
    def change(folder: Path) -> None:
        with_blend(Shipped.of(Blend(HIDDEN, 0.003, 1), 1_500.0).learner)(folder)
        (folder / BLEND).write_bytes(b"junk")

    with pytest.raises(DigestMismatch):
        Model.load(damaged(change, sign=False))
