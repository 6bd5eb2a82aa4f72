"""The whole model: what an item is, how a user's state moves, what is recommended.

Sources
- A user is a recurrent state over events, each next item scored by a softmax over the catalogue: GRU4Rec, Hidasi et al.
  2016, arXiv:1511.06939; full cross-entropy instead of sampled losses: Klenitskiy & Vasilev 2023, arXiv:2309.07602.
- Other user encoders than the GRU, and where they come from: encoders.py.
- Input and output items share one table: Press & Wolf 2017, arXiv:1608.05859.
- An item is its content plus a free vector that is dropped at random, so that content alone serves cold items:
  DropoutNet, Volkovs et al. 2017.

Axes: B users, T events, D item vector, H user state, N items of the catalogue, E event-type embedding, M exclusions, K top-k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model_export.encoders import GruEncoder, TransformerEncoder
from streamer.core.manifest import USER_ENCODERS

TYPE_DIM = 8
"""E: the 32 event types need no more."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes the network; two models with equal configs have interchangeable weights."""

    items: int
    """N, the items that training knows."""
    hidden: int = 64
    """H"""
    dim: int = 64
    """D"""
    content_dim: int = 384
    """Size of a text vector."""
    types: int = 32
    """Codes of event types, 0 (none) included."""
    heads: Mapping[str, int] = field(default_factory=dict)
    """Task → number of labels."""
    rating: bool = False
    """Whether the next rating's value is predicted, too."""
    dropout: float = 0.2
    """On the states that are scored, and within a Transformer."""
    input_dropout: float = 0.2
    """On the items of the event inputs."""
    id_dropout: float = 0.1
    """Chance that an item is its content alone for one training step."""
    encoder: str = "gru"
    """`gru` or `transformer`"""
    layers: int = 2
    """Of the Transformer."""
    attention: int = 2
    """Heads of the Transformer's attention."""
    window: int = 100
    """Events that the Transformer sees."""

    def __post_init__(self) -> None:
        if self.encoder not in USER_ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}: known are {', '.join(USER_ENCODERS)}")

    @property
    def operations(self) -> tuple[str, ...]:
        """What is exported: a Transformer has no state to step."""
        return OPERATIONS[self.encoder]


OPERATIONS = {
    "gru": ("step", "steps", "replay", "query", "score", "heads", "tower"),
    "transformer": ("replay", "query", "score", "heads", "tower"),
}


