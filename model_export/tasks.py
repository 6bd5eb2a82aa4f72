"""What is learned beside the next item, on the same state: the tasks of a log, their targets and losses.

Every log has `event_type`; `category` and `category_long_term` need items with categories, `purchase` purchases among other
events, `rating` values of ratings. Balance by uncertainty: Kendall, Gal & Cipolla 2018, arXiv:1705.07115.

Axes: B chunks, T events, n targets, H state, C labels of a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_export.interactions import NONE, History, Interactions, category_labels, category_targets
from streamer.core.event_types import EventTypes

if TYPE_CHECKING:
    from model_export.network import UserModel

NEXT_ITEM, EVENT_TYPE, CATEGORY = "next_item", "event_type", "category"
CATEGORY_LONG_TERM, PURCHASE, RATING = "category_long_term", "purchase", "rating"
LONG_TERM_EVENTS = 50
"""The long-term interest is the mean of so many coming events' categories, the short-term one that of the next."""
PURCHASE_EVENTS = 10
"""A purchase is coming when it is among so many coming events."""
PURCHASE_LABELS = ("none", "purchase")


class Tasks:
    """The tasks that a log supports. `head_labels` are those read from the state alone, which are exported."""

    def __init__(self, data: Interactions, types: EventTypes, only: frozenset[str] | None = None) -> None:
        """`only`: leave out what it does not name; `event_type` stays, for an artefact has at least one head."""
        self.types = types
        self.head_labels: dict[str, list[str]] = {EVENT_TYPE: [each.name for each in types]}
        labels = category_labels(data.items)
        self._categories = category_targets(data.items, labels)  # (N, C)
        if labels:
            self.head_labels |= {CATEGORY: labels, CATEGORY_LONG_TERM: labels}
        purchase = types.by_name.get("purchase")
        self._purchase = 0 if purchase is None else purchase.code
        bought = data.type == self._purchase
        if bought.any() and not bought.all():
            self.head_labels[PURCHASE] = list(PURCHASE_LABELS)
        self._rates = np.zeros(32, np.bool_)
        for each in types:
            self._rates[each.code] = each.uses_value and each.explicit
        rated = self._rates[data.type] & (data.item != NONE) & (data.value != 0)
        self.rating = bool(rated.any()) and float(np.ptp(data.value[rated])) > 0
        if only is not None:
            self.head_labels = {
                task: labels
                for task, labels in self.head_labels.items()
                if task in only or task == EVENT_TYPE
            }
            self.rating &= RATING in only
        self._type_column = torch.full((32,), NONE, dtype=torch.int64)
        for column, each in enumerate(types):
            self._type_column[each.code] = column

    @property
    def names(self) -> tuple[str, ...]:
        """Without next_item."""
        return (*self.head_labels, RATING) if self.rating else tuple(self.head_labels)

    def columns(self, kind: Tensor) -> Tensor:
        """Codes of event types (n) → their columns in the event_type head (n)."""
        return self._type_column.to(kind.device)[kind]

    def categories(self, item: Tensor) -> Tensor:
        """Rows of items (n) → their categories as distributions (n, C)."""
        return torch.from_numpy(self._categories).to(item.device)[item]

    def targets(self, history: History, first: int, last: int) -> dict[str, NDArray[np.float32]]:
        """What follows each of the events first..last-1 of a history: task → (last - first, …)."""
        found: dict[str, NDArray[np.float32]] = {}
        coming = slice(first + 1, last + 1)
        if CATEGORY_LONG_TERM in self.head_labels:
            until = min(last + LONG_TERM_EVENTS, len(history))
            items = history.item[first + 1 : until]
            of = np.where((items != NONE)[:, None], self._categories[items], 0)  # (…, C)
            found[CATEGORY_LONG_TERM] = _normalised(_window_sums(of, last - first, LONG_TERM_EVENTS))
        if PURCHASE in self.head_labels:
            bought = (history.type[first + 1 : last + PURCHASE_EVENTS] == self._purchase)[:, None]
            sums = _window_sums(bought.astype(np.float32), last - first, PURCHASE_EVENTS)[:, 0]
            found[PURCHASE] = (sums > 0).astype(np.float32)
        if self.rating:
            rated = self._rates[history.type[coming]] & (history.item[coming] != NONE)
            found[RATING] = np.where(rated, history.value[coming], np.nan).astype(np.float32)
        return found

    def losses(
        self,
        model: UserModel,
        state: Tensor,
        item: Tensor,
        next_type: Tensor,
        vectors: Tensor,
        targets: Mapping[str, Tensor],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Task → losses (n) and 1 where a target has one (n): state (n, H), item (n) its next item, vectors (N, D)."""
        every = torch.ones(len(item), device=state.device)
        logits = model.head_logits(state)
        kinds = functional.cross_entropy(logits[EVENT_TYPE], self.columns(next_type), reduction="none")
        found = {EVENT_TYPE: (kinds, every)}
        if CATEGORY in logits:
            found[CATEGORY] = _soft(logits[CATEGORY], self.categories(item))
        if CATEGORY_LONG_TERM in logits:
            found[CATEGORY_LONG_TERM] = _soft(logits[CATEGORY_LONG_TERM], targets[CATEGORY_LONG_TERM])
        if PURCHASE in logits:
            comes = targets[PURCHASE].long()
            found[PURCHASE] = (functional.cross_entropy(logits[PURCHASE], comes, reduction="none"), every)
        if self.rating:
            rated = ~targets[RATING].isnan()
            error = model.rating_of(state, vectors[item]) - targets[RATING].nan_to_num()
            found[RATING] = (error.square() * rated, rated.float())
        return found


class Balance(nn.Module):
    """Weights of the tasks: fixed, or by uncertainty, where each task's noise is learned beside the model."""

    def __init__(self, tasks: Tasks, weight: float, by_uncertainty: bool) -> None:
        super().__init__()
        self.weight = weight
        self.log_variance = (
            nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks.names})
            if by_uncertainty
            else None
        )

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Task → mean loss () into one (). The next item counts in full; `weight` scales all the others together.

        By uncertainty: L / σ² + log σ² / 2, for the squared error half of the former. A task whose loss goes to 0 would
        get a boundless weight, so log σ² stays above -4.
        """
        total = losses[NEXT_ITEM]
        for task, loss in losses.items():
            if task == NEXT_ITEM:
                continue
            if self.log_variance is not None:
                noise = self.log_variance[task].clamp(-4.0, 4.0)
                loss = torch.exp(-noise) * loss * (0.5 if task == RATING else 1.0) + noise / 2
            total = total + self.weight * loss
        return total


def _soft(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (n) with distributions (n, C); a row of zeros has no loss."""
    return functional.cross_entropy(logits, wanted, reduction="none"), wanted.sum(1).clamp(max=1.0)


def _window_sums(values: NDArray[np.float32], n: int, width: int) -> NDArray[np.float32]:
    """(m, C) → (n, C): row t is the sum of the rows t..t+width-1, as far as there are any."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    start = np.arange(n)
    found: NDArray[np.float32] = sums[np.minimum(start + width, len(values))] - sums[start]
    return found.astype(np.float32)


def _normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    total = rows.sum(axis=1, keepdims=True)
    result: NDArray[np.float32] = np.divide(rows, total, out=np.zeros_like(rows), where=total > 1e-6)
    return result
