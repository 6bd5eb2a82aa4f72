"""Weights as they are published: every list names the ones it was made with, so they are kept under that name."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.blend import Blend

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

    @classmethod
    def of(cls, blend: Blend, alone: int | None) -> Published:
        weights = dict(blend.served)
        return cls(f"{blend.version}-{zlib.crc32(_pack(weights, alone)):08x}", weights, alone)

    def encode(self) -> bytes:
        return _pack(self.weights, self.alone)

    @classmethod
    def decode(cls, name: str, value: bytes) -> Published:
        """Raises ValueError when these are not the weights of that name."""
        if not name.endswith(f"-{zlib.crc32(value):08x}"):
            raise ValueError(f"the weights {name!r} have another checksum, {zlib.crc32(value):08x}")
        with np.load(io.BytesIO(value), allow_pickle=False) as read:
            arrays = dict(read)
        alone = int(arrays.pop("alone"))
        return cls(name, arrays, None if alone < 0 else alone)


def encode_learner(blend: Blend) -> bytes:
    """All that learning needs to go on: weights, their mean, Adam's moments, the number of steps."""
    state = blend.state()
    arrays = {f"{group}/{name}": each for group in _GROUPS for name, each in state[group].items()}
    return _saved({**arrays, "version": np.array(state["version"])})


def restore_learner(blend: Blend, value: bytes) -> None:
    """Raises ValueError when the bytes are no state of a learner of this shape."""
    with np.load(io.BytesIO(value), allow_pickle=False) as read:
        arrays = dict(read)
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


def _pack(weights: dict[str, F32], alone: int | None) -> bytes:
    return _saved({**weights, "alone": np.array(-1 if alone is None else alone)})


def _saved(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()