class UserModel(nn.Module):
    """The parts that are exported one by one: step and steps (GRU only), replay, score, heads (as probabilities) and tower."""

    content: Tensor

    def __init__(self, config: ModelConfig, content: Tensor) -> None:
        """`content` (N, content_dim) f32: the items' text vectors, L2-normalised; zeros for an item without text."""
        super().__init__()
        if content.shape != (config.items, config.content_dim):
            raise ValueError(
                f"content has shape {tuple(content.shape)}, the config says {(config.items, config.content_dim)}"
            )
        self.config = config
        self.register_buffer("content", content.clone())
        self.id_embedding = nn.Parameter(
            torch.zeros(config.items, config.dim)
        )  # zeros: at first an item is its text
        self.id_bias = nn.Parameter(torch.zeros(config.items))
        self.content_vector = nn.Linear(config.content_dim, config.dim)
        nn.init.normal_(self.content_vector.weight, std=0.5)  # contents have length 1: items start well apart
        self.content_bias = nn.Linear(config.content_dim, 1)
        self.unknown = nn.Parameter(torch.zeros(config.dim))
        self.type_embedding = nn.Embedding(config.types, TYPE_DIM)
        self.encoder = _encoder(config)
        self.to_query = nn.Linear(config.hidden, config.dim)
        self.task = nn.ModuleDict({name: nn.Linear(config.hidden, n) for name, n in config.heads.items()})
        self.rating = RatingHead(config.hidden, config.dim) if config.rating else None
        self.dropout = nn.Dropout(config.dropout)
        self.input_dropout = nn.Dropout(config.input_dropout)

    # ---- items

    def tower(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """(N, content_dim) → vector (N, D), bias (N): an item known by its text alone."""
        return self.content_vector(content), self.content_bias(content).squeeze(-1)

    def item_table(self) -> tuple[Tensor, Tensor]:
        """vector (N, D), bias (N) of the trained items. In training some items are their content alone."""
        vector, bias = self.tower(self.content)
        keep = torch.ones_like(bias)
        if self.training and self.config.id_dropout > 0:
            keep = (torch.rand_like(bias) >= self.config.id_dropout).to(bias.dtype)
        return vector + self.id_embedding * keep[:, None], bias + self.id_bias * keep

    def item_vectors(self) -> Tensor:
        """(N, D)"""
        return self.item_table()[0]

    def item_biases(self) -> Tensor:
        """(N)"""
        return self.item_table()[1]

    # ---- user state

    def event_input(self, item: Tensor, type: Tensor, gap: Tensor, value: Tensor) -> Tensor:
        """item (…, D) f32, type (…) i64, gap (…) f32, value (…) f32 → (…, D + E + 2)."""
        return torch.cat([item, self.type_embedding(type), gap[..., None], value[..., None]], dim=-1)

    def step(self, state: Tensor, item: Tensor, type: Tensor, gap: Tensor, value: Tensor) -> Tensor:
        """One event for each user: state (B, H), item (B, D), type, gap, value (B) → next state (B, H)."""
        if not isinstance(self.encoder, GruEncoder):
            raise TypeError(f"a {self.config.encoder} has no step: replay the window")
        return self.encoder.step(state, self.event_input(item, type, gap, value))

    def steps(self, state: Tensor, item: Tensor, type: Tensor, gap: Tensor, value: Tensor) -> Tensor:
        """T events for each user: state (B, H), item (T, B, D), type, gap, value (T, B) → (B, H).

        The state is rounded to half precision after every event, as a worker keeps it.
        """
        for event in zip(item, type, gap, value, strict=True):
            state = self.step(state, *event).half().float()
        return state

    def sequence(self, item: Tensor, type: Tensor, gap: Tensor, value: Tensor) -> Tensor:
        """item (B, T, D), type, gap, value (B, T) → the state after each event (B, T, H), from an empty one."""
        states: Tensor = self.encoder(self.event_input(self.input_dropout(item), type, gap, value))
        return states

    def replay(self, item: Tensor, type: Tensor, gap: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        """item (B, T, D), type, gap, value (B, T), left-aligned, lengths (B) i64 → state after the last event (B, H).

        Zeros where the length is 0. The gather stands for pack_padded_sequence, which does not export.
        """
        states = self.sequence(item, type, gap, value)  # (B, T, H)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])  # (B, 1, H)
        state = states.gather(1, last).squeeze(1)
        return state * (lengths > 0).to(state.dtype)[:, None]

    # ---- what is read from a state

    def query(self, state: Tensor) -> Tensor:
        """(…, H) → (…, D), the direction in which the next item lies."""
        query: Tensor = self.to_query(self.dropout(state))
        return query

    def score(
        self, state: Tensor, items: Tensor, bias: Tensor, excluded: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """state (B, H), items (N, D), bias (N), excluded (M, 2) i64 (row of state, row of items), k (1) i64
        → scores (B, K) f32, rows (B, K) i64, best first; excluded items score -inf. K must not exceed N.
        """
        scores = self.query(state) @ items.T + bias  # (B, N)
        minus_inf = torch.full((), -torch.inf, dtype=scores.dtype, device=scores.device)
        scores = scores.index_put((excluded[:, 0], excluded[:, 1]), minus_inf)
        top = int(k[0].item())
        best, rows = torch.topk(scores, top, dim=1)
        return best, rows

    def head_logits(self, state: Tensor) -> dict[str, Tensor]:
        """(…, H) → task → (…, labels of the task), before the softmax."""
        return {name: head(self.dropout(state)) for name, head in self.task.items()}

    def heads(self, state: Tensor) -> dict[str, Tensor]:
        """(…, H) → task → probabilities (…, labels of the task), summing to 1."""
        return {name: torch.softmax(logits, dim=-1) for name, logits in self.head_logits(state).items()}

    def rating_of(self, state: Tensor, item: Tensor) -> Tensor:
        """state (n, H), item (n, D) → the value (n) that the user would give to the item, on the scale of the inputs."""
        if self.rating is None:
            raise TypeError("this model was trained without ratings")
        value: Tensor = self.rating(self.dropout(state), item)
        return value


class RatingHead(nn.Module):
    """A user's level, an item's level, and how well the two fit: factors as in Koren et al. 2009, doi:10.1109/MC.2009.263."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.taste, self.user, self.item = nn.Linear(hidden, dim), nn.Linear(hidden, 1), nn.Linear(dim, 1)
        nn.init.zeros_(self.taste.weight)  # the levels come first

    def forward(self, state: Tensor, item: Tensor) -> Tensor:
        fit = (self.taste(state) * item).sum(-1)
        level = (self.user(state) + self.item(item)).squeeze(-1)
        value: Tensor = level + fit
        return value


def _encoder(config: ModelConfig) -> GruEncoder | TransformerEncoder:
    inputs = config.dim + TYPE_DIM + 2
    if config.encoder == "gru":
        return GruEncoder(inputs, config.hidden)
    return TransformerEncoder(
        inputs,
        config.hidden,
        layers=config.layers,
        attention=config.attention,
        window=config.window,
        dropout=config.dropout,
    )
