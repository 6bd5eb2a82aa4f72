"""Artefacts on disk: find them, read their manifest, refuse what is not what was exported."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamer.core.manifest import MANIFEST, Manifest, Tensors, check_tensors, decode_manifest
from streamer.core.protocol import Release
from streamer.errors import ArtefactError, DigestMismatch, ManifestInvalid
from streamer.serving.session import Session


def resolve(uri: str, cache_dir: Path | None = None) -> Path:
    """The local directory of an artefact: a path or a file:// URI; raises ArtefactError for anything else.

    `cache_dir` is where artefacts of remote registries will be kept; local ones are read where they lie.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ArtefactError(
                f"{uri} names the host {parts.netloc!r}: a file URI has three slashes, file:///folder"
            )
        path = Path(unquote(parts.path))
    elif len(parts.scheme) > 1:  # one letter is a Windows drive
        raise ArtefactError(
            f"{uri} cannot be fetched: artefacts are read from a path or a file:// URI that every worker can reach"
        )
    else:
        path = Path(uri)
    if not path.is_dir():
        raise ArtefactError(f"{uri} is no directory on this machine: every worker must be able to read it")
    return path


def read_manifest(path: Path) -> Manifest:
    """Raises ManifestInvalid."""
    return decode_manifest(_manifest_bytes(path))


def verify_files(path: Path, manifest: Manifest, only: Iterable[str] | None = None) -> None:
    """Raise DigestMismatch unless every file (or those of `only`) has the manifest's sha256."""
    for name in manifest.files if only is None else only:
        expected = manifest.files[name]
        found = sha256_of(path / name)
        if found != expected:
            raise DigestMismatch(name, expected, found)


def verify_session(file: str, session: Session, manifest: Manifest) -> None:
    """Raise TensorMismatch unless the session has the inputs and outputs that the manifest promises."""
    found: Tensors = {file: session.tensors}
    check_tensors({file: manifest.tensors[file]}, found)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content, "absent" if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return "absent"


def release_record(path: Path, *, now_ms: int | None = None) -> Release:
    """The record that makes the artefact at `path` a release; raises ArtefactError if its files do not hold.

    `now_ms`: ms since the epoch, the clock's by default.
    """
    manifest = read_manifest(path)
    verify_files(path, manifest)
    return Release(
        version=manifest.version,
        uri=path.resolve().as_uri(),
        sha256=sha256_of(path / MANIFEST),
        released_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms,
        metrics=dict(manifest.metrics),
    )


def check_release(path: Path, release: Release) -> None:
    """Raise unless the artefact at `path` is the one that was released: the manifest's sha256, and its version."""
    found = hashlib.sha256(_manifest_bytes(path)).hexdigest()
    if found != release.sha256:
        raise DigestMismatch(MANIFEST, release.sha256, found)
    if (version := read_manifest(path).version) != release.version:
        raise ManifestInvalid(f"{path} holds version {version}, the release names {release.version}")


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        raise ManifestInvalid(f"{path / MANIFEST} cannot be read: {error.strerror}") from error
