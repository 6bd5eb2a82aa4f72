"""The job as a user of a per-event framework would write it in Python: one event in, its user's profile and list out.

What the frameworks share is here, well tuned for single events: plain numbers rather than arrays of one, ONNX Runtime called
directly, a state that decodes in a few microseconds. What differs (reading, keeping, sending) is in the peers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort

WINDOW, TOP_K, TOP_LABELS, RECENT = 100, 10, 5, 16
SPANS_MS = {"1h": 3_600_000, "24h": 86_400_000, "7d": 7 * 86_400_000}
HALF_LIVES_MS = {"short_term": 86_400_000, "long_term": 30 * 86_400_000}
TYPES = {  # name: (code, weight, consumes its item)
    "view": (1, 0.3, False),
    "click": (2, 0.4, False),
    "purchase": (6, 1.0, True),
    "rating": (7, 1.0, True),
}
TYPE_NAMES = {code: name for name, (code, _, _) in TYPES.items()}


class Event(msgspec.Struct, gc=False):
    event_id: str
    user_id: str
    type: str
    timestamp_ms: int
    item_id: str
    value: float = 0.0


class State(msgspec.Struct, array_like=True):
    """All that is known of a user; times, rows and codes are the window's, oldest first."""

    gru: bytes
    version: int = 0
    last_ms: int = -1
    times: list[int] = []
    rows: list[int] = []
    codes: list[int] = []
    seen: set[int] = set()
    short_term: dict[str, float] = {}
    long_term: dict[str, float] = {}


class Handled(NamedTuple):
    """What an event leads to, encoded: the state, and a record for each of two topics."""

    state: bytes
    profiles: bytes
    recommendations: bytes


