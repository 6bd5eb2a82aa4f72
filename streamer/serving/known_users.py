"""The users whom a model knows by the graph of friends: a vector for each, as an item has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.core.manifest import USER_HASHES, USER_VECTORS, Manifest
from streamer.errors import ArtefactError

F32 = npt.NDArray[np.float32]
_BLOCK = 1 << 16
"""Rows looked at in one go while a table is checked."""


@dataclass(frozen=True, eq=False)
class KnownUsers:
    """U users. The tables are mapped, not read: what few users need of them is in memory, and workers share it."""

    hashes: npt.NDArray[np.uint64]
    """(U,) ascending, core.hashing.user_hash of the ids."""
    vectors: npt.NDArray[np.float16]
    """(U, D) what the item tower makes of their graph contents."""
    type_code: int
    """Of the event by which a state meets a user."""

    @classmethod
    def load(cls, path: Path, manifest: Manifest) -> KnownUsers | None:
        """Of the artefact at `path`; None where it has none. Raises ArtefactError for tables that are not what they must be."""
        spec = manifest.users
        if spec is None:
            return None
        hashes = _mapped(path / USER_HASHES, np.dtype(np.uint64), (spec.n,))
        vectors = _mapped(path / USER_VECTORS, np.dtype(np.float16), (spec.n, manifest.dim))
        if not (hashes[1:] > hashes[:-1]).all():
            raise ArtefactError(f"{USER_HASHES} is not ascending: export the artefact again")
        for start in range(0, spec.n, _BLOCK):
            if not np.isfinite(vectors[start : start + _BLOCK]).all():
                raise ArtefactError(f"{USER_VECTORS} holds NaN or infinity: train again")
        return cls(hashes, vectors, spec.type)

    def rows(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Of user hashes (n,), -1 for who is not known."""
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, -1)

    def of(self, rows: npt.NDArray[np.int64]) -> F32:
        """Vectors (n, D) of rows (n,)."""
        return self.vectors[rows].astype(np.float32)


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        table: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path.name} cannot be read: {error}") from error
    if table.dtype != dtype or table.shape != shape:
        raise ArtefactError(f"{path.name} is {table.dtype}{table.shape}, expected {dtype}{shape}")
    return table
