"""A training run that was interrupted goes on at its last epoch: everything that the next one depends on, in one file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_export.interactions import Interactions
from model_export.stepping import Steps
from model_export.training_config import TrainingConfig
from streamer.errors import DataError

FORMAT = 1


@dataclass
class Progress:
    """Of one fit: epochs done, and the best of them by validation NDCG@10."""

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    best_quality: dict[str, float] = field(default_factory=lambda: {"ndcg_at_10": -1.0})

    def judged(self, quality: dict[str, float], weights: dict[str, Tensor]) -> None:
        """The epoch that was just done; its weights are copied if they are the best so far."""
        if quality["ndcg_at_10"] > self.best_quality["ndcg_at_10"]:
            self.best_epoch, self.best_quality = self.epoch, quality
            self.best = {name: tensor.detach().clone() for name, tensor in weights.items()}

    def over(self, patience: int) -> bool:
        return self.best is not None and self.epoch - self.best_epoch >= patience


class RunState:
    """The file of one run; without a path nothing is kept. Random numbers depend on seed and epoch alone, so none are here."""

    def __init__(self, path: Path | None, data: Interactions, config: TrainingConfig) -> None:
        self._path = path
        described = json.dumps([FORMAT, asdict(config), data.digest()], default=str, sort_keys=True)
        self._key = hashlib.sha256(described.encode()).hexdigest() if path is not None else ""
        self._kept = self._load()
        self.resumed = bool(self._kept)
        """Whether there was a run with the same data and configuration to go on with."""

    def begin(self, fit: str, steps: Steps) -> Progress:
        """Where to go on; weights and optimiser are set to that."""
        kept = self._kept.get(fit)
        if kept is None:
            return Progress()
        steps.restore(kept["steps"])
        return Progress(**kept["progress"])

    def save(self, fit: str, progress: Progress, steps: Steps) -> None:
        """Written beside and renamed. Raises DataError where that fails."""
        if self._path is None:
            return
        self._kept[fit] = {"steps": steps.state(), "progress": dict(progress.__dict__)}
        unfinished = self._path.with_name(f".{self._path.name}.unfinished")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"key": self._key, "fits": self._kept}, unfinished)
            unfinished.replace(self._path)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise DataError(
                f"cannot keep the run's state in {self._path}: {error}; free some space there"
            ) from error

    def discard(self) -> None:
        """The run is over and its model is safe."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            content: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
            return {}  # a state that cannot be read is a run that begins anew
        return dict(content["fits"]) if content.get("key") == self._key else {}
