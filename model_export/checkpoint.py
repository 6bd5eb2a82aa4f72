"""A trained model with everything that its export needs, in one file."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.network import ModelConfig, UserModel
from model_export.social import MetUsers
from streamer.errors import DataError

FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """`version` names the artefact: when it was trained (UTC), and a digest of its weights."""

    model: UserModel
    version: str
    item_ids: list[str]
    popularity: NDArray[np.float32]
    head_labels: dict[str, list[str]]
    metrics: dict[str, float]
    seed: int
    data_hash: str
    window: int
    trained_until_ms: int = 0
    """Time of the last event that was trained on."""
    blend: bytes | None = None
    """First weights of the collaborative blend (core.signals.weights.Shipped)."""
    users: MetUsers | None = None

    def save(self, path: Path) -> None:
        """Written beside and renamed, so that a file with this name is whole."""
        fields = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("model", "popularity", "users")
        }
        content = {
            "format": FORMAT,
            "config": {**asdict(self.model.config), "heads": dict(self.model.config.heads)},
            "weights": self.model.state_dict(),
            "popularity": torch.from_numpy(self.popularity),
            "fields": fields,
            "users": None
            if self.users is None
            else {
                "hashes": torch.from_numpy(self.users.hashes.view(np.int64)),
                "graph": torch.from_numpy(self.users.graph),
                "type_code": self.users.type_code,
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        torch.save(content, unfinished)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Raises DataError when the file is none of ours."""
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise DataError(f"there is no checkpoint at {path}") from error
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{path} is no checkpoint: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is no checkpoint of format {FORMAT}: train again with this release")
        weights = content["weights"]
        model = UserModel(ModelConfig(**content["config"]), weights["content"])
        model.load_state_dict(weights)
        met = content["users"]
        users = met and MetUsers(
            met["hashes"].numpy().view(np.uint64), met["graph"].numpy(), met["type_code"]
        )
        return cls(
            model=model.eval(), popularity=content["popularity"].numpy(), users=users, **content["fields"]
        )


def version_of(model: UserModel, now: datetime | None = None) -> str:
    """For example 20260131-184502-1f3a9c0b, time in UTC; it sorts by age."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    moment = datetime.now(UTC) if now is None else now
    return f"{moment:%Y%m%d-%H%M%S}-{digest.hexdigest()[:8]}"
