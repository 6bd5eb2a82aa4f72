"""manifest.json of a model artefact: what it holds, and what its sessions must look like.

An artefact is one immutable directory. The manifest names every file with its sha256 and every ONNX file with its tensors,
so a worker can refuse a bad release before it opens a session.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from streamer.errors import ManifestInvalid, TensorMismatch

MANIFEST = "manifest.json"
FORMAT = 3
STATE_SCHEMA = 2
CONTENT_DIM = 384
"""Length of a text encoder's embedding."""
MAX_TYPES = 32
"""Rows of the event-type embedding: codes 0..31, 0 = none."""
EXACT_ITEMS = 50_000
"""Up to as many items a catalogue is searched exactly on the CPU; above it by an index."""
GROUP = 64
"""Items per group of the device scorers' first top-k."""

Tensor: TypeAlias = tuple[str, list[int | str]]
"""(dtype, dimensions); a string is the name of a dimension that may vary."""


class TensorSpecs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and outputs of one ONNX file by name."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


Tensors: TypeAlias = dict[str, TensorSpecs]

GRAPHS = (
    "gru_step.onnx",
    "gru_steps.onnx",
    "gru_replay.onnx",
    "query.onnx",
    "product.onnx",
    "scorer.onnx",
    "device_scorer.onnx",
    "device_scorer_f16.onnx",
    "heads.onnx",
    "item_tower.onnx",
    "encoder.onnx",
    "encoder_f16.onnx",
)
FILES = (
    *GRAPHS,
    "tokenizer.json",
    "items.f32.npy",
    "items.bias.npy",
    "items.ids",
    "items.popularity.npy",
    "unknown.f32.npy",
    "parity.npz",
)


USER_ENCODERS = ("gru", "transformer")
STEPS = ("gru_step.onnx", "gru_steps.onnx")
"""Only a recurrent encoder has them; a Transformer replays the stored window (gru_replay.onnx) for each event instead."""

BLEND = "blend.npz"
"""Weights of the collaborative blend to begin with, if the log was long enough to learn some."""
CENTROIDS, LISTS = "index.centroids.f32.npy", "index.lists.i32.npy"
"""Files of an index: (nlist, D + 1) and, for each of the artefact's items, its list (N,)."""


USER_HASHES, USER_VECTORS = "users.u64.npy", "users.f16.npy"
"""Files of the users whom a social model knows: hashes (U,), ascending, and their vectors (U, D)."""


class UsersSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the model knows by the graph of friends."""

    n: int
    type: int
    """Code of the event type (`follow`) by which a state meets a user: its own at first, followed ones later."""


class IndexSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a large catalogue is searched on the CPU."""

    kind: Literal["exact", "ivf"] = "exact"
    """exact: the artefact has no index; a worker whose catalogue is large all the same builds one."""
    nlist: int = 0
    """Lists into which the items are clustered."""
    nprobe: int = 0
    """Lists that a query looks into."""
    k: int = 0
    recall: float = 1.0
    """Share of the exact top `k` that is found, of user states that were held out."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Content of manifest.json; decode with `decode_manifest`, which also checks what types cannot say."""

    format: int = FORMAT
    version: str
    created: str
    """ISO 8601, UTC."""
    seed: int
    data_hash: str
    config_hash: str
    metrics: dict[str, float]
    opset: int
    state_schema: int = STATE_SCHEMA
    user_encoder: str = "gru"
    """`gru`: one step per event. `transformer`: no step, the state is replayed from the last `window` events every time."""
    hidden: int
    dim: int
    content_dim: int = CONTENT_DIM
    window: int
    trained_until_ms: int = 0
    """Time of the last event that was trained on, ms; 0 = unknown."""
    max_types: int = MAX_TYPES
    vocabulary_hash: str
    encoder: str
    """16 hex digits; content vectors of another encoder do not fit this model."""
    index: IndexSpec = IndexSpec()
    users: UsersSpec | None = None
    heads: dict[str, list[str]]
    """Labels of each task, in the order of the head's columns."""
    tensors: Tensors
    files: dict[str, str]
    """sha256 (hex) of every file but the manifest."""

    @property
    def recurrent(self) -> bool:
        return self.user_encoder == "gru"

    def needs(self, file: str) -> bool:
        """Whether a file of the contract belongs to this kind of user encoder."""
        return self.recurrent or file not in STEPS


_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENCODER = re.compile(r"[0-9a-f]{16}")


def contract_tensors(hidden: int, dim: int, heads: Mapping[str, Sequence[str]], content_dim: int) -> Tensors:
    """The tensors every artefact has: H = `hidden`, D = `dim`; B, T, N, M and k may vary."""

    def of(inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> TensorSpecs:
        return TensorSpecs(inputs, outputs)

    state: Tensor = ("float32", ["B", hidden])
    step: dict[str, Tensor] = {
        "item": ("float32", ["B", dim]),
        "type": ("int64", ["B"]),
        "gap": ("float32", ["B"]),
        "value": ("float32", ["B"]),
    }
    replay: dict[str, Tensor] = {name: (dtype, ["B", "T", *dims[1:]]) for name, (dtype, dims) in step.items()}
    steps: dict[str, Tensor] = {name: (dtype, ["T", *dims]) for name, (dtype, dims) in step.items()}
    items: Tensor = ("float32", ["N", dim])
    bias: Tensor = ("float32", ["N"])
    tokens: Tensor = ("int64", ["B", "T"])

    def scorer(rows: str, number: str = "float32", **more: Tensor) -> TensorSpecs:
        catalogue: dict[str, Tensor] = {"items": (number, [dim, "N"]), "bias": (number, ["N"])}
        user: dict[str, Tensor] = {"excluded": ("int64", ["M", 2]), "k": ("int64", [1])}
        return of(
            {"state": state, **catalogue, **user, **more},
            {"scores": ("float32", ["B", "k"]), rows: ("int64", ["B", "k"])},
        )

    groups: Tensor = ("int64", [1])
    encoder = of(
        {"input_ids": tokens, "attention_mask": tokens},
        {"embedding": ("float32", ["B", content_dim])},
    )
    return {
        "gru_step.onnx": of({"state": state, **step}, {"next_state": state}),
        "gru_steps.onnx": of({"state": state, **steps}, {"next_state": state}),
        "gru_replay.onnx": of({**replay, "lengths": ("int64", ["B"])}, {"state": state}),
        "query.onnx": of({"state": state}, {"query": ("float32", ["B", dim])}),
        "product.onnx": of(
            {"state": state, "items": ("float32", [dim, "N"])}, {"product": ("float32", ["B", "N"])}
        ),
        "scorer.onnx": scorer("rows"),
        "device_scorer.onnx": scorer("columns", groups=groups),
        "device_scorer_f16.onnx": scorer("columns", "float16", groups=groups),
        "heads.onnx": of({"state": state}, {t: ("float32", ["B", len(c)]) for t, c in heads.items()}),
        "item_tower.onnx": of({"content": ("float32", ["N", content_dim])}, {"vector": items, "bias": bias}),
        "encoder.onnx": encoder,
        "encoder_f16.onnx": encoder,
    }


def encoder_digest(encoder_sha256: str, tokenizer_sha256: str) -> str:
    """16 hex digits that name a text encoder: the graph with its weights, and the tokenizer."""
    return hashlib.sha256(f"{encoder_sha256} {tokenizer_sha256}".encode()).hexdigest()[:16]


def check_tensors(expected: Tensors, found: Tensors) -> None:
    """Raise TensorMismatch unless every file of `expected` is in `found` with the same tensors.

    Names, dtypes, ranks and fixed dimensions must agree. The names of varying dimensions are free, but a dimension that
    must vary may not be fixed: such a session takes only the batch it was exported with.
    """
    for file, specs in expected.items():
        if file not in found:
            raise TensorMismatch(f"{file} is missing: export the artefact again")
        for side, want, have in (
            ("input", specs.inputs, found[file].inputs),
            ("output", specs.outputs, found[file].outputs),
        ):
            if want.keys() != have.keys():
                raise TensorMismatch(f"{file}: {side}s are {sorted(have)}, expected {sorted(want)}")
            for name, tensor in want.items():
                if not _fits(tensor, have[name]):
                    raise TensorMismatch(
                        f"{file}: {side} {name} is {_shown(have[name])}, expected {_shown(tensor)}"
                    )


def _fits(expected: Tensor, found: Tensor) -> bool:
    (want, dims), (have, found_dims) = expected, found
    if want != have or len(dims) != len(found_dims):
        return False
    return all(
        d == f if isinstance(d, int) else not isinstance(f, int)
        for d, f in zip(dims, found_dims, strict=True)
    )


def _shown(tensor: Tensor) -> str:
    return f"{tensor[0]}[{', '.join(map(str, tensor[1]))}]"


def encode_manifest(manifest: Manifest) -> bytes:
    """Indented JSON, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Decode strictly; raises ManifestInvalid with a sentence for anything missing, malformed or impossible."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"manifest.json cannot be read: {error}") from error
    for fault in _faults(manifest):
        raise ManifestInvalid(f"manifest.json: {fault}")
    try:
        contract = contract_tensors(manifest.hidden, manifest.dim, manifest.heads, manifest.content_dim)
        check_tensors(
            {file: specs for file, specs in contract.items() if manifest.needs(file)}, manifest.tensors
        )
    except TensorMismatch as error:
        raise ManifestInvalid(f"manifest.json, tensors: {error}") from error
    return manifest


def _faults(m: Manifest) -> list[str]:
    faults = []
    if m.format != FORMAT:
        faults.append(f"format is {m.format}, this release reads {FORMAT}: export the artefact again")
    if m.state_schema != STATE_SCHEMA:
        faults.append(f"state_schema is {m.state_schema}, this release keeps state of schema {STATE_SCHEMA}")
    if not _VERSION.fullmatch(m.version):
        faults.append(
            f"version {m.version[:140]!r} must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
        )
    for name, n, low in (
        ("hidden", m.hidden, 1),
        ("dim", m.dim, 1),
        ("window", m.window, 1),
        ("opset", m.opset, 18),
    ):
        if not low <= n <= 65535:
            faults.append(f"{name} is {n}, must be {low} to 65535")
    if m.content_dim != CONTENT_DIM or m.max_types != MAX_TYPES:
        faults.append(
            f"content_dim is {m.content_dim} and max_types {m.max_types}, must be {CONTENT_DIM} and {MAX_TYPES}"
        )
    if not _ENCODER.fullmatch(m.encoder):
        faults.append(f"encoder is {m.encoder[:40]!r}, must be 16 hex digits")
    for task, labels in m.heads.items():
        if not labels or len(set(labels)) != len(labels):
            faults.append(
                f"head {task[:40]!r} has {len(labels)} labels, must have at least one and none twice"
            )
    i = m.index
    if i.kind == "ivf" and not (1 <= i.nprobe <= i.nlist <= 65536 and i.k >= 1 and 0.0 < i.recall <= 1.0):
        faults.append(
            f"index has nlist {i.nlist}, nprobe {i.nprobe}, k {i.k}, recall {i.recall}: nprobe must be 1 to nlist, nlist at "
            "most 65536, k at least 1, recall above 0 and at most 1"
        )
    needed = {*filter(m.needs, FILES), *((CENTROIDS, LISTS) if i.kind == "ivf" else ())}
    if m.users is not None:
        needed |= {USER_HASHES, USER_VECTORS}
        if m.users.n < 1 or not 1 <= m.users.type < MAX_TYPES:
            faults.append(
                f"users has n {m.users.n} and type {m.users.type}, must be at least 1 and 1 to {MAX_TYPES - 1}"
            )
    if m.user_encoder not in USER_ENCODERS:
        faults.append(
            f"user_encoder is {m.user_encoder[:40]!r}, this release knows {', '.join(USER_ENCODERS)}"
        )
    if missing := sorted(needed - m.files.keys()):
        faults.append(f"files lacks {missing}")
    for name, digest in m.files.items():
        if "/" in name or "\\" in name or name in ("", ".", "..", MANIFEST):
            faults.append(
                f"files names {name[:140]!r}, must be a plain file name of the artefact's directory"
            )
        if not _SHA256.fullmatch(digest):
            faults.append(f"files: sha256 of {name[:140]} is {digest[:70]!r}, must be 64 hex digits")
    return faults
