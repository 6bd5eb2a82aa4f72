"""A small complete artefact with random weights: everything a worker needs, built in seconds, nothing downloaded."""

from __future__ import annotations

import atexit
import shutil
import string
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from model_export.export import export_artefact
from model_export.network import ModelConfig, UserModel
from model_export.onnx_export import quiet
from model_export.social import MetUsers
from model_export.text_export import export_encoder
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.weights import Shipped
from streamer.serving.text_encoder import TextEncoder

CATEGORIES = ["action", "comedy", "drama"]
EVENT_TYPES = ["view", "click", "purchase", "rating"]
_WORDS = ["item", "the", "a", "good", "bad", "film", "book", "about", "number", *CATEGORIES]


def build(
    out: Path,
    *,
    seed: int = 0,
    hidden: int = 16,
    dim: int = 16,
    items: int = 60,
    version: str | None = None,
    bert: Path | None = None,
    encoder: str = "gru",
    users: MetUsers | None = None,
    tick_ms: float | None = None,
) -> Path:
    """Export an artefact into `out` and return its directory; items are "i0", "i1", … and their popularity falls.

    `bert`: a directory with a BertModel of hidden size 384 and its tokenizer.json; by default a random one of one layer.
    `tick_ms`: with weights of the collaborative blend that have learned nothing yet, for a log whose events are so far apart.
    """
    encoder_dir = tiny_encoder() if bert is None else export_encoder(bert, out / ".encoder")
    content = TextEncoder.open(encoder_dir).encode(item_texts(items))
    model = random_model(content, seed=seed, hidden=hidden, dim=dim, encoder=encoder)
    return export_artefact(
        model,
        out,
        item_ids=[f"i{i}" for i in range(items)],
        content=content,
        popularity=np.arange(items, 0, -1, dtype=np.float32),
        head_labels={"category": CATEGORIES, "event_type": EVENT_TYPES},
        metrics={"ndcg_at_10": 0.1},
        seed=seed,
        data_hash="0" * 16,
        window=100,
        encoder_dir=encoder_dir,
        users=users,
        blend=None if tick_ms is None else Shipped.of(Blend(HIDDEN, 0.003, seed), tick_ms).learner,
        version=version,
    )


def item_texts(items: int = 60) -> list[str]:
    """The texts of "i0", "i1", …"""
    return [f"item number {i} about {CATEGORIES[i % 3]}" for i in range(items)]


def random_model(
    content: npt.NDArray[np.float32],
    *,
    seed: int = 0,
    hidden: int = 16,
    dim: int = 16,
    encoder: str = "gru",
) -> UserModel:
    """The torch model that `build` exports; `content` (N, 384) are the items' text vectors."""
    heads = {"category": len(CATEGORIES), "event_type": len(EVENT_TYPES)}
    torch.manual_seed(seed)
    model = UserModel(
        ModelConfig(items=len(content), hidden=hidden, dim=dim, heads=heads, encoder=encoder),
        torch.from_numpy(content),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    return model.eval()


@cache
def tiny_encoder() -> Path:
    """The exported `tiny_bert`, once per process: it takes as long as all the rest of an artefact."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-tiny-encoder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return export_encoder(tiny_bert(folder / "bert"), folder / "encoder")


def tiny_bert(folder: Path) -> Path:
    """Random weights, always the same; letters and a few words as vocabulary."""
    from transformers import BertConfig, BertModel  # imports for seconds

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = [*special, *letters, *(f"##{c}" for c in letters), *_WORDS]
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    random_bert: Any = BertModel  # untyped in transformers
    bert = random_bert(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=384,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
        )
    )
    with quiet():
        bert.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
