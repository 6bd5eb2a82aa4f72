"""What shapes a training run, and what it tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamer.core.manifest import USER_ENCODERS
from streamer.errors import DataError

LOSSES = ("auto", "softmax", "sampled", "gbce")
FULL_SOFTMAX_ITEMS = 50_000
"""`auto` takes the sampled softmax above so many items."""
BALANCES = ("fixed", "uncertainty")
VALIDATIONS = ("time", "last-item")
ITEM_STARTS = ("text", "ials")
PRECISIONS = ("no", "bf16", "fp16")
_CHOICES = {
    "encoder": USER_ENCODERS,
    "loss": LOSSES,
    "balance": BALANCES,
    "validation": VALIDATIONS,
    "items_from": ITEM_STARTS,
    "precision": PRECISIONS,
}


@dataclass(frozen=True)
class TrainingConfig:
    """The defaults were chosen on an inner split of MovieLens-100K (train 64 %, judge the next 16 %)."""

    encoder: str = "gru"
    """`gru`, which steps from event to event, or `transformer`, which replays the window for each."""
    hidden: int = 64
    dim: int = 64
    layers: int = 2
    attention: int = 2
    dropout: float = 0.15
    input_dropout: float = 0.15
    id_dropout: float = 0.05
    unknown_rate: float = 0.01
    """Share of the events whose item is shown as the unknown one."""
    items_from: str = "text"
    """What item vectors start from: their texts alone, or their factors of an implicit ALS, too."""
    loss: str = "auto"
    negatives: int = 512
    """Of the sampled losses, shared by a batch."""
    smoothing: float = 0.0
    later_items: int = 0
    """Items after the next one that are targets, too; in logs whose order says little they steady what is learned."""
    later_share: float = 0.5
    """How much of what is learned they are together."""
    target_share: float = 1.0
    """Share of the events that are targets in an epoch, drawn anew for each: cheaper epochs of less progress each."""
    teacher: Path | None = None
    """Checkpoint of a model over the same items, whose probabilities are learned besides the targets."""
    teacher_share: float = 0.5
    epochs: int = 12
    patience: int = 3
    """Epochs without a better validation NDCG before training stops."""
    validation: str = "time"
    """`time` holds out the last events of the log, `last-item` each user's last."""
    validation_fraction: float = 0.1
    """The last part of the events by time; 0 trains `epochs` epochs unseen."""
    refit: bool = True
    """Train once more on all events, for as many epochs as were best: the newest events are worth most."""
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls as a cosine."""
    average: float = 0.0
    """Decay of the running mean of the weights, which is then judged and kept; 0 keeps the last weights themselves."""
    batch_events: int = 1500
    chunk: int = 200
    tasks: str = "all"
    """Beside the next item: `all` that the log supports, or names of them with commas between; event_type is always there."""
    balance: str = "fixed"
    head_weight: float = 0.05
    """Weight of each head's loss beside the next item's."""
    clip: float = 1.0
    seed: int = 7
    threads: int = 1
    """Of torch. Steps over short chunks are small work: a second thread gains little, and loses much on a busy machine."""
    precision: str = "no"
    """Mixed precision of `accelerate`; fp16 needs a GPU."""

    def __post_init__(self) -> None:
        for name in (
            "hidden", "dim", "layers", "attention", "epochs", "patience", "batch_events", "chunk", "threads", "negatives"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in (
            "dropout", "input_dropout", "id_dropout", "unknown_rate", "validation_fraction", "warmup", "smoothing", "average"
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must lie in [0, 1)")
        if self.later_items < 0:
            raise DataError(f"later_items is {self.later_items}: it must not be negative")
        for name in ("target_share", "teacher_share", "later_share"):
            if not 0 < getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}: it must lie in (0, 1]")
        if not self.learning_rate > 0:
            raise DataError(f"learning_rate is {self.learning_rate}: it must be positive")
        if self.weight_decay < 0 or self.head_weight < 0:
            raise DataError(
                f"weight_decay {self.weight_decay} and head_weight {self.head_weight} must not be negative"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise DataError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(choices)}")
        if self.encoder == "transformer" and self.hidden % self.attention:
            raise DataError(
                f"{self.attention} attention heads do not divide a state of {self.hidden}: change either"
            )

    def loss_for(self, items: int) -> str:
        """`softmax`, `sampled` or `gbce`."""
        if self.loss != "auto":
            return self.loss
        return "softmax" if items <= FULL_SOFTMAX_ITEMS else "sampled"


@dataclass(frozen=True)
class Epoch:
    """Progress: one epoch of one fit is over. Losses are means over targets, in nats."""

    fit: str
    """`validate` or `refit`"""
    number: int
    epochs: int
    loss: float
    losses: dict[str, float]
    """next_item and the other tasks, each for itself."""
    validation: dict[str, float]
    """hit_rate_at_10, ndcg_at_10, mrr_at_10 and the tasks' metrics on what is held out; empty in the refit."""
