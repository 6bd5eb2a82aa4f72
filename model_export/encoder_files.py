"""An adapted encoder on disk, its export, and the int8 form with what that costs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.onnx_export import quiet
from model_export.text_export import export_encoder
from streamer.errors import DataError
from streamer.serving.device import CPU
from streamer.serving.parity import read_pairs, write_pairs
from streamer.serving.session import open_session
from streamer.serving.text_encoder import ENCODER, PER_RUN, TOKENIZER, TextEncoder

F32 = NDArray[np.float32]
QUALITY = "quality.json"
"""Beside an encoder: figures that go into the manifests of the models that use it."""


def save_encoder(bert: Any, tokenizer: Path, out: Path, figures: dict[str, float]) -> Path:
    """Write the merged BertModel and its ONNX export to the new directory `out`, in one step. Raises DataError."""
    if out.exists():
        raise DataError(f"{out} exists: an encoder never changes, choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pretrain-", dir=out.parent) as scratch:
        weights = Path(scratch) / "weights"
        with quiet():
            bert.save_pretrained(weights)
        shutil.copyfile(tokenizer, weights / TOKENIZER)
        exported = export_encoder(weights, Path(scratch) / "encoder")
        _put_beside(exported, weights, figures)
        os.replace(exported, out)
    return out


def _put_beside(exported: Path, weights: Path, figures: dict[str, float]) -> None:
    shutil.move(str(weights), exported / "weights")  # for a further round of pre-training
    (exported / QUALITY).write_text(json.dumps({f"encoder_{k}": v for k, v in figures.items()}, indent=1))


def quality_of(encoder: Path) -> dict[str, float]:
    """The figures beside an encoder, none if there are none."""
    file = encoder / QUALITY
    return {} if not file.is_file() else {str(k): float(v) for k, v in json.loads(file.read_text()).items()}


def quantise_encoder(encoder: Path, out: Path, texts: Sequence[str]) -> Path:
    """The encoder of `encoder` with int8 weights (per channel, reduced range) in the new directory `out`.

    `texts` measure what it costs; the figures go beside it (`encoder_int8_cosine`, `encoder_int8_top10_overlap`,
    `encoder_int8_size`: its bytes against the original's). Its activations are scaled run by run, so it takes one text
    a run: else a text's vector would depend on its company. Raises DataError for fewer than 20 texts.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if len(set(texts)) < 20:
        raise DataError(
            f"{len(set(texts))} different texts are too few to measure the int8 encoder with: give 20 or more"
        )
    if out.exists():
        raise DataError(f"{out} exists: an encoder never changes, choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=out.parent) as scratch:
        folder = Path(scratch) / "int8"
        folder.mkdir()
        with quiet():
            quantize_dynamic(
                encoder / ENCODER,
                folder / ENCODER,
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            )
        _mark(folder / ENCODER)
        shutil.copyfile(encoder / TOKENIZER, folder / TOKENIZER)
        pairs = {name: array for name, array in read_pairs(encoder).items() if name.startswith("encode.in.")}
        session = open_session(folder / ENCODER, CPU, arena=False)
        embedding = session.run({name.removeprefix("encode.in."): array for name, array in pairs.items()})[0]
        write_pairs(folder, {**pairs, "encode.out.embedding": embedding})
        exact, small = TextEncoder.open(encoder).encode(texts), TextEncoder.open(folder).encode(texts)
        size = (folder / ENCODER).stat().st_size / (encoder / ENCODER).stat().st_size
        figures = quality_of(encoder) | fidelity(exact, small) | {"encoder_int8_size": size}
        (folder / QUALITY).write_text(json.dumps(figures, indent=1))
        folder.chmod(0o755)
        os.replace(folder, out)
    return out


def fidelity(exact: F32, small: F32, k: int = 10) -> dict[str, float]:
    """(n, width) unit vectors of both → mean cosine, and the mean share of each text's k nearest others that stay."""
    cosine = float((exact * small).sum(1).mean())
    k = min(k, len(exact) - 1)
    nearest = []
    for vectors in (exact, small):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(np.argsort(-scores, axis=1)[:, :k])
    overlap = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest, strict=True)])
    return {"encoder_int8_cosine": cosine, "encoder_int8_top10_overlap": float(overlap)}


def _mark(file: Path) -> None:
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = PER_RUN, "1"
    file.write_bytes(model.SerializeToString(deterministic=True))
