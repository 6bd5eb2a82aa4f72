"""User encoders: what a sequence of events becomes. Both are causal, so every event of a history is a training target.

Sources
- GRU: Cho et al. 2014, arXiv:1406.1078, in the variant of cuDNN and torch.nn.GRU (reset gate after the product).
- Transformer over a click stream: SASRec, Kang & McAuley 2018, arXiv:1808.09781; norms before the layers: Xiong et al. 2020,
  arXiv:2002.04745; distance biases instead of positions, so that a window may be cut anywhere: T5, Raffel et al. 2020,
  arXiv:1910.10683, started as ALiBi's, Press et al. 2022, arXiv:2108.12409.

Axes: B users, T events, I event input, H state, A attention heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class GruEncoder(nn.Module):
    """Recurrent: the state after an event follows from the state before it, so the stream keeps H numbers per user."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """x (B, T, I), state (B, H) or None for zeros → the state after each event (B, T, H)."""
        states: Tensor = self.gru(x, None if state is None else state[None])[0]
        return states

    def step(self, state: Tensor, x: Tensor) -> Tensor:
        """state (B, H), x (B, I) → (B, H). Written out, on the weights of `gru`: its CUDA kernel would need cuDNN."""
        weight_x, weight_h, bias_x, bias_h = self.gru.all_weights[0]
        from_x = functional.linear(x, weight_x, bias_x)  # (B, 3H): reset, update, candidate
        from_h = functional.linear(state, weight_h, bias_h)  # (B, 3H)
        reset_x, update_x, candidate_x = from_x.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = from_h.chunk(3, dim=-1)
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return candidate + update * (state - candidate)


class TransformerEncoder(nn.Module):
    """Self-attention over the window: no state to step, each event asks for the whole window again (replay only)."""

    def __init__(
        self, inputs: int, hidden: int, *, layers: int, attention: int, window: int, dropout: float
    ) -> None:
        """`attention` heads of hidden / attention dimensions; distances of `window` events and more are alike."""
        super().__init__()
        if hidden % attention:
            raise ValueError(f"{attention} attention heads do not divide a state of {hidden}")
        self.project = nn.Linear(inputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(hidden, attention, window, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, I) → the state after each event (B, T, H), of its own and the earlier events of the window."""
        hidden = self.dropout(self.project(x))
        for block in self.blocks:
            hidden = block(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class _Block(nn.Module):
    def __init__(self, hidden: int, attention: int, window: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm_attention, self.norm_mix = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.to_heads, self.from_heads = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        slopes = 2.0 ** -(2 + 3 * torch.arange(attention))  # from a few events to the whole window
        self.distance_bias = nn.Parameter(-slopes[:, None] * torch.arange(window))  # (A, window)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) → (B, T, H)"""
        x = x + self.dropout(self.attend(self.norm_attention(x)))
        mixed = self.narrow(functional.gelu(self.widen(self.norm_mix(x))))
        result: Tensor = x + self.dropout(mixed)
        return result

    def attend(self, x: Tensor) -> Tensor:
        users, events, hidden = x.shape
        width = hidden // self.attention
        heads = self.to_heads(x).view(users, events, 3, self.attention, width).permute(2, 0, 3, 1, 4)
        query, key, value = heads[0], heads[1], heads[2]  # each (B, A, T, width)
        place = torch.arange(events, device=x.device)
        distance = place[:, None] - place[None, :]  # (T, T), negative for what is yet to come
        bias = self.distance_bias[:, distance.clamp(0, self.distance_bias.shape[1] - 1)]  # (A, T, T)
        bias = bias.masked_fill(distance < 0, -torch.inf)
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(width) + bias, dim=-1)
        attended: Tensor = self.from_heads((weights @ value).transpose(1, 2).reshape(users, events, hidden))
        return attended
