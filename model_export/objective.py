"""What a training step minimises, as one module, so that `accelerate` can wrap it.

Axes: B chunks, T events, n targets, N items, D item vector, K negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export import losses
from model_export.batches import Batch
from model_export.interactions import NONE
from model_export.network import UserModel
from model_export.tasks import NEXT_ITEM, Balance, Tasks
from model_export.training_config import TrainingConfig
from model_export.validation import event_vectors

F32 = NDArray[np.float32]


class Objective(nn.Module):
    """batch → the loss () and each task's mean loss, every target weighted as its event type."""

    def __init__(
        self,
        model: UserModel,
        tasks: Tasks,
        config: TrainingConfig,
        popularity: F32,
        texts: F32 | None,
        teachers: Sequence[UserModel] = (),
    ) -> None:
        """`popularity` (N,): events of the items, `texts` (texts, content_dim): of the events."""
        super().__init__()
        self.model, self.tasks, self.config, self.texts = model, tasks, config, texts
        self.balance = Balance(tasks, config.head_weight, config.balance == "uncertainty")
        self.loss = config.loss_for(model.config.items)
        # Draws follow popularity^¾, as in word2vec: those of popularity itself leave the rare items untrained.
        self.draw = torch.from_numpy((popularity.astype(np.float64) + 1) ** 0.75)
        self.draw /= self.draw.sum()
        self._teachers = list(teachers)  # not modules of this one: they are not trained

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.model
        vectors, bias = model.item_table()
        unknown = torch.rand(batch.item.shape, device=batch.item.device) < self.config.unknown_rate
        item = torch.where(unknown & (batch.item != NONE), len(vectors), batch.item)
        inputs = event_vectors(model, vectors, item, batch.text, self.texts)
        states = model.sequence(inputs, batch.type, batch.gap, batch.value)  # (B, T, H)
        at = batch.next_item != NONE  # (B, T), n of them
        state, target, weight = states[at], batch.next_item[at], batch.weight[at]  # (n, H), (n), (n)
        weight = weight / weight.sum().clamp(min=1e-9)
        found = {NEXT_ITEM: self._next_item(batch, at, model.query(state), vectors, bias, target, weight)}
        outlook = {name: each[at] for name, each in batch.outlook.items()}
        for task, (loss, has) in self.tasks.losses(
            model, state, target, batch.next_type[at], vectors, outlook
        ).items():
            found[task] = (loss * weight).sum() / (has * weight).sum().clamp(min=1e-9)
        total: Tensor = self.balance(found)
        return total, found

    def _next_item(
        self,
        batch: Batch,
        at: Tensor,
        query: Tensor,
        vectors: Tensor,
        bias: Tensor,
        target: Tensor,
        weight: Tensor,
    ) -> Tensor:
        chunk, column = at.nonzero(as_tuple=True)
        consumed_at, column = batch.consumed_at, column.to(torch.int32)[:, None]
        if self.loss == "softmax":

            def excluded(first: int, last: int) -> Tensor:
                return consumed_at[chunk[first:last]] <= column[first:last]

            further = []
            if batch.later is not None:
                further.append(losses.later_items(batch.later[at], self.config.later_share, excluded))
            if self._teachers:
                further.append(self._taught(batch, at, excluded))
            smoothing = self.config.smoothing
            return losses.full_softmax(
                query, vectors, bias, target, weight, excluded, smoothing=smoothing, further=further
            )
        drawn = torch.multinomial(self.draw, self.config.negatives, replacement=True).to(query.device)
        positive = (query * vectors[target]).sum(1) + bias[target]
        negative = torch.addmm(bias[drawn], query, vectors[drawn].T)  # (n, K)
        hidden = (consumed_at[:, drawn][chunk] <= column) | (drawn == target[:, None])
        if self.loss == "gbce":
            each = losses.gbce(positive, negative, hidden, len(vectors))
        else:
            log_q = torch.log(self.draw * self.config.negatives).to(query)[drawn]
            each = losses.sampled_softmax(positive, negative, log_q, hidden)
        return (each * weight).sum()

    def _taught(self, batch: Batch, at: Tensor, excluded: losses.Excluded) -> losses.Wanted:
        """The teachers' mean probabilities of the targets, mixed in."""
        read = []
        with torch.no_grad():
            for teacher in self._teachers:
                teacher.to(batch.item.device)
                vectors, bias = teacher.item_table()
                inputs = event_vectors(teacher, vectors, batch.item, batch.text, self.texts)
                states = teacher.sequence(inputs, batch.type, batch.gap, batch.value)
                read.append((teacher.query(states[at]), vectors, bias))

        def change(first: int, last: int, wanted: Tensor) -> Tensor:
            hidden = excluded(first, last)
            each = [
                torch.softmax(torch.addmm(b, q[first:last], v.T).masked_fill_(hidden, -torch.inf), 1)
                for q, v, b in read
            ]
            return wanted.lerp_(torch.stack(each).mean(0), self.config.teacher_share)

        return change
