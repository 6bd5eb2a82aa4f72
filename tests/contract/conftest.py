"""Copies of the tiny artefact to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.core.manifest import MANIFEST, decode_manifest, encode_manifest
from streamer.serving.artefact import sha256_of


@pytest.fixture
def damaged(artefact: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy in which `change(folder)` was done; with `sign` the manifest's digests then hold again."""

    def damage(change: Callable[[Path], object], *, sign: bool) -> Path:
        return copy_and_change(artefact, tmp_path / "damaged", change, sign=sign)

    return damage


def copy_and_change(artefact: Path, folder: Path, change: Callable[[Path], object], *, sign: bool) -> Path:
    """`folder`, a copy of the artefact in which `change` was done."""
    shutil.copytree(artefact, folder)
    change(folder)
    if sign:
        manifest = decode_manifest((folder / MANIFEST).read_bytes())
        manifest.files.update({name: sha256_of(folder / name) for name in manifest.files})
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder
