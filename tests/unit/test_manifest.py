"""manifest.json: a round trip, and a sentence for everything that is wrong with one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamer.core.manifest import (
    FILES,
    Manifest,
    TensorSpecs,
    check_tensors,
    contract_tensors,
    decode_manifest,
    encode_manifest,
    encoder_digest,
)
from streamer.errors import ManifestInvalid, TensorMismatch

HEADS = {"category": ["a", "b"], "event_type": ["view"]}


def manifest() -> Manifest:
    return Manifest(
        version="2f3a-1.0_b",
        created="2024-05-01T12:00:00+00:00",
        seed=1,
        data_hash="d",
        config_hash="c",
        metrics={"ndcg_at_10": 0.25},
        opset=20,
        hidden=4,
        dim=3,
        window=100,
        vocabulary_hash="v",
        encoder="0123456789abcdef",
        heads=HEADS,
        tensors=contract_tensors(4, 3, HEADS, 384),
        files=dict.fromkeys(FILES, "0" * 64),
    )


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(encode_manifest(manifest())), **fields}).encode()


def test_round_trip() -> None:
    assert decode_manifest(encode_manifest(manifest())) == manifest()
    assert encode_manifest(manifest()) == encode_manifest(manifest())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[]", "cannot be read"),
        (changed(surplus=1), "unknown field `surplus`"),
        (changed(hidden="4"), r"Expected `int`.*hidden"),
        (changed(format=9), "format is 9"),
        (changed(state_schema=9), "state_schema is 9"),
        (changed(version="../up"), "version '../up'"),
        (changed(version=".hidden"), "version '.hidden'"),
        (changed(version=""), "version ''"),
        (changed(hidden=0), "hidden is 0"),
        (changed(dim=70000), "dim is 70000"),
        (changed(content_dim=768), "content_dim is 768"),
        (changed(user_encoder="lstm"), "user_encoder is 'lstm', this release knows gru, transformer"),
        (changed(encoder="ABC"), "encoder is 'ABC'"),
        (changed(heads={"category": ["a", "a"], "event_type": ["view"]}), "head 'category'"),
        (changed(heads={"category": ["a", "b", "c"], "event_type": ["view"]}), r"tensors: heads\.onnx"),
        (
            changed(hidden=5),
            r"tensors: gru_step\.onnx: input state is float32\[B, 4\], expected float32\[B, 5\]",
        ),
        (changed(files={}), "files lacks"),
        (
            changed(index={"kind": "ivf", "nlist": 4, "nprobe": 5, "k": 10, "recall": 0.9}),
            "nlist 4, nprobe 5",
        ),
        (changed(index={"kind": "ivf", "nlist": 4, "nprobe": 2, "k": 10, "recall": 1.1}), "recall 1.1"),
        (changed(index={"kind": "ivf", "nlist": 4, "nprobe": 2, "k": 10, "recall": 0.9}), "lacks.*centroids"),
        (changed(index={"kind": "hnsw"}), "hnsw"),
        (changed(files=dict.fromkeys([*FILES, "../x"], "0" * 64)), "files names '../x'"),
        (changed(files=dict.fromkeys(FILES, "0")), "64 hex digits"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, sentence: str) -> None:
    with pytest.raises(ManifestInvalid, match=sentence):
        decode_manifest(data)


def test_a_missing_field_is_named() -> None:
    fields = json.loads(encode_manifest(manifest()))
    del fields["encoder"]
    with pytest.raises(ManifestInvalid, match="encoder"):
        decode_manifest(json.dumps(fields).encode())


def test_tensors_may_name_their_varying_dimensions_freely() -> None:
    expected = {"x": TensorSpecs({"a": ("float32", ["B", 4])}, {})}
    check_tensors(
        expected, {"x": TensorSpecs({"a": ("float32", ["s0", 4])}, {}), "other": TensorSpecs({}, {})}
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, "x is missing"),
        ({"x": TensorSpecs({}, {})}, r"inputs are \[\], expected \['a'\]"),
        ({"x": TensorSpecs({"a": ("float32", ["B", 4])}, {"b": ("int64", [])})}, "outputs"),
        ({"x": TensorSpecs({"a": ("float64", ["B", 4])}, {})}, r"float64\[B, 4\], expected float32\[B, 4\]"),
        ({"x": TensorSpecs({"a": ("float32", ["B", 5])}, {})}, "B, 5"),
        ({"x": TensorSpecs({"a": ("float32", ["B"])}, {})}, r"float32\[B\]"),
        ({"x": TensorSpecs({"a": ("float32", [2, 4])}, {})}, r"float32\[2, 4\]"),
        ({"x": TensorSpecs({"a": ("float32", ["B", "D"])}, {})}, r"float32\[B, D\]"),
    ],
)
def test_tensors_that_do_not_fit(found: dict[str, TensorSpecs], sentence: str) -> None:
    with pytest.raises(TensorMismatch, match=sentence):
        check_tensors({"x": TensorSpecs({"a": ("float32", ["B", 4])}, {})}, found)


def test_graph_and_tokenizer_both_name_the_encoder() -> None:
    digests = {encoder_digest(a, b) for a in ("1" * 64, "2" * 64) for b in ("1" * 64, "2" * 64)}
    assert len(digests) == 4
    assert all(len(digest) == 16 for digest in digests)
