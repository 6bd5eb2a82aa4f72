"""`headwater train | tune | evaluate | export | verify`, and those of data_commands: the offline half of Headwater.

Progress goes to stderr, results to stdout; `train` and `export` print the artefact's path last.
"""

from __future__ import annotations

import argparse
import errno
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from model_export import presets
from model_export.cleaning import describe_items, weigh_by_value
from model_export.data_commands import add_commands, encoder_of, graph_of
from model_export.log_options import add_log, read_event_types, read_log
from model_export.training_options import add_training_options, training_config
from streamer.errors import DataError

WINDOW = 100
"""Events of the behaviour window, as in the worker's default settings."""


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. Raises HeadwaterError for what the user can mend."""
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Console], int] = args.run
    try:
        return run(args, Console(stderr=True))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"the disk is full ({error}): make room, or name another folder with --out or --cache. "
            "Nothing half-written was left where a worker could find it"
        ) from error


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        "headwater", description="Train, judge, export and verify models, offline."
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    _add_train(commands)
    _add_tune(commands)
    _add_evaluate(commands)
    export = commands.add_parser(
        "export",
        help="write a trained model's ONNX artefact",
        description="Export a checkpoint once more, and verify it.",
    )
    export.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="the .pt file that `train` left beside the artefact",
    )
    export.add_argument(
        "--out", type=Path, metavar="DIR", help="where the version's directory goes (default: beside it)"
    )
    export.set_defaults(run=run_export)
    verify = commands.add_parser(
        "verify",
        help="prove that an artefact computes what the trainer computed",
        description="Check digests, tensors and golden pairs, and that stepping event by event equals replaying.",
    )
    verify.add_argument("artefact", type=Path, metavar="ARTEFACT", help="directory with a manifest.json")
    verify.add_argument("--checkpoint", type=Path, metavar="FILE", help="compare with this torch model, too")
    verify.set_defaults(run=run_verify)
    return root


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a model on an event log",
        description="Train on the first events by time, judge on the later ones, export, verify. Prints the artefact's path.",
    )
    add_log(train)
    train.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets the artefact, in a directory named by its version",
    )
    train.add_argument(
        "--until-fraction",
        type=float,
        default=0.8,
        metavar="X",
        help="train on so much of the events and judge on the rest; 1 trains on all (default: %(default)s)",
    )
    add_training_options(train)
    train.add_argument(
        "--window",
        type=int,
        metavar="N",
        help=f"events of the behaviour window (default: the preset's, else {WINDOW})",
    )
    train.add_argument(
        "--preset",
        metavar="NAME",
        help=f"event types, training and window of {', '.join(presets.names())}, or of a TOML file like theirs",
    )
    train.add_argument(
        "--value-weight",
        type=float,
        metavar="X",
        help="how much more a target counts that its user rated above the own mean (default: the preset's, else 0)",
    )
    train.add_argument(
        "--social",
        action="store_true",
        help="introduce known users by what the graph of their friends and events says (a log with friends, or --graph)",
    )
    train.add_argument(
        "--text-encoder", type=Path, metavar="DIR", help="of `headwater pretrain` (default: MiniLM)"
    )
    train.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="where TensorBoard's scalars go (default: tensorboard in --out)",
    )
    train.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="TRACKER",
        help="send the figures to mlflow or wandb, too; may be given twice",
    )
    train.add_argument(
        "--users",
        type=Path,
        metavar="FILE",
        help="attributes of users (a table with a user_id column) whose groups the model card compares",
    )
    train.set_defaults(run=run_train)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune",
        help="search for better training options",
        description="Train with other options again and again, judged on what is held out from the training part; trials "
        "that fall behind are stopped. The study is kept: run the same command again to go on. Prints the options to "
        "give to `train`.",
    )
    add_log(tune)
    tune.add_argument(
        "--store",
        type=Path,
        required=True,
        metavar="FILE",
        help="the study, a SQLite file; made if it is not there",
    )
    tune.add_argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="in all, those in the store included (default: %(default)s)",
    )
    tune.add_argument(
        "--search",
        metavar="OPTION,…",
        help="options to vary; the others are as given (default: learning rate, dropouts, smoothing, averaging)",
    )
    tune.add_argument(
        "--until-fraction",
        type=float,
        default=0.8,
        metavar="X",
        help="see only so much of the events (default: %(default)s)",
    )
    tune.add_argument(
        "--window",
        type=int,
        default=WINDOW,
        metavar="N",
        help="events of the behaviour window (default: %(default)s)",
    )
    add_training_options(tune)
    tune.set_defaults(run=run_tune)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="rank with a trained model and compare it with baselines",
        description="Take the artefact event by event through the later part of a log, beside popularity and an item-kNN "
        "that learn along. Every event is judged by the list from before it.",
    )
    evaluate.add_argument("artefact", type=Path, metavar="ARTEFACT", help="directory with a manifest.json")
    add_log(evaluate)
    evaluate.add_argument(
        "--from-fraction",
        type=float,
        default=0.8,
        metavar="X",
        help="judge on what comes after so much of the events (default: %(default)s)",
    )
    evaluate.add_argument(
        "--seed", type=int, default=7, metavar="N", help="of the order of ties (default: %(default)s)"
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON, too")
    evaluate.add_argument(
        "--users", type=Path, metavar="FILE", help="attributes of users whose groups the report compares, too"
    )
    evaluate.set_defaults(run=run_evaluate)


def run_train(args: argparse.Namespace, console: Console) -> int:
    from model_export.run import train_and_export
    from model_export.slices import user_attributes

    preset = None if args.preset is None else presets.load(args.preset)
    config = training_config(args, {} if preset is None else preset.training)
    window, value_weight, types = args.window, args.value_weight, read_event_types(args.event_types)
    if preset is not None:
        window = preset.window if window is None else window
        value_weight = preset.value_weight if value_weight is None else value_weight
        types = types if args.event_types else preset.types
    if not 0 < args.until_fraction <= 1:
        raise DataError(f"--until-fraction is {args.until_fraction}: it must lie in (0, 1]")
    attributes = None if args.users is None else user_attributes(args.users)
    data = read_log(args, types, console)
    past, rest = data.split(args.until_fraction, config.seed)
    past = weigh_by_value(describe_items(past), types, value_weight or 0.0)
    path = train_and_export(
        past,
        rest,
        types,
        config,
        out=args.out,
        window=WINDOW if window is None else window,
        encoder=encoder_of(args.text_encoder, args.cache),
        graph=graph_of(args.social, past, config),
        tensorboard=args.tensorboard,
        track=args.track,
        attributes=attributes,
        console=console,
    )
    print(path)
    return 0


def run_tune(args: argparse.Namespace, console: Console) -> int:
    from model_export.run import Prepared
    from model_export.text_export import cached_encoder
    from model_export.tuning import DEFAULT_SPACE, tune

    config = training_config(args)
    types = read_event_types(args.event_types)
    past, _ = read_log(args, types, console).split(args.until_fraction, config.seed)
    prepared = Prepared.of(past, cached_encoder(args.cache), console)
    space = DEFAULT_SPACE if args.search is None else tuple(args.search.replace("-", "_").split(","))
    best = tune(
        prepared.data,
        prepared.content,
        types,
        config,
        texts=prepared.texts,
        window=args.window,
        trials=args.trials,
        space=space,
        store=args.store,
        say=lambda line: console.print(line, highlight=False),
    )
    print(" ".join(f"--{name.replace('_', '-')} {getattr(best, name)}" for name in space))
    return 0


def run_evaluate(args: argparse.Namespace, console: Console) -> int:
    from model_export.run import evaluate_artefact
    from model_export.slices import user_attributes

    types = read_event_types(args.event_types)
    past, rest = read_log(args, types, console).split(args.from_fraction, args.seed)
    if rest is None:
        raise DataError(f"--from-fraction {args.from_fraction} leaves no event to judge: take a smaller one")
    attributes = None if args.users is None else user_attributes(args.users)
    judged = evaluate_artefact(args.artefact, past, rest, types, console, attributes)
    if args.report is not None:
        args.report.write_text(json.dumps(judged.as_json(), indent=2) + "\n")
    return 0


def run_export(args: argparse.Namespace, console: Console) -> int:
    from model_export.checkpoint import Checkpoint
    from model_export.run import export_checkpoint

    out = args.checkpoint.parent if args.out is None else args.out
    print(export_checkpoint(Checkpoint.load(args.checkpoint), out, console=console))
    return 0


def run_verify(args: argparse.Namespace, console: Console) -> int:
    from model_export.checkpoint import Checkpoint
    from model_export.verify import verify_artefact

    model = None if args.checkpoint is None else Checkpoint.load(args.checkpoint).model
    for what, deviation in verify_artefact(args.artefact, model).items():
        console.print(f"{what}: largest deviation {deviation:.1e}")
    print(f"{args.artefact} holds what its manifest says")
    return 0
