"""What a peer is told, by its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Told(NamedTuple):
    """group: also the name of the application; data: an empty folder for its state; items: JSON, item id → categories."""

    group: str
    brokers: str
    partitions: int
    data: Path
    artefact: Path
    items: Path

    def environment(self) -> dict[str, str]:
        return {f"PEER_{name.upper()}": str(value) for name, value in self._asdict().items()}


def told() -> Told:
    said = {name: os.environ[f"PEER_{name.upper()}"] for name in Told._fields}
    return Told(
        said["group"],
        said["brokers"],
        int(said["partitions"]),
        Path(said["data"]),
        Path(said["artefact"]),
        Path(said["items"]),
    )
