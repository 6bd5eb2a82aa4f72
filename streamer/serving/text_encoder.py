"""Texts to content vectors: the artefact's tokenizer and its BERT encoder (mean-pooled, L2-normalised).

Sentence-BERT: Reimers & Gurevych 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from streamer.core.manifest import CONTENT_DIM, check_tensors, contract_tensors, encoder_digest
from streamer.errors import ArtefactError, DeviceUnavailable
from streamer.serving.artefact import read_manifest, sha256_of, verify_files
from streamer.serving.device import CPU, Device
from streamer.serving.parity import PARITY, check_pairs, read_pairs
from streamer.serving.session import Session, open_session

log = logging.getLogger("headwater.device")

F32 = npt.NDArray[np.float32]

ENCODER, TOKENIZER = "encoder.onnx", "tokenizer.json"
HALF_ENCODER = "encoder_f16.onnx"
"""The same in half precision: what runs on a device."""
HALF_TOLERANCE = 5e-3
"""How far its vectors, of length 1, may lie from the trainer's; they are kept in f16 anyway."""
MAX_TOKENS = 128
"""Tokens of a text that are read, [CLS] and [SEP] included; tokenizer.json truncates."""
TOKENS_PER_RUN = 512
"""Padded tokens (B × T) per run on the CPU: more only costs memory there."""
PER_RUN = "headwater.texts_per_run"
"""Metadata of an int8 graph, always 1: it scales its activations run by run, so a text must not share one."""
INT8_TOLERANCE = 0.02
"""Of an int8 graph's golden pairs: processors may round an activation to one step or the next."""
MAX_CHARACTERS = 4096
"""Characters that reach the tokenizer; 128 tokens of real text are fewer."""


class TextEncoder:
    """`encode` blocks (about 2 to 10 ms a sentence): call it off the event loop, best through a MicroBatcher."""

    def __init__(self, session: Session, tokenizer: Tokenizer, digest: str) -> None:
        self._session, self._tokenizer = session, tokenizer
        self.digest = digest
        """16 hex digits; goes with every content vector."""
        self._alone = PER_RUN in session.metadata
        self._tokens_per_run = TOKENS_PER_RUN if session.device.kind == "cpu" else 64 * TOKENS_PER_RUN

    @classmethod
    def load(cls, path: Path, device: Device = CPU) -> TextEncoder:
        """The encoder of the artefact at `path`; raises ArtefactError subclasses as Model.load does."""
        manifest = read_manifest(path)
        verify_files(path, manifest, (ENCODER, HALF_ENCODER, TOKENIZER, PARITY))
        if (digest := encoder_digest(manifest.files[ENCODER], manifest.files[TOKENIZER])) != manifest.encoder:
            raise ArtefactError(
                f"the manifest names encoder {manifest.encoder}, its files are encoder {digest}"
            )
        return cls.open(path, device)

    @classmethod
    def open(cls, path: Path, device: Device = CPU) -> TextEncoder:
        """An exported encoder directory without a manifest (encoder.onnx, tokenizer.json, parity.npz)."""
        if device.bound and (path / HALF_ENCODER).exists():
            try:
                session = _checked(path, HALF_ENCODER, device, HALF_TOLERANCE)
            except (ArtefactError, DeviceUnavailable) as error:
                log.warning("texts are encoded in full precision, since half does not work: %s", error)
                session = _checked(path, ENCODER, device, device.tolerance)
        else:
            session = _checked(path, ENCODER, device, device.tolerance)
        digest = encoder_digest(sha256_of(path / ENCODER), sha256_of(path / TOKENIZER))
        return cls(session, _open_tokenizer(path / TOKENIZER), digest)

    def encode(self, texts: Sequence[str]) -> F32:
        """(n,) texts → (n, 384) f32 of length 1, in the order of `texts`; texts of like length run together."""
        tokens = [self._tokenizer.encode(text[:MAX_CHARACTERS]).ids for text in texts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        vectors = np.empty((len(tokens), CONTENT_DIM), np.float32)
        while order:
            longest = len(tokens[order[-1]])
            size = 1 if self._alone else max(1, self._tokens_per_run // longest)
            rows, order = order[-size:], order[:-size]
            vectors[rows] = self._run([tokens[i] for i in rows], longest)
        return vectors

    def _run(self, tokens: list[list[int]], width: int) -> F32:
        ids = np.zeros((len(tokens), width), np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        embedding: F32 = self._session.run({"input_ids": ids, "attention_mask": mask})[0]
        return embedding


def _checked(path: Path, file: str, device: Device, tolerance: float) -> Session:
    session = open_session(path / file, device, arena=False)
    check_tensors({file: contract_tensors(1, 1, {}, CONTENT_DIM)[file]}, {file: session.tensors})
    if PER_RUN in session.metadata:
        tolerance = max(tolerance, INT8_TOLERANCE)
    check_pairs("encode", session.by_name, read_pairs(path), tolerance)
    return session


def _open_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtefactError(f"{path.name} cannot be read: {error}") from error
    tokenizer.no_padding()
    if tokenizer.truncation is None or tokenizer.truncation["max_length"] > MAX_TOKENS:
        raise ArtefactError(f"{path.name} must truncate to {MAX_TOKENS} tokens: export the encoder again")
    return tokenizer