class Job:
    """artefact: a model's directory; items: a JSON file, item id → categories."""

    def __init__(self, artefact: Path, items: Path) -> None:
        manifest = msgspec.json.decode((artefact / "manifest.json").read_bytes())
        self._version, self._labels = manifest["version"], manifest["heads"]
        self._step, self._heads, self._scorer = (
            open_session(artefact / name) for name in ("gru_step.onnx", "heads.onnx", "scorer.onnx")
        )
        self._tasks = [output.name for output in self._heads.get_outputs()]
        self._ids = msgspec.json.decode((artefact / "items.ids").read_bytes(), type=list[str])
        self._row = {item: row for row, item in enumerate(self._ids)}
        self._vectors, self._bias = np.load(artefact / "items.f32.npy"), np.load(artefact / "items.bias.npy")
        self._columns = np.ascontiguousarray(self._vectors.T)
        self._unknown = np.load(artefact / "unknown.f32.npy")
        self._categories = msgspec.json.decode(items.read_bytes(), type=dict[str, list[str]])
        self._k = np.array([TOP_K])
        self._new = bytes(4 * manifest["hidden"])
        self._decode_event = msgspec.json.Decoder(Event).decode
        self._decode_state = msgspec.msgpack.Decoder(State).decode
        self._encode_state = msgspec.msgpack.Encoder().encode
        self._encode = msgspec.json.Encoder().encode

    def handle(self, stored: bytes | None, event: bytes, partition: int, offset: int) -> Handled:
        """stored: the user's state, None for a new user; event: the record's value, with its partition and offset."""
        decoded = self._decode_event(event)
        state = self._decode_state(stored) if stored else State(self._new)
        gru = self._absorb(state, decoded)
        head = {
            "user_id": decoded.user_id,
            "version": state.version,
            "revision": 0,
            "as_of_ms": state.last_ms,
            "model_version": self._version,
        }
        source = {"topic": "events", "partition": partition, "offset": offset}
        profile = {"interests": self._interests(state, gru), "activity": activity(state), "source": source}
        listed = {"strategy": "model", "items": self._top(state, gru), "source": source}
        return Handled(self._encode_state(state), self._encode(head | profile), self._encode(head | listed))

    def _absorb(self, state: State, event: Event) -> np.ndarray:
        """Count the event and step the GRU; returns its state (1, H)."""
        code, weight, consumes = TYPES[event.type]
        row = self._row.get(event.item_id, -1)
        passed_ms = max(0, event.timestamp_ms - state.last_ms) if state.version else 0
        feeds = {
            "state": np.frombuffer(state.gru, np.float32)[None],
            "item": (self._vectors[row] if row >= 0 else self._unknown)[None],
            "type": np.array([code]),
            "gap": np.array([math.log1p(passed_ms / 1000) / 16], np.float32),
            "value": np.array([event.value / 10], np.float32),
        }
        gru: np.ndarray = self._step.run(None, feeds)[0]
        labels = self._categories.get(event.item_id, [])
        for kind, half_life in HALF_LIVES_MS.items():
            decay = 0.5 ** (passed_ms / half_life)
            weights = {name: old * decay for name, old in getattr(state, kind).items()}
            for name in labels:
                weights[name] = weights.get(name, 0.0) + weight / len(labels)
            setattr(state, kind, weights)
        for window, value in ((state.times, event.timestamp_ms), (state.rows, row), (state.codes, code)):
            window.append(value)
            del window[:-WINDOW]
        if consumes and row >= 0:
            state.seen.add(row)
        state.gru, state.version, state.last_ms = gru.tobytes(), state.version + 1, event.timestamp_ms
        return gru

    def _interests(self, state: State, gru: np.ndarray) -> dict[str, Any]:
        found = {kind: shares(getattr(state, kind)) for kind in HALF_LIVES_MS}
        for task, probabilities in zip(self._tasks, self._heads.run(None, {"state": gru}), strict=True):
            ranked = sorted(zip(probabilities[0].tolist(), self._labels[task], strict=True), reverse=True)
            found[task] = [{"label": name, "p": round(p, 4)} for p, name in ranked[:TOP_LABELS]]
        return found

    def _top(self, state: State, gru: np.ndarray) -> list[dict[str, Any]]:
        """The best items that the user has not consumed, each with the past item closest to it, the newest of equals."""
        excluded = np.zeros((len(state.seen), 2), np.int64)
        excluded[:, 1] = list(state.seen)
        feeds = {"state": gru, "items": self._columns, "bias": self._bias, "excluded": excluded, "k": self._k}
        scores, rows = self._scorer.run(None, feeds)
        recent = [row for row in state.rows[: -RECENT - 1 : -1] if row >= 0]
        support = self._vectors[rows[0]] @ self._vectors[recent].T
        support[rows[0][:, None] == np.array(recent)] = -np.inf
        return [
            {
                "item_id": self._ids[row],
                "score": round(score, 6),
                "because": self._ids[recent[reason]],
            }
            for row, score, reason in zip(
                rows[0].tolist(), scores[0].tolist(), support.argmax(axis=1).tolist(), strict=True
            )
        ]


def shares(weights: dict[str, float]) -> list[dict[str, Any]]:
    """The largest of a user's interests, as shares of all of them."""
    best = sorted(weights.items(), key=lambda pair: -pair[1])[:TOP_LABELS]
    total = sum(weights.values()) or 1.0
    return [{"label": name, "p": round(weight / total, 4)} for name, weight in best]


def activity(state: State) -> dict[str, dict[str, int]]:
    """Events of the window per type in the last hour, day and week."""
    found: dict[str, dict[str, int]] = {}
    counted: dict[int, dict[str, int]] = {}
    for name, span in SPANS_MS.items():
        start = bisect_right(state.times, state.last_ms - span)
        if start not in counted:
            counted[start] = {TYPE_NAMES[code]: n for code, n in Counter(state.codes[start:]).items()}
        found[name] = counted[start]
    return found


def open_session(path: Path) -> ort.InferenceSession:
    """One thread: the process has one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
