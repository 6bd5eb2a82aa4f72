"""Inputs on which torch and ONNX are compared, and what torch makes of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from model_export.network import UserModel
from streamer.core.manifest import CONTENT_DIM, MAX_TYPES
from streamer.serving.session import Array

INPUTS: dict[str, tuple[str, ...]] = {
    "step": ("state", "item", "type", "gap", "value"),
    "steps": ("state", "item", "type", "gap", "value"),
    "replay": ("item", "type", "gap", "value", "lengths"),
    "query": ("state",),
    "score": ("state", "items", "bias", "excluded", "k"),
    "heads": ("state",),
    "tower": ("content",),
}
"""Operation (a method of UserModel) → its arguments in order."""
OUTPUTS: dict[str, tuple[str, ...]] = {
    "step": ("next_state",),
    "steps": ("next_state",),
    "replay": ("state",),
    "query": ("query",),
    "score": ("scores", "rows"),
    "tower": ("vector", "bias"),
}
"""Outputs of heads: its tasks."""


def random_inputs(
    rng: np.random.Generator, *, hidden: int, dim: int, users: int, events: int, items: int, k: int = 10
) -> dict[str, dict[str, Array]]:
    """Operation → its inputs: `users` of B, `events` of T, `items` of N; every fourth item is excluded for someone."""

    def floats(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    def event(*axes: int) -> dict[str, Array]:
        return {
            "item": floats(*axes, dim),
            "type": rng.integers(0, MAX_TYPES, axes, dtype=np.int64),
            "gap": rng.random(axes, dtype=np.float32),
            "value": rng.random(axes, dtype=np.float32),
        }

    state = np.tanh(floats(users, hidden))
    excluded = np.stack(
        [rng.integers(0, users, items // 4), rng.choice(items, items // 4, replace=False)], axis=1
    )
    content = floats(items, CONTENT_DIM)
    return {
        "step": {"state": state, **event(users)},
        "steps": {"state": state, **event(events, users)},
        "replay": {**event(users, events), "lengths": rng.integers(0, events + 1, users, dtype=np.int64)},
        "query": {"state": state},
        "score": {
            "state": state,
            "items": floats(items, dim),
            "bias": floats(items),
            "excluded": excluded.astype(np.int64),
            "k": np.array([min(k, items)], np.int64),
        },
        "heads": {"state": state},
        "tower": {"content": content / np.linalg.norm(content, axis=1, keepdims=True)},
    }


def torch_outputs(model: UserModel, operation: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the torch model (in eval mode, on the CPU) makes of `inputs`."""
    arguments = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in INPUTS[operation]]
    with torch.inference_mode():
        result = getattr(model, operation)(*arguments)
    if isinstance(result, dict):
        return {task: tensor.numpy() for task, tensor in result.items()}
    tensors = result if isinstance(result, tuple) else (result,)
    return {name: tensor.numpy() for name, tensor in zip(OUTPUTS[operation], tensors, strict=True)}


def golden_pairs(model: UserModel, inputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Arrays of parity.npz (all but the encoder's)."""
    pairs: dict[str, Array] = {}
    for operation, arrays in inputs.items():
        pairs |= {f"{operation}.in.{name}": array for name, array in arrays.items()}
        outputs = torch_outputs(model, operation, arrays)
        pairs |= {f"{operation}.out.{name}": array for name, array in outputs.items()}
    return pairs
