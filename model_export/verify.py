"""Is an artefact what the trainer meant? Asked before it is published, and by `headwater verify` at any time after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model_export.golden import random_inputs, torch_outputs
from model_export.network import UserModel
from streamer.serving.device import CPU
from streamer.serving.model import Model
from streamer.serving.parity import check_pairs, compare
from streamer.serving.session import Array
from streamer.serving.text_encoder import TextEncoder

_SHAPES = ((1, 1, 1), (2, 7, 40), (33, 100, 500))
"""(users, events, items): one of each, as exported for none, and more than one block."""


def verify_artefact(
    path: Path, model: UserModel | None = None, sequences: Mapping[str, Array] | None = None
) -> dict[str, float]:
    """Raise an ArtefactError subclass unless the artefact holds; return the largest deviation of each comparison.

    Always: manifest, digests, tensor specs, parity.npz, and gru_step event by event equals gru_replay. With the torch
    model (eval mode, CPU): torch and ONNX agree on random inputs and on `sequences`, real windows in the form of
    gru_replay's inputs: item (B, T, D), type, gap, value (B, T), lengths (B,). All within 1e-5 × (1 + |expected|).
    """
    served = Model.load(path, CPU)
    TextEncoder.load(path, CPU)
    found: dict[str, float] = {}
    rng = np.random.default_rng(served.manifest.seed)
    replays = [] if sequences is None else [dict(sequences)]
    for users, events, items in _SHAPES:
        inputs = random_inputs(
            rng, hidden=served.hidden, dim=served.dim, users=users, events=events, items=items
        )
        replays.append(inputs["replay"])
        if model is not None:
            for operation in model.config.operations:
                arrays = inputs[operation]
                _keep_worst(
                    found, f"torch and ONNX, {operation}", _torch_and_onnx(model, served, operation, arrays)
                )
    for replay in replays:
        if model is not None:
            _keep_worst(found, "torch and ONNX, replay", _torch_and_onnx(model, served, "replay", replay))
        if served.recurrent:
            _keep_worst(found, "step by step and replay", _steps_and_replay(served, replay))
    if model is not None:
        _compare_tables(model, served)
    return found


def _keep_worst(found: dict[str, float], what: str, deviation: float) -> None:
    found[what] = max(found.get(what, 0.0), deviation)


def _torch_and_onnx(model: UserModel, served: Model, operation: str, arrays: Mapping[str, Array]) -> float:
    pairs = {f"{operation}.in.{name}": array for name, array in arrays.items()}
    outputs = torch_outputs(model, operation, arrays)
    pairs |= {f"{operation}.out.{name}": array for name, array in outputs.items()}
    return check_pairs(operation, served.operation(operation), pairs, CPU.tolerance_of(operation))


def _steps_and_replay(served: Model, replay: Mapping[str, Array]) -> float:
    """Each user's state after each event of the window, frozen once the window is over, against gru_replay's."""
    lengths = replay["lengths"]
    state = np.zeros((len(lengths), served.hidden), np.float32)
    for t in range(replay["item"].shape[1]):
        event = {name: replay[name][:, t] for name in ("item", "type", "gap", "value")}
        state = np.where((t < lengths)[:, None], served.step(state, **event), state)
    expected = served.replay(**replay)
    return compare("gru_step event by event, against gru_replay:", expected, state, CPU.tolerance)


def _compare_tables(model: UserModel, served: Model) -> None:
    for name, expected, found in (
        ("items.f32.npy", model.item_vectors(), served.item_vectors),
        ("items.bias.npy", model.item_biases(), served.item_bias),
        ("unknown.f32.npy", model.unknown, served.unknown),
    ):
        compare(name, expected.detach().numpy(), found, CPU.tolerance)
