"""A trained model as an artefact directory that a worker can serve: complete and verified, or not there at all."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import torch

from model_export.golden import INPUTS, OUTPUTS, golden_pairs, random_inputs
from model_export.network import UserModel
from model_export.onnx_export import OPSET, OneMethod, export_graph, in_half_precision, write_graph
from model_export.retrieval_graphs import DEVICE_SCORERS, all_products, exact_scorer, grouped_scorer
from model_export.social import MetUsers, as_content
from model_export.steps_graph import scanned
from model_export.verify import verify_artefact
from streamer.core.manifest import (
    BLEND,
    CENTROIDS,
    EXACT_ITEMS,
    FILES,
    LISTS,
    MANIFEST,
    STEPS,
    USER_HASHES,
    USER_VECTORS,
    Manifest,
    UsersSpec,
    contract_tensors,
    encode_manifest,
    encoder_digest,
)
from streamer.errors import ArtefactError, DataError
from streamer.serving.artefact import read_manifest, sha256_of, verify_files
from streamer.serving.device import CPU
from streamer.serving.model import Model
from streamer.serving.parity import FILE_OF, read_pairs, write_pairs
from streamer.serving.sampling import sample_states, spec_of
from streamer.serving.session import Array
from streamer.serving.text_encoder import ENCODER, HALF_ENCODER, TOKENIZER

_AXES: dict[str, dict[str, dict[int, str]]] = {
    "step": {name: {0: "B"} for name in INPUTS["step"]},
    "replay": {**{name: {0: "B", 1: "T"} for name in INPUTS["replay"]}, "lengths": {0: "B"}},
    "query": {"state": {0: "B"}},
    "heads": {"state": {0: "B"}},
    "tower": {"content": {0: "N"}},
}
_USERS_AT_ONCE = 1 << 14
_ABANDONED_S = 6 * 3600.0


def export_artefact(
    model: UserModel,
    out: Path,
    *,
    item_ids: Sequence[str],
    content: Array,
    popularity: Array,
    head_labels: Mapping[str, Sequence[str]],
    metrics: Mapping[str, float],
    seed: int,
    data_hash: str,
    window: int,
    encoder_dir: Path,
    trained_until_ms: int = 0,
    blend: bytes | None = None,
    sequences: Mapping[str, Array] | None = None,
    users: MetUsers | None = None,
    version: str | None = None,
) -> Path:
    """Export, verify and publish as `out`/<version>; return that path.

    `content` (N, 384) f32 are the items' text vectors, `popularity` (N,) their events in training, `window` the length of
    the behaviour window that training saw, `encoder_dir` an exported encoder (text_export.cached_encoder), `blend` first
    weights of the collaborative blend (core.signals.weights.Shipped), `sequences` real windows to verify with
    (verify.verify_artefact), `users` whom it knows by the graph of friends. The version is a digest of the content unless
    given, so the same model is the same directory.

    All is written to a hidden directory beside, verified, flushed and renamed: a full disk, a kill or a failed
    verification leaves no version. Raises ArtefactError, or DataError if the arguments do not fit together.
    """
    model = copy.deepcopy(model).cpu().eval()
    _check_arguments(model, item_ids, content, popularity, head_labels)
    out.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    try:
        _write_graphs(model, folder)
        _write_tables(model, folder, item_ids, popularity)
        if users is not None:
            _write_users(model, folder, users)
        for name in (ENCODER, TOKENIZER):
            shutil.copyfile(encoder_dir / name, folder / name)
        write_graph(in_half_precision(folder / ENCODER), folder / HALF_ENCODER)
        _write_parity(model, folder, seed, content, read_pairs(encoder_dir))
        if blend is not None:
            (folder / BLEND).write_bytes(blend)
        manifest = _manifest(
            model, folder, head_labels, metrics, seed, data_hash, window, trained_until_ms, users, version
        )
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))
        if len(item_ids) > EXACT_ITEMS:
            manifest = _with_index(folder, manifest, sequences, version)
        verify_artefact(folder, model, sequences)
        return _publish(folder, out / manifest.version)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_arguments(
    model: UserModel,
    item_ids: Sequence[str],
    content: Array,
    popularity: Array,
    heads: Mapping[str, Sequence[str]],
) -> None:
    n, config = len(item_ids), model.config
    if n != config.items or content.shape != (n, config.content_dim) or popularity.shape != (n,):
        raise DataError(
            f"the model has {config.items} items, item_ids {n}, content {content.shape}, popularity {popularity.shape}"
        )
    if len(set(item_ids)) != n:
        raise DataError(f"item_ids names {n - len(set(item_ids))} of its {n} items twice")
    if not heads:
        raise DataError(
            "a model needs at least one head, say event_type: heads.onnx cannot be without outputs"
        )
    if {task: len(labels) for task, labels in heads.items()} != dict(config.heads):
        raise DataError(
            f"head_labels has { {t: len(c) for t, c in heads.items()} } labels, the model {dict(config.heads)}"
        )


def _write_graphs(model: UserModel, folder: Path) -> None:
    config = model.config
    inputs = random_inputs(
        np.random.default_rng(0), hidden=config.hidden, dim=config.dim, users=3, events=5, items=16, k=4
    )
    graphs = {}
    for operation, axes in _AXES.items():
        if operation not in config.operations:
            continue
        tensors = {name: torch.from_numpy(inputs[operation][name]) for name in INPUTS[operation]}
        outputs = OUTPUTS.get(operation, tuple(config.heads))
        graphs[operation] = export_graph(
            OneMethod(model, operation), tensors, axes, outputs, folder / FILE_OF[operation]
        )
    if "step" in graphs:
        write_graph(scanned(graphs["step"], config.hidden, config.dim), folder / FILE_OF["steps"])
    query = graphs["query"]
    write_graph(all_products(query, config.dim), folder / FILE_OF["score"])
    write_graph(exact_scorer(query, config.dim), folder / "scorer.onnx")
    for name, half in DEVICE_SCORERS.items():
        write_graph(grouped_scorer(query, config.dim, half=half), folder / name)


def _write_tables(model: UserModel, folder: Path, item_ids: Sequence[str], popularity: Array) -> None:
    with torch.inference_mode():
        tables = {
            "items.f32.npy": model.item_vectors().numpy(),
            "items.bias.npy": model.item_biases().numpy(),
            "unknown.f32.npy": model.unknown.numpy(),
            "items.popularity.npy": popularity,
        }
    for name, table in tables.items():
        np.save(folder / name, np.ascontiguousarray(table, np.float32), allow_pickle=False)
    (folder / "items.ids").write_text(json.dumps(list(item_ids)), encoding="utf-8")


def _write_users(model: UserModel, folder: Path, users: MetUsers) -> None:
    """What the item tower makes of their graph contents."""
    vectors = np.empty((len(users.hashes), model.config.dim), np.float16)
    with torch.inference_mode():
        for start in range(0, len(vectors), _USERS_AT_ONCE):
            some = slice(start, start + _USERS_AT_ONCE)
            vectors[some] = model.tower(torch.from_numpy(as_content(users.graph[some])))[0].numpy()
    np.save(folder / USER_HASHES, users.hashes, allow_pickle=False)
    np.save(folder / USER_VECTORS, vectors, allow_pickle=False)


def _write_parity(
    model: UserModel, folder: Path, seed: int, content: Array, encoder: Mapping[str, Array]
) -> None:
    """Golden pairs on random states and events, with real items where items are scored and contents are projected."""
    config = model.config
    rng = np.random.default_rng(seed)
    n = min(config.items, 64)
    inputs = random_inputs(rng, hidden=config.hidden, dim=config.dim, users=8, events=12, items=n)
    some = np.sort(rng.choice(config.items, n, replace=False))
    with torch.inference_mode():
        inputs["score"]["items"] = model.item_vectors().numpy()[some]
        inputs["score"]["bias"] = model.item_biases().numpy()[some]
    inputs["tower"]["content"] = np.ascontiguousarray(content[some], np.float32)
    encode = {name: array for name, array in encoder.items() if name.startswith("encode.")}
    exported = {operation: inputs[operation] for operation in config.operations}
    write_pairs(folder, {**golden_pairs(model, exported), **encode})


def _manifest(
    model: UserModel,
    folder: Path,
    head_labels: Mapping[str, Sequence[str]],
    metrics: Mapping[str, float],
    seed: int,
    data_hash: str,
    window: int,
    trained_until_ms: int,
    users: MetUsers | None,
    version: str | None,
) -> Manifest:
    config = model.config
    heads = {task: list(head_labels[task]) for task in config.heads}
    missing = frozenset() if "step" in config.operations else frozenset(STEPS)
    of_users = () if users is None else (USER_HASHES, USER_VECTORS)
    names = [*(name for name in FILES if name not in missing), *of_users]
    files = {
        name: sha256_of(folder / name)
        for name in (*names, BLEND)
        if name in names or (folder / name).exists()
    }
    tensors = contract_tensors(config.hidden, config.dim, heads, config.content_dim)
    config_hash = _digest(dataclasses.asdict(config))
    return Manifest(
        version=version or _digest([files, config_hash, data_hash, seed, window, heads])[:12],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        data_hash=data_hash,
        config_hash=config_hash,
        metrics={name: float(value) for name, value in metrics.items()},
        opset=OPSET,
        user_encoder=config.encoder,
        hidden=config.hidden,
        dim=config.dim,
        content_dim=config.content_dim,
        window=window,
        trained_until_ms=trained_until_ms,
        vocabulary_hash=files["items.ids"][:16],
        encoder=encoder_digest(files[ENCODER], files[TOKENIZER]),
        users=None if users is None else UsersSpec(n=len(users.hashes), type=users.type_code),
        heads=heads,
        tensors={file: specs for file, specs in tensors.items() if file not in missing},
        files=files,
    )


def _with_index(
    folder: Path, manifest: Manifest, sequences: Mapping[str, Array] | None, version: str | None
) -> Manifest:
    """Add the lists of an index, measured on the states of `sequences` (or of random events), with the worker's own search."""
    served = Model.load(folder, CPU)
    state = sample_states(served) if sequences is None else served.replay(**sequences)
    lists, spec = spec_of(served, state)
    np.save(folder / CENTROIDS, lists.centroids, allow_pickle=False)
    np.save(folder / LISTS, lists.of_rows.astype(np.int32), allow_pickle=False)
    files = {**manifest.files, **{name: sha256_of(folder / name) for name in (CENTROIDS, LISTS)}}
    named = version or _digest([manifest.version, files])[:12]
    manifest = msgspec.structs.replace(manifest, version=named, index=spec, files=files)
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return manifest


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def _publish(folder: Path, target: Path) -> Path:
    """Flush everything, then rename; a version that is there already must hold the same files."""
    if target.exists():
        return _already_published(folder, target)
    folder.chmod(0o755)  # mkdtemp makes it private; workers run as other users
    for path in (*folder.iterdir(), folder):
        _flush(path)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.exists():  # else another export was faster
            raise
        return _already_published(folder, target)
    _flush(target.parent)
    return target


def _already_published(folder: Path, target: Path) -> Path:
    there = read_manifest(target)
    verify_files(target, there)
    if there.files != read_manifest(folder).files:
        raise ArtefactError(
            f"{target} is published and holds another model: a version never changes, choose another name"
        )
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(out: Path) -> None:
    """Hidden directories of exports that were killed; those of the last hours may be at work."""
    for folder in out.glob(".export-*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)
