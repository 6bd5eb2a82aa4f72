"""Weights as they are published: every list names the ones it was made with, so they are kept under that name.

They belong to a model: what it says is one of the things that they weigh.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN

F32 = NDArray[np.float32]

LEARNER_KEY = b"learner"
"""Key of the record from which another worker goes on learning; every other key is the name of weights."""


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that lists are made with."""

    name: str
    """Steps learned, and a checksum: two learners can never mean different weights by one name."""
    weights: dict[str, F32]
    alone: int | None
    """The signal (number of SINGLES) that serves alone, None while the blend does"""
    model: str
    """Version of the model that they were learned with"""

    @classmethod
    def of(cls, blend: Blend, alone: int | None, model: str) -> Published:
        weights = dict(blend.served)
        return cls(f"{blend.version}-{zlib.crc32(_pack(weights, alone, model)):08x}", weights, alone, model)

    def encode(self) -> bytes:
        return _pack(self.weights, self.alone, self.model)

    @classmethod
    def decode(cls, name: str, value: bytes) -> Published:
        """Raises ValueError when these are not the weights of that name."""
        if not name.endswith(f"-{zlib.crc32(value):08x}"):
            raise ValueError(f"the weights {name!r} have another checksum, {zlib.crc32(value):08x}")
        arrays = _loaded(value)
        try:
            alone, model = int(arrays.pop("alone")), str(arrays.pop("model"))
        except KeyError as missing:
            raise ValueError(f"the weights {name!r} lack {missing}") from missing
        return cls(name, cast(dict[str, F32], arrays), None if alone < 0 else alone, model)


@dataclass(frozen=True)
class Shipped:
    """What a model brings along: a learner to go on from, and the clock of the log that it learned on."""

    learner: bytes
    tick_ms: float
    rows: int = 0
    """Events that must be counted before these weights serve: they were learned on counts of at least so many."""

    @classmethod
    def of(cls, blend: Blend, tick_ms: float, rows: int = 0) -> Shipped:
        extra = {"tick_ms": np.array(tick_ms), "rows": np.array(rows)}
        return cls(_saved({**_learner(blend), **extra}), tick_ms, rows)

    @classmethod
    def decode(cls, value: bytes) -> Shipped:
        """Raises ValueError for anything that is none, or that is of another shape than this release learns."""
        try:
            loaded = _loaded(value)
            tick_ms, rows = float(loaded["tick_ms"]), int(loaded["rows"])
        except KeyError as error:
            raise ValueError(f"these are no weights of the blend: {error}") from error
        if not tick_ms > 0:
            raise ValueError(f"tick_ms is {tick_ms}, must be above 0")
        restore_learner(Blend(HIDDEN, 0.0, 0), value)
        return cls(value, tick_ms, rows)


def encode_learner(blend: Blend, model: str) -> bytes:
    """All that learning needs to go on: weights, their mean, Adam's moments, the number of steps; and beside which model."""
    return _saved({**_learner(blend), "model": np.array(model)})


def model_of(learner: bytes) -> str:
    """Raises ValueError when the bytes name none."""
    arrays = _loaded(learner)
    if "model" not in arrays:
        raise ValueError("a learner's record names no model")
    return str(arrays["model"])


def _learner(blend: Blend) -> dict[str, NDArray[np.generic]]:
    state = blend.state()
    arrays = {f"{group}/{name}": each for group in _GROUPS for name, each in state[group].items()}
    return {**arrays, "version": np.array(state["version"])}


def restore_learner(blend: Blend, value: bytes) -> None:
    """Raises ValueError when the bytes are no state of a learner of this shape."""
    arrays = _loaded(value)
    try:
        state = {group: {name: arrays[f"{group}/{name}"] for name in blend.weights} for group in _GROUPS}
        version = int(arrays["version"])
    except KeyError as missing:
        raise ValueError(f"a learner's record lacks {missing}") from missing
    for name, each in blend.weights.items():
        if state["weights"][name].shape != each.shape:
            raise ValueError(
                f"{name} has shape {state['weights'][name].shape}, this version has {each.shape}"
            )
    blend.restore({**state, "version": version})


_GROUPS = ("weights", "served", "mean", "square")


def _pack(weights: dict[str, F32], alone: int | None, model: str) -> bytes:
    return _saved({**weights, "alone": np.array(-1 if alone is None else alone), "model": np.array(model)})


def _loaded(value: bytes) -> dict[str, NDArray[np.generic]]:
    """Raises ValueError for anything that `_saved` did not write."""
    try:
        with np.load(io.BytesIO(value), allow_pickle=False) as read:
            return dict(read)
    except (EOFError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"these are no weights: {error}") from error


def _saved(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()
