"""Domain-adaptive pre-training of the text encoder: it reads the catalogue and its reviews before it describes items.

Sources
- Further masked-language modelling on the texts of the task: Gururangan et al. 2020, arXiv:2004.10964.
- Few trained weights: LoRA, Hu et al. 2021, arXiv:2106.09685; AdaLoRA, Zhang et al. 2023, arXiv:2303.10512.
- Distances between sentences are kept by relational distillation from the encoder as it was: Park et al. 2019,
  arXiv:1904.05068. Without it, unrelated sentences drift together, for masked words alone need no sentence vector.

Axes: B texts, T tokens, M masked tokens, C categories, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from model_export.onnx_export import quiet
from model_export.text_export import SentenceEncoder
from streamer.errors import DataError
from streamer.serving.text_encoder import TOKENIZER

F32 = NDArray[np.float32]
Method = Literal["lora", "adalora", "full"]


@dataclass(frozen=True)
class PretrainConfig:
    """What shapes a run."""

    method: Method = "lora"
    rank: int = 8
    steps: int = 300
    batch_texts: int = 32
    max_tokens: int = 64
    """Of a text that are read in training: the cost of a step grows with them."""
    learning_rate: float = 0.0
    """0: 5e-4 for the adapters, 3e-5 for all weights."""
    warmup: float = 0.06
    mask_rate: float = 0.15
    category_weight: float = 0.3
    geometry_weight: float = 10.0
    """Weight of the distillation. 0 lets the sentence vectors drift."""
    seed: int = 7
    threads: int = 1

    def __post_init__(self) -> None:
        if self.method not in ("lora", "adalora", "full"):
            raise DataError(f"method is {self.method!r}: it must be lora, adalora or full")
        for name in ("rank", "steps", "batch_texts", "threads"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 8 <= self.max_tokens <= 128:
            raise DataError(f"max_tokens is {self.max_tokens}: it must lie in [8, 128]")
        if not 0 < self.mask_rate < 1:
            raise DataError(f"mask_rate is {self.mask_rate}: it must lie in (0, 1)")

    @property
    def rate(self) -> float:
        return self.learning_rate or (3e-5 if self.method == "full" else 5e-4)


@dataclass(frozen=True)
class Pretrained:
    """The merged BertModel in eval mode, and what became of it."""

    bert: nn.Module
    figures: dict[str, float]
    """Losses before and after (`masked_words_before`, …), `geometry`: correlation of the texts' cosines with what they
    were, `unrelated_before` and `unrelated`: mean cosine of random pairs, `trained_share` of the weights, `seconds`."""


Watch = Callable[[int, dict[str, float]], None]
"""(step, losses)"""


class MaskedReader(nn.Module):
    """BERT with a head for masked words, tied to the word embeddings, and one for the text's categories."""

    def __init__(self, bert: nn.Module, categories: int) -> None:
        super().__init__()
        config: Any = bert.config
        width = config.hidden_size
        self.encoder = SentenceEncoder(bert)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.category = nn.Linear(width, categories) if categories else None

    def forward(self, ids: Tensor, mask: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """ids, mask (B, T) i64, at (B, T) bool, M of them → word logits (M, V) there only, sentence vectors (B, width)."""
        bert: Any = self.encoder.bert
        tokens = bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, width)
        weight = mask[..., None].to(tokens.dtype)
        mean = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        words = bert.get_input_embeddings().weight  # (V, width)
        logits = functional.linear(self.transform(tokens[at]), words, self.word_bias)
        return logits, functional.normalize(mean, dim=-1)


