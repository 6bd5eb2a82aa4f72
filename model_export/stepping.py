"""The optimiser's side of training: learning rate, weight averaging, and where `accelerate` computes it.

AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101. Running mean of the weights: Polyak & Juditsky 1992,
doi:10.1137/0330046, with a decay as in Izmailov et al. 2018 (SWA), arXiv:1803.05407.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from model_export.batches import Batch
from model_export.network import UserModel
from model_export.objective import Objective
from model_export.training_config import TrainingConfig
from streamer.errors import DataError

_WARMING = 10.0
"""The mean's decay at step s is at most (1 + s) / (10 + s): at first it forgets faster."""
_Part = TypeVar("_Part")


class Device:
    """The plain CPU, or what `accelerate` finds: a GPU, several (under `accelerate launch`), or mixed precision."""

    def __init__(self, precision: str) -> None:
        self._accelerator: Any = None
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if precision == "no" and not launched and not torch.cuda.is_available():
            return
        try:
            from accelerate import Accelerator

            self._accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
        except ImportError as error:
            raise DataError(
                "a GPU or mixed precision needs accelerate: pip install 'headwater[train]'"
            ) from error
        except ValueError as error:  # fp16 without a GPU
            raise DataError(f"precision {precision!r} does not work here: {error}") from error

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks; one of several does."""
        return self._accelerator is None or bool(self._accelerator.is_main_process)

    def share(self, parts: Sequence[_Part]) -> Sequence[_Part]:
        """What of an epoch this process computes: as much as every other."""
        if self._accelerator is None:
            return parts
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        return parts[rank : len(parts) - len(parts) % world : world]

    def place(self, objective: Objective, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        if self._accelerator is None:
            return objective, optimiser
        wrapped, prepared = self._accelerator.prepare(objective, optimiser)
        return wrapped, prepared

    def batch(self, batch: Batch) -> Batch:
        return batch if self._accelerator is None else batch.to(self._accelerator.device)

    def backward(self, loss: Tensor) -> None:
        if self._accelerator is None:
            torch.autograd.backward(loss)
        else:
            self._accelerator.backward(loss)


class Steps:
    """Takes the steps of one fit; `averaged` are the mean weights of the model, empty without averaging."""

    def __init__(self, objective: Objective, config: TrainingConfig, device: Device) -> None:
        self.objective, self.config, self.device = objective, config, device
        self.model: UserModel = objective.model
        self._parameters = list(objective.parameters())
        adam = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._wrapped, self.optimiser = device.place(objective, adam)
        self._taken = 0
        self.averaged: dict[str, Tensor] = {}
        if config.average:
            self.averaged = {name: tensor.clone() for name, tensor in self._weights().items()}

    def take(self, batch: Batch, progress: float) -> tuple[float, dict[str, float]]:
        """One step at `progress` in [0, 1) of the fit → its loss, and each task's."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * schedule(progress, self.config.warmup)
        loss, losses = self._wrapped(self.device.batch(batch))
        self.optimiser.zero_grad()
        self.device.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        self.optimiser.step()
        self._average()
        return loss.item(), {task: value.item() for task, value in losses.items()}

    def kept(self) -> dict[str, Tensor]:
        """The weights to judge and to keep, on the CPU; without the items' contents, which nothing changes."""
        weights = self.averaged or self._weights()
        return {name: tensor.cpu() for name, tensor in weights.items()}

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "objective": {name: each.detach() for name, each in self.objective.named_parameters()},
            "optimiser": self.optimiser.state_dict(),
            "averaged": self.averaged,
            "taken": self._taken,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"], strict=False)  # contents stay what they are
        self.optimiser.load_state_dict(state["optimiser"])
        self._taken = state["taken"]
        for name, tensor in state["averaged"].items():
            self.averaged[name].copy_(tensor)

    def _average(self) -> None:
        self._taken += 1
        decay = min(self.config.average, (1 + self._taken) / (_WARMING + self._taken))
        if self.averaged:
            for name, tensor in self._weights().items():
                self.averaged[name].lerp_(tensor, 1 - decay)


def schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate at `progress` in [0, 1): a linear rise over `warmup`, times a cosine that falls to 0."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return float(max(rise * 0.5 * (1 + np.cos(np.pi * progress)), 1e-4))
