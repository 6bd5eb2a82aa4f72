"""Golden pairs of an artefact (parity.npz): inputs, and what the trainer's own model made of them.

Arrays are named `step.in.state`, `step.out.next_state` and so on: operation, side, tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from streamer.errors import ParityMismatch
from streamer.serving.session import Array

PARITY = "parity.npz"
FILE_OF = {
    "step": "gru_step.onnx",
    "replay": "gru_replay.onnx",
    "query": "query.onnx",
    "score": "product.onnx",
    "heads": "heads.onnx",
    "tower": "item_tower.onnx",
    "encode": "encoder.onnx",
}
"""Operation → the ONNX file that computes it."""
Operation: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Inputs by name → outputs by name."""


def read_pairs(path: Path) -> dict[str, Array]:
    """All arrays of parity.npz; raises ParityMismatch if it cannot be read."""
    try:
        with np.load(path / PARITY, allow_pickle=False) as pairs:
            return {name: pairs[name] for name in pairs.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise ParityMismatch(f"{PARITY} cannot be read: {error}") from error


def write_pairs(path: Path, pairs: Mapping[str, Array]) -> None:
    """Write parity.npz; the same arrays give the same bytes."""
    with ZipFile(path / PARITY, "w") as archive:
        for name in sorted(pairs):
            member = ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, pairs[name], allow_pickle=False)


def check_pairs(name: str, operation: Operation, pairs: Mapping[str, Array], tolerance: float) -> float:
    """Run the golden inputs; return the largest deviation, raise ParityMismatch if it exceeds the tolerance.

    The tolerance is absolute plus relative, as in numpy.isclose. Of a top-k the rows are not compared: equal scores
    decide, and near ties may turn.
    """
    inputs, outputs = _of(pairs, f"{name}.in."), _of(pairs, f"{name}.out.")
    try:
        found = operation(inputs)
    except KeyError as error:
        raise ParityMismatch(
            f"{PARITY} lacks the input {error} of {name}: export the artefact again"
        ) from error
    worst = 0.0
    for output, array in found.items():
        expected = outputs.get(output)
        if expected is None or expected.shape != array.shape:
            shape = None if expected is None else expected.shape
            raise ParityMismatch(f"{name}: {output} has shape {array.shape}, {PARITY} says {shape}")
        if not (name == "score" and output == "rows"):
            worst = max(worst, compare(f"{name}: {output}", expected, array, tolerance))
    return worst


def _of(pairs: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in pairs.items() if name.startswith(prefix)}


def compare(what: str, expected: Array, found: Array, tolerance: float) -> float:
    """The largest |found - expected|; raises ParityMismatch where it exceeds tolerance × (1 + |expected|), or is NaN."""
    same = found == expected  # infinities of one sign among them
    with np.errstate(invalid="ignore"):
        deviation = np.where(same, 0.0, np.abs(found - expected))
        within = same | (deviation <= tolerance * (1.0 + np.abs(expected)))
    if not within.all():
        at = np.unravel_index(int(np.argmin(within)), within.shape)
        raise ParityMismatch(
            f"{what} is {found[at]:.7g} at {[int(i) for i in at]}, the trainer had {expected[at]:.7g} "
            f"(tolerance {tolerance:g}; {int((~within).sum())} of {within.size} values differ): export the artefact again"
        )
    return float(deviation.max(initial=0.0))
