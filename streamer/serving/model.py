"""One model version, loaded: the artefact's sessions and tables behind numpy.

Axes: B users, T events, H user state, D item vector, N items, M exclusions, K = min(k, N).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from streamer.core.hashing import item_hash, model_number
from streamer.core.manifest import BLEND, CENTROIDS, LISTS, Manifest
from streamer.core.signals.weights import Shipped
from streamer.errors import ArtefactError, DeviceUnavailable, ManifestInvalid
from streamer.serving.artefact import read_manifest, verify_files, verify_session
from streamer.serving.bound import BoundGraph, BoundSearch
from streamer.serving.device import CPU, Device
from streamer.serving.exact import F32, I64, ExactSearch, Search, checked
from streamer.serving.ivf import Lists
from streamer.serving.known_users import KnownUsers
from streamer.serving.parity import FILE_OF, Operation, check_pairs, read_pairs
from streamer.serving.session import Array, Session, open_session

log = logging.getLogger("headwater.device")

_OPERATIONS = ("step", "steps", "replay", "query", "score", "heads", "tower")
_BOUND = ("step", "query", "heads")


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
    lists: Lists | None
    """The index of the artefact's items, if it has one."""
    blend: Shipped | None
    """First weights of the collaborative blend, if it has some."""
    users: KnownUsers | None
    """Whom it knows by the graph of friends, if it was trained with one."""
    _path: Path
    _sessions: Mapping[str, Session]
    _bound: Mapping[str, BoundGraph]
    """What runs through buffers on the device, where there is one."""
    _searches: list[tuple[Array, Array, Search]] = field(default_factory=list)
    """The last catalogue that `score` was asked for, as long as it cannot change."""

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def recurrent(self) -> bool:
        """Whether there is a step; else each event asks for a replay of the user's window."""
        return self.manifest.recurrent

    @property
    def window(self) -> int:
        """Events that a replay was trained on, at most."""
        return self.manifest.window

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
        if not device.half:
            return cls._verified(path, manifest, device)
        try:
            return cls._verified(path, manifest, device)
        except (ArtefactError, DeviceUnavailable) as error:
            log.warning("scores are computed in full precision, since half does not work: %s", error)
            return cls._verified(path, manifest, dataclasses.replace(device, half=False))

    @classmethod
    def _verified(cls, path: Path, manifest: Manifest, device: Device) -> Model:
        files = dict(FILE_OF, score=device_scorer(device)) if device.bound else FILE_OF
        served = [name for name in _OPERATIONS if manifest.needs(FILE_OF[name])]
        sessions = {
            name: open_session(path / files[name], device, capture=device.bound and name in _BOUND)
            for name in served
            if not (name == "steps" and device.bound)  # a device steps through its bound buffers
        }
        for name, session in sessions.items():
            verify_session(files[name], session, manifest)
        pairs = read_pairs(path)
        model = cls._with_tables(path, manifest, device, sessions)
        for name in served:
            check_pairs(name, model.operation(name), pairs, device.tolerance_of(name))
        return model

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
            lists=_lists(path, n, manifest),
            blend=_blend(path, manifest),
            users=KnownUsers.load(path, manifest),
            _path=path,
            _sessions=sessions,
            _bound={name: BoundGraph(sessions[name]) for name in _BOUND if name in sessions}
            if device.bound
            else {},
        )

    def session(self, operation: str) -> Session:
        """The bare session of step, steps, replay, query, score, heads or tower."""
        return self._sessions[operation]

    def operation(self, name: str) -> Operation:
        """step, steps, replay, query, score, heads or tower by the names of its arrays, to compare with torch."""
        if name == "score":
            return self._score_by_name
        if name == "steps":
            return self._steps_by_name
        return (self._bound.get(name) or self._sessions[name]).by_name

    def _steps_by_name(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = ("state", "item", "type", "gap", "value")
        return {"next_state": self.steps(*(inputs[name] for name in names))}

    def _score_by_name(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        excluded, k = inputs["excluded"], int(inputs["k"][0])
        scores, rows = self.score(inputs["state"], inputs["items"], inputs["bias"], excluded, k)
        return {"scores": scores, "rows": rows}

    def step(self, state: F32, item: F32, type: I64, gap: F32, value: F32) -> F32:
        """One event for each user: state (B, H), item (B, D), type, gap, value (B,) → next state (B, H)."""
        if len(state) == 0:
            return np.zeros((0, self.hidden), np.float32)
        feeds: dict[str, Array] = {
            "state": _f32(state),
            "item": _f32(item),
            "type": _i64(type),
            "gap": _f32(gap),
            "value": _f32(value),
        }
        return self._run("step", feeds)[0]

    def steps(self, state: F32, item: F32, type: I64, gap: F32, value: F32) -> F32:
        """T events for each user: state (B, H), item (T, B, D), type, gap, value (T, B) → next state (B, H).

        The state is rounded to half precision after every event, so a run may be cut anywhere.
        """
        if self.device.bound:
            for event in zip(item, type, gap, value, strict=True):
                state = self.step(state, *event).astype(np.float16).astype(np.float32)
            return state
        if len(state) == 0 or len(item) == 0:
            return state
        feeds = {"item": _f32(item), "type": _i64(type), "gap": _f32(gap), "value": _f32(value)}
        found: F32 = self._sessions["steps"].run({"state": _f32(state), **feeds})[0]
        return found

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
        state, excluded = checked(state, excluded, len(items))
        return self._search(items, bias).top_k(state, excluded, k)

    def search(self, items: F32, bias: F32) -> Search:
        """Exact top-k over these items (N, D), bias (N,), which must not change any more."""
        if self.device.bound:
            return BoundSearch(self._sessions["score"], items, bias)
        return ExactSearch(self._sessions["score"], items, bias)

    def resident(self, items: F32, bias: F32) -> BoundSearch:
        """The same on the device, for a catalogue that stays: with a session, and CUDA graphs, of its own."""
        session = open_session(self._path / device_scorer(self.device), self.device, capture=True)
        return BoundSearch(session, items, bias)

    def _search(self, items: F32, bias: F32) -> Search:
        for of_items, of_bias, search in self._searches:
            if of_items is items and of_bias is bias:
                return search
        search = self.search(items, bias)
        if not (items.flags.writeable or bias.flags.writeable):
            self._searches[:] = [(items, bias, search)]
        return search

    @property
    def query(self) -> Callable[[F32], F32]:
        """state (B, H) → the direction (B, D) in which the next item lies: a score is query · vector + bias."""
        run, bound, dim = self._sessions["query"].run, self._bound.get("query"), self.dim

        def query(state: F32) -> F32:  # holds the session, not the model: an index may outlive it
            if len(state) == 0:
                return np.zeros((0, dim), np.float32)
            feeds = {"state": _f32(state)}
            found: F32 = run(feeds)[0] if bound is None else bound.run_rows(feeds)[0]
            return found

        return query

    def interests(self, state: F32) -> dict[str, F32]:
        """state (B, H) → per task the probabilities of its labels (B, C), rows summing to 1."""
        if len(state) == 0:
            return {task: np.zeros((0, len(labels)), np.float32) for task, labels in self.heads.items()}
        found = self._run("heads", {"state": _f32(state)})
        return dict(zip(self._sessions["heads"].outputs, found, strict=True))

    def tower(self, content: F32) -> tuple[F32, F32]:
        """Items known by their text alone: content (N, content_dim) → vectors (N, D), bias (N,)."""
        if len(content) == 0:
            return np.zeros((0, self.dim), np.float32), np.zeros(0, np.float32)
        vectors, bias = self._sessions["tower"].run({"content": _f32(content)})
        return vectors, bias

    def _run(self, name: str, feeds: Mapping[str, Array]) -> list[Array]:
        bound = self._bound.get(name)
        return self._sessions[name].run(feeds) if bound is None else bound.run_rows(feeds)


def device_scorer(device: Device) -> str:
    return "device_scorer_f16.onnx" if device.half else "device_scorer.onnx"


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


def _lists(path: Path, items: int, manifest: Manifest) -> Lists | None:
    spec = manifest.index
    if spec.kind == "exact":
        return None
    centroids = _table(path / CENTROIDS, (spec.nlist, manifest.dim + 1))
    of_rows = np.load(path / LISTS, allow_pickle=False)
    if (
        of_rows.dtype != np.int32
        or of_rows.shape != (items,)
        or not (of_rows >= 0).all() & (of_rows < spec.nlist).all()
    ):
        raise ArtefactError(
            f"{LISTS} is {of_rows.dtype}{of_rows.shape}, expected int32({items},) of 0 to {spec.nlist - 1}"
        )
    return Lists(centroids, of_rows.astype(np.int64))


def _blend(path: Path, manifest: Manifest) -> Shipped | None:
    if BLEND not in manifest.files:
        return None
    try:
        return Shipped.decode((path / BLEND).read_bytes())
    except ValueError as error:
        log.warning(
            "the blend of model %s is learned anew: its %s does not fit: %s", manifest.version, BLEND, error
        )
        return None