def pretrain(
    source: Path,
    texts: Sequence[str],
    categories: F32,
    config: PretrainConfig,
    watch: Watch = lambda step, losses: None,
) -> Pretrained:
    """Adapt the BertModel in `source` (with its tokenizer.json) to `texts`.

    `categories` (n, C) are distributions over labels, a row of zeros for a text without any, C may be 0. The same texts,
    config and seed give the same weights. Raises DataError for fewer than 32 texts with a word in them.
    """
    started_s, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            run = _Pretraining(source, texts, categories, config, watch)
            bert = run.run()
            run.figures["seconds"] = time.perf_counter() - started_s
            return Pretrained(bert, run.figures)
    finally:
        torch.set_num_threads(threads)


class _Pretraining:
    def __init__(
        self, source: Path, texts: Sequence[str], categories: F32, config: PretrainConfig, watch: Watch
    ) -> None:
        from transformers import BertModel  # imports for seconds

        self.config, self.watch = config, watch
        self.tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(config.max_tokens)
        tokens = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts))]
        kept = [row for row, ids in enumerate(tokens) if len(ids) > 2]
        if len(kept) < 32:
            raise DataError(
                f"only {len(kept)} of {len(texts)} texts have a word in them: give the items' titles with --items FILE"
            )
        self.tokens = [tokens[row] for row in kept]
        self.categories = torch.from_numpy(np.ascontiguousarray(categories[kept], np.float32))
        with quiet():
            bert: Any = BertModel.from_pretrained(source, local_files_only=True, attn_implementation="eager")
        bert.eval()
        self.rng = np.random.default_rng(config.seed)
        self.before = SentenceEncoder(copy.deepcopy(bert)).eval()  # what the geometry is kept to
        weights = sum(p.numel() for p in bert.parameters())
        self.adapted: Any = self._adapt(bert)
        trained = sum(p.numel() for p in self.adapted.parameters() if p.requires_grad)
        self.reader = MaskedReader(self.adapted, self.categories.shape[1])
        self.figures: dict[str, float] = {"trained_share": trained / weights}

    def _adapt(self, bert: Any) -> Any:
        config = self.config
        if config.method == "full":
            return bert
        import peft  # imports for seconds

        targets = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
        if config.method == "lora":
            settings: Any = peft.LoraConfig(
                r=config.rank, lora_alpha=2 * config.rank, lora_dropout=0.05, target_modules=targets
            )
        else:
            settings = peft.AdaLoraConfig(
                init_r=config.rank * 3 // 2,
                target_r=config.rank,
                lora_alpha=2 * config.rank,
                lora_dropout=0.05,
                target_modules=targets,
                tinit=config.steps // 10,
                tfinal=config.steps // 4,
                deltaT=max(1, config.steps // 50),
                total_step=config.steps,
            )
        return peft.get_peft_model(bert, settings)

    def run(self) -> nn.Module:
        config, reader = self.config, self.reader
        held = self._held_out()
        self._judge("_before", held)
        weights = {
            "masked_words": 1.0, "categories": config.category_weight, "distance": config.geometry_weight
        }  # fmt: skip
        parameters = [p for p in reader.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=config.rate, weight_decay=0.01)
        for step in range(config.steps):
            reader.train()
            progress = step / config.steps
            rise = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
            for group in optimiser.param_groups:
                group["lr"] = config.rate * rise * 0.5 * (1 + np.cos(np.pi * progress))
            losses = self._losses(self._batch(self.rng, 0.95))
            loss = sum(weights[name] * value for name, value in losses.items())
            optimiser.zero_grad()
            torch.autograd.backward(loss)  # type: ignore[arg-type]  # there is at least one loss
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if config.method == "adalora":
                self.adapted.base_model.update_and_allocate(step + 1)
            self.watch(step + 1, {name: float(value.detach()) for name, value in losses.items()})
        reader.eval()
        self._judge("", held)
        merged: nn.Module = self.adapted if config.method == "full" else self.adapted.merge_and_unload()
        self._look_at_geometry(SentenceEncoder(merged))
        return merged.eval()

    def _batch(self, rng: np.random.Generator, part: float) -> NDArray[np.int64]:
        """Texts of like length out of the first `part` of all: little padding."""
        n, size = int(len(self.tokens) * part), self.config.batch_texts
        drawn = rng.choice(n, min(n, 8 * size), replace=False)
        drawn = drawn[np.argsort([len(self.tokens[row]) for row in drawn], kind="stable")]
        first = int(rng.integers(0, max(1, len(drawn) - size + 1)))
        return np.asarray(drawn[first : first + size], np.int64)

    def _held_out(self) -> list[NDArray[np.int64]]:
        """Batches of the last twentieth of the texts, 256 at most."""
        rows = np.arange(int(len(self.tokens) * 0.95), len(self.tokens))[:256]
        return np.split(rows, range(self.config.batch_texts, len(rows), self.config.batch_texts))

    def _judge(self, suffix: str, held: list[NDArray[np.int64]]) -> None:
        """Losses on texts that are not trained on, masked the same way every time."""
        self.reader.eval()
        sums: dict[str, float] = {}
        with torch.inference_mode():
            for rows in held:
                for name, loss in self._losses(rows, np.random.default_rng(int(rows[0]))).items():
                    sums[name] = sums.get(name, 0.0) + float(loss) * len(rows)
        total = sum(map(len, held))
        self.figures |= {f"{name}{suffix}": value / total for name, value in sums.items()}

    def _losses(self, rows: NDArray[np.int64], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        ids, mask = self._padded(rows)
        hidden, at = self._masked(ids, mask, self.rng if rng is None else rng)
        logits, vectors = self.reader(hidden, mask, at)
        losses = {"masked_words": functional.cross_entropy(logits, ids[at])}
        if self.config.geometry_weight:
            with torch.no_grad():
                before = self.before(ids, mask)  # (B, width), of the whole texts
            distance = functional.mse_loss(vectors @ vectors.T, before @ before.T)
            losses["distance"] = distance + (1 - (vectors * before).sum(-1)).mean() / 10
        if self.reader.category is not None:
            wanted = self.categories[rows]
            losses["categories"] = functional.cross_entropy(self.reader.category(vectors * 10), wanted)
        return losses

    def _padded(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        sentences = [self.tokens[row] for row in rows]
        ids = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sentence in enumerate(sentences):
            ids[row, : len(sentence)] = torch.tensor(sentence)
            mask[row, : len(sentence)] = 1
        return ids, mask

    def _masked(self, ids: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """ids with 80 % of the chosen tokens masked, 10 % another word, 10 % as they were (Devlin et al. 2018); where."""
        inner = mask.numpy().astype(bool)
        inner[:, 0] = False  # [CLS]
        inner[np.arange(len(inner)), mask.sum(1).numpy() - 1] = False  # [SEP]
        at = inner & (rng.random(inner.shape) < self.config.mask_rate)
        if not at.any():
            at[0, 1] = True
        lot = rng.random(inner.shape)
        hidden = ids.numpy().copy()
        hidden[at & (lot < 0.8)] = self.tokenizer.token_to_id("[MASK]") or 0
        other = at & (lot >= 0.9)
        hidden[other] = rng.integers(0, len(self.reader.word_bias), int(other.sum()))
        return torch.from_numpy(hidden), torch.from_numpy(at)

    def _look_at_geometry(self, encoder: SentenceEncoder) -> None:
        rows = np.random.default_rng(0).permutation(len(self.tokens))[:256]
        rows = rows[np.argsort([len(self.tokens[row]) for row in rows], kind="stable")]
        cosines = []
        for each in (self.before, encoder.eval()):
            with torch.inference_mode():
                vectors = [each(*self._padded(batch)) for batch in np.array_split(rows, 16)]
            found = torch.cat(vectors)
            cosines.append((found @ found.T).numpy()[np.triu_indices(len(rows), 1)])
        were, now = cosines
        self.figures |= {
            "geometry": float(np.corrcoef(now, were)[0, 1]),
            "unrelated_before": float(were.mean()),
            "unrelated": float(now.mean()),
        }
