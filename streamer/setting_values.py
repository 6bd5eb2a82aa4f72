"""How the text of a setting becomes its value.

Every parser takes the text and raises ValueError whose message ends a sentence: "HEADWATER_TOP_K is 'ten': <message>."
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})")
_TOPIC_PART = re.compile(r"[A-Za-z0-9._-]{0,100}")


def as_text(value: Any) -> str:
    """A value as it would stand in an environment variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(as_text(each) for each in value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value)


def text(value: str) -> str:
    return value


def folder(value: str) -> Path:
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("a file stands there; name a folder")
    return path


def existing_file(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise ValueError("there is no such file")
    return path


def topic_part(value: str) -> str:
    """Part of a topic's name (Kafka allows 249 characters in all)."""
    if not _TOPIC_PART.fullmatch(value):
        raise ValueError("at most 100 letters, digits, '.', '_' and '-' may stand in a topic's name")
    return value


def addresses(value: str) -> str:
    """host:port list, blanks removed."""
    found = [each.strip() for each in value.split(",") if each.strip()]
    for each in found:
        match = _ADDRESS.fullmatch(each)
        if match is None or not 0 < int(match.group(1)) < 65_536:
            raise ValueError(f"{each!r} is not host:port; write localhost:9092, several separated by commas")
    if not found:
        raise ValueError("at least one host:port is needed, such as localhost:9092")
    return ",".join(found)


def truth(value: str) -> bool:
    lowered = value.strip().lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false is wanted")


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number_ = int(value.replace("_", ""))
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high} is wanted") from None
        if not low <= number_ <= high:
            raise ValueError(f"it must lie between {low} and {high}")
        return number_

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    between = f"{as_text(float(low))} and {as_text(float(high))}"

    def parse(value: str) -> float:
        try:
            found = float(value.replace("_", ""))
        except ValueError:
            raise ValueError(f"a number between {between} is wanted") from None
        if not math.isfinite(found) or not low <= found <= high:
            raise ValueError(f"it must lie between {between}")
        return found

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    """One of a few words, in either case."""
    by_lower = {each.lower(): each for each in allowed}

    def parse(value: str) -> str:
        found = by_lower.get(value.strip().lower())
        if found is None:
            raise ValueError(f"allowed are {', '.join(allowed)}")
        return found

    return parse
