"""One model version, loaded: the artefact's sessions and tables behind numpy.

Axes: B users, T events, H user state, D item vector, N items, M exclusions, K = min(k, N).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from streamer.core.hashing import item_hash, model_number
from streamer.core.manifest import Manifest
from streamer.errors import ArtefactError, ManifestInvalid, StateError
from streamer.serving.artefact import read_manifest, verify_files, verify_session
from streamer.serving.device import CPU, Device
from streamer.serving.parity import FILE_OF, check_pairs, read_pairs
from streamer.serving.session import Array, Session, open_session

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

SCORES_PER_BLOCK = 192 * 1024
"""Scores (B × N) that are computed at a time: 768 KiB of them stay in the cache between product, mask and top-k."""
_OPERATIONS = ("step", "replay", "score", "heads", "tower")


@dataclass(frozen=True, eq=False)
class Model:
    """An immutable model version; every method may be called from any thread and releases the GIL while it computes."""

    manifest: Manifest
    device: Device
    item_ids: list[str]
    """(N,) the items that training knew; the tables below have the same order."""
    item_hashes: npt.NDArray[np.uint64]
    item_vectors: F32
    """(N, D)"""
    item_bias: F32
    """(N,)"""
    popularity: F32
    """(N,) events per item in training."""
    unknown: F32
    """(D,) stands for an item without a vector."""
    number: int
    """32-bit hash of the version, as user states hold it."""
    _sessions: Mapping[str, Session]
    _resident: dict[str, tuple[Array, ort.OrtValue]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def hidden(self) -> int:
        """H"""
        return self.manifest.hidden

    @property
    def dim(self) -> int:
        """D"""
        return self.manifest.dim

    @property
    def heads(self) -> dict[str, list[str]]:
        """Task → labels, in the order of `interests`' columns."""
        return self.manifest.heads

    @classmethod
    def load(cls, path: Path, device: Device = CPU) -> Model:
        """Read, check and warm an artefact; blocking (0.1 to 1 s), so call it off the event loop.

        Raises ManifestInvalid, DigestMismatch, TensorMismatch or ParityMismatch (all ArtefactError): nothing is served
        from a directory that is not, byte for byte and number for number, what the trainer exported.
        """
        manifest = read_manifest(path)
        verify_files(path, manifest)
        sessions = {name: open_session(path / FILE_OF[name], device) for name in _OPERATIONS}
        for name, session in sessions.items():
            verify_session(FILE_OF[name], session, manifest)
        pairs = read_pairs(path)
        for name, session in sessions.items():
            check_pairs(name, session, pairs)
        return cls._with_tables(path, manifest, device, sessions)

    @classmethod
    def _with_tables(
        cls, path: Path, manifest: Manifest, device: Device, sessions: dict[str, Session]
    ) -> Model:
        try:
            ids = msgspec.json.decode((path / "items.ids").read_bytes(), type=list[str])
        except msgspec.DecodeError as error:
            raise ArtefactError(f"items.ids is no JSON list of item ids: {error}") from error
        n, dim = len(ids), manifest.dim
        if len(set(ids)) != n:
            raise ManifestInvalid(f"items.ids names {n - len(set(ids))} of its {n} items twice")
        return cls(
            manifest=manifest,
            device=device,
            item_ids=ids,
            item_hashes=np.fromiter(map(item_hash, ids), np.uint64, n),
            item_vectors=_table(path / "items.f32.npy", (n, dim)),
            item_bias=_table(path / "items.bias.npy", (n,)),
            popularity=_table(path / "items.popularity.npy", (n,)),
            unknown=_table(path / "unknown.f32.npy", (dim,)),
            number=model_number(manifest.version),
            _sessions=sessions,
        )

    def session(self, operation: str) -> Session:
        """The bare session of step, replay, score, heads or tower, to compare with torch."""
        return self._sessions[operation]

    def step(self, state: F32, item: F32, type: I64, gap: F32, value: F32) -> F32:
        """One event for each user: state (B, H), item (B, D), type, gap, value (B,) → next state (B, H)."""
        if len(state) == 0:
            return np.zeros((0, self.hidden), np.float32)
        feeds = {
            "state": _f32(state),
            "item": _f32(item),
            "type": _i64(type),
            "gap": _f32(gap),
            "value": _f32(value),
        }
        next_state: F32 = self._sessions["step"].run(feeds)[0]
        return next_state

    def replay(self, item: F32, type: I64, gap: F32, value: F32, lengths: I64) -> F32:
        """item (B, T, D), type, gap, value (B, T), left-aligned, lengths (B,) → state after the last event (B, H)."""
        if item.shape[0] == 0 or item.shape[1] == 0:
            return np.zeros((item.shape[0], self.hidden), np.float32)
        if int(lengths.max()) > item.shape[1] or int(lengths.min()) < 0:
            raise ValueError(
                f"lengths are {lengths.min()} to {lengths.max()}, the windows have {item.shape[1]} columns"
            )
        feeds = {"item": _f32(item), "type": _i64(type), "gap": _f32(gap), "value": _f32(value)}
        state: F32 = self._sessions["replay"].run({**feeds, "lengths": _i64(lengths)})[0]
        return state

    def score(self, state: F32, items: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """The best items of each user: state (B, H), items (N, D), bias (N,), excluded (M, 2): row of state, row of items.

        → scores (B, K) f32 and rows (B, K) i64, best first, ties by the lowest row. Where fewer than K items are left,
        the rest has score -inf and row -1. Raises StateError for a state that is not finite (onnxruntime would return
        arbitrary rows) and ValueError for an exclusion outside of state or items.
        """
        users, n = len(state), len(items)
        k = min(k, n)
        if users == 0 or k <= 0:
            return np.zeros((users, max(k, 0)), np.float32), np.zeros((users, max(k, 0)), np.int64)
        _refuse_not_finite(state)
        excluded = _in_order(_i64(excluded).reshape(-1, 2), users, n)
        block = max(16, SCORES_PER_BLOCK // n) if self.device.kind == "cpu" else users
        edges = [*range(0, users, block), users]
        fixed = {
            "items": self._hold("items", _f32(items)),
            "bias": self._hold("bias", _f32(bias)),
            "k": np.array([k], np.int64),
        }
        scores, rows = np.empty((users, k), np.float32), np.empty((users, k), np.int64)
        for part, (start, stop) in zip(_by_block(excluded, edges), pairwise(edges), strict=True):
            feeds = {"state": _f32(state[start:stop]), "excluded": part, **fixed}
            scores[start:stop], rows[start:stop] = self._sessions["score"].run(feeds)
        rows[np.isneginf(scores)] = -1
        return scores, rows

    def interests(self, state: F32) -> dict[str, F32]:
        """state (B, H) → per task the probabilities of its labels (B, C), rows summing to 1."""
        if len(state) == 0:
            return {task: np.zeros((0, len(labels)), np.float32) for task, labels in self.heads.items()}
        session = self._sessions["heads"]
        return dict(zip(session.outputs, session.run({"state": _f32(state)}), strict=True))

    def tower(self, content: F32) -> tuple[F32, F32]:
        """Items known by their text alone: content (N, content_dim) → vectors (N, D), bias (N,)."""
        if len(content) == 0:
            return np.zeros((0, self.dim), np.float32), np.zeros(0, np.float32)
        vectors, bias = self._sessions["tower"].run({"content": _f32(content)})
        return vectors, bias

    def _hold(self, name: str, array: Array) -> Array | ort.OrtValue:
        """On CUDA: the array's copy on the device, made once for as long as the same array comes."""
        if self.device.kind == "cpu":
            return array
        held = self._resident.get(name)
        if held is None or held[0] is not array:
            held = (array, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
            self._resident[name] = held
        return held[1]


def _f32(array: Array) -> F32:
    return np.ascontiguousarray(array, np.float32)


def _i64(array: Array) -> I64:
    return np.ascontiguousarray(array, np.int64)


def _table(path: Path, shape: tuple[int, ...]) -> F32:
    try:
        table: F32 = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path.name} cannot be read: {error}") from error
    if table.dtype != np.float32 or table.shape != shape:
        raise ArtefactError(f"{path.name} is {table.dtype}{table.shape}, expected float32{shape}")
    if not np.isfinite(table).all():
        raise ArtefactError(f"{path.name} holds NaN or infinity: train again")
    table.flags.writeable = False
    return table


def _refuse_not_finite(state: F32) -> None:
    if not np.isfinite(state).all():
        row = int(np.argmin(np.isfinite(state).all(axis=1)))
        raise StateError(
            f"the user state in row {row} of {len(state)} holds NaN or infinity: rebuild it from its window"
        )


def _in_order(excluded: I64, users: int, n: int) -> I64:
    """`excluded` sorted by user, checked: ScatterND would take a negative row as one from the end."""
    if len(excluded) == 0:
        return excluded
    user, row = excluded[:, 0].copy(), excluded[:, 1].copy()  # contiguous: these passes are most of the cost
    if user.min() < 0 or user.max() >= users or row.min() < 0 or row.max() >= n:
        raise ValueError(
            f"excluded names users {user.min()} to {user.max()} of {users} and items {row.min()} to {row.max()} of {n}"
        )
    return excluded if (user[1:] >= user[:-1]).all() else excluded[np.argsort(user, kind="stable")]


def _by_block(excluded: I64, edges: list[int]) -> list[I64]:
    """The exclusions between each two edges, their users counted from the lower one."""
    cuts = np.searchsorted(np.ascontiguousarray(excluded[:, 0]), edges)
    parts = [excluded[first:last].copy() for first, last in pairwise(cuts)]
    for part, start in zip(parts, edges, strict=False):
        part[:, 0] -= start
    return parts
