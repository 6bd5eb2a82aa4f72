"""`headwater settings`: what is set, and what the variables are called."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from streamer.settings import EVENT_TYPES, PREFIX, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it prints everything."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    table = Table("variable", "value", "default", box=None)
    default = Settings().redacted()
    for name, value in settings.redacted().items():
        variable = "[[event_types]] (TOML)" if name == EVENT_TYPES else PREFIX + name.upper()
        table.add_row(variable, value, "" if value == default[name] else default[name] or "(empty)")
    Console(markup=False).print(table)
    return 0
