"""Presets: event types with their weights, training and serving of a domain, in one TOML file each.

`headwater train --preset NAME` takes the event types, `[training]` and the window from it, `headwater preset NAME` prints
what a worker needs of it as a settings file. Options on the command line win over a preset.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from model_export.type_weights import as_toml
from streamer.core.event_types import EventTypes
from streamer.errors import DataError

_TABLES = {"description", "value_weight", "training", "serving", "event_types"}


@dataclass(frozen=True)
class Preset:
    """What one TOML file says."""

    name: str
    description: str
    types: EventTypes
    training: Mapping[str, Any]
    """Fields of TrainingConfig."""
    serving: Mapping[str, Any]
    """Settings of the worker."""
    value_weight: float
    """As of `cleaning.weigh_by_value`."""

    @property
    def window(self) -> int | None:
        """Events of the behaviour window, the same in training and serving."""
        window = self.serving.get("window")
        return None if window is None else int(window)

    def settings_toml(self) -> str:
        """A settings file for HEADWATER_CONFIG."""
        lines = [f"# {self.name}: {self.description}"]
        lines += [f"{name} = {str(value).lower()}" for name, value in self.serving.items()]
        return "\n".join(lines) + "\n\n" + as_toml(self.types)


def names() -> list[str]:
    """The presets that come with Headwater."""
    return sorted(
        Path(file.name).stem for file in resources.files(__name__).iterdir() if file.name.endswith(".toml")
    )


def load(name: str) -> Preset:
    """A preset by its name, or a TOML file of one's own. Raises DataError, or SettingsError for its event types."""
    if name in names():
        text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    else:
        file = Path(name).expanduser()
        if not file.is_file():
            raise DataError(
                f"{name!r} is no preset: take one of {', '.join(names())}, or a TOML file like theirs"
            )
        text = file.read_text(encoding="utf-8")
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"preset {name} is not TOML: {error}") from error
    unknown = sorted(found.keys() - _TABLES)
    if unknown:
        raise DataError(
            f"preset {name}: {unknown[0]!r} is no part of a preset: write {', '.join(sorted(_TABLES))}"
        )
    if "event_types" not in found:
        raise DataError(f"preset {name} has no [[event_types]]: list at least one")
    return Preset(
        Path(name).stem,
        str(found.get("description", "")),
        EventTypes.from_table(found["event_types"]),
        found.get("training", {}),
        found.get("serving", {}),
        float(found.get("value_weight", 0.0)),
    )
