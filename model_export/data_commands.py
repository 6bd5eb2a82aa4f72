"""`headwater preset | weights | pretrain`: what comes before `train`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from model_export import presets
from model_export.cleaning import describe_items
from model_export.encoder import PretrainConfig, pretrain
from model_export.encoder_files import quality_of, quantise_encoder, save_encoder
from model_export.encoder_texts import pretraining_texts
from model_export.interactions import Interactions
from model_export.log_options import add_log, read_event_types, read_log
from model_export.social import GraphConfig
from model_export.text_export import cached_encoder, minilm_dir
from model_export.training_config import TrainingConfig
from model_export.training_screen import bar, busy
from model_export.type_weights import as_toml, learn_weights
from streamer.core.item_text import item_text
from streamer.errors import DataError
from streamer.serving.text_encoder import ENCODER, TOKENIZER

_OPTIONS = {
    "method": "lora, adalora, or full (all weights)",
    "rank": "of the adapters",
    "steps": "batches that are read",
    "batch_texts": "texts in a batch",
    "max_tokens": "of a text that are read",
    "geometry_weight": "how firmly distances between sentences are kept",
    "category_weight": "weight of the categories' loss",
    "seed": "of batches, masks and adapters",
    "threads": "of torch",
}


def add_commands(commands: Any) -> None:
    _add_preset(commands)
    weights = commands.add_parser(
        "weights",
        help="learn the weights of event types from a log",
        description="Find how loudly an event of each type speaks for what its user takes next. Prints [[event_types]] for "
        "--event-types and for the worker's settings file.",
    )
    add_log(weights)
    weights.add_argument(
        "--goal",
        metavar="TYPE,…",
        help="types whose items are to be foreseen (default: the explicit ones of the log)",
    )
    weights.set_defaults(run=_run_weights)
    read = commands.add_parser(
        "pretrain",
        help="adapt the text encoder to a catalogue and its reviews",
        description="Masked words and categories on the log's own texts, the distances between sentences kept. Writes the "
        "encoder for `train --text-encoder DIR`, and prints its path.",
    )
    add_log(read)
    read.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new encoder's directory")
    read.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="go on from this one (default: MiniLM)"
    )
    read.add_argument(
        "--until-fraction",
        type=float,
        default=0.8,
        metavar="X",
        help="reviews of so much of the log (default: %(default)s)",
    )
    for option in fields(PretrainConfig):
        if option.name in _OPTIONS:
            read.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=type(option.default),
                default=option.default,
                metavar="N" if type(option.default) is int else "X",
                help=f"{_OPTIONS[option.name]} (default: %(default)s)",
            )
    read.add_argument("--int8", action="store_true", help="write int8 weights, and measure what they cost")
    read.set_defaults(run=_run_pretrain)


def _add_preset(commands: Any) -> None:
    preset = commands.add_parser(
        "preset",
        help="print a preset as the worker's settings file",
        description="Print a domain's event types and settings as a TOML file for HEADWATER_CONFIG.",
    )
    preset.add_argument(
        "name", metavar="NAME", help=f"one of {', '.join(presets.names())}, or a file like theirs"
    )
    preset.set_defaults(run=_run_preset)


def _run_preset(args: argparse.Namespace, console: Console) -> int:
    print(presets.load(args.name).settings_toml(), end="")
    return 0


def _run_weights(args: argparse.Namespace, console: Console) -> int:
    types = read_event_types(args.event_types)
    data = read_log(args, types, console)
    found = {types.by_code[int(code)] for code in set(data.type.tolist())}
    if len(found) < 2:
        raise DataError(
            f"all events are of one type, {next(iter(found)).name!r}: there is nothing to weigh. Give logs of several "
            "types, as --data view=views.csv --data purchase=sales.csv"
        )
    explicit = {each.name for each in found if each.explicit}
    goal = (
        frozenset(args.goal.split(",")) if args.goal else frozenset(explicit or {each.name for each in found})
    )
    learned = learn_weights(data.in_time_order(7), types, goal)
    console.print(
        f"next {' or '.join(sorted(goal))}, nats: {learned.loss_learned:.4f} with the learned weights, "
        f"{learned.loss_set:.4f} as they were set, {learned.loss_equal:.4f} with equal ones"
    )
    print(as_toml(learned.types), end="")
    return 0


def _run_pretrain(args: argparse.Namespace, console: Console) -> int:
    config = PretrainConfig(**{name: getattr(args, name) for name in _OPTIONS})
    if args.out.exists():
        raise DataError(f"{args.out} exists: an encoder never changes, choose another name")
    source = minilm_dir() if args.source is None else _weights_of(args.source)
    past, _ = read_log(args, read_event_types(args.event_types), console).split(
        args.until_fraction, config.seed
    )
    past = describe_items(past)
    texts, categories = pretraining_texts(past, config.seed)
    console.print(f"{len(texts):,} different texts, {categories.shape[1]} categories")
    with bar(console, f"pre-training ({config.method})", config.steps) as advance:
        done = pretrain(source, texts, categories, config, lambda step, losses: advance(1))
    for name, value in done.figures.items():
        console.print(f"  {name} {value:.4f}")
    with busy(console, "exporting"):
        if not args.int8:
            save_encoder(done.bert, source / TOKENIZER, args.out, done.figures)
        else:
            whole = save_encoder(
                done.bert, source / TOKENIZER, args.out.with_name(f"{args.out.name}-f32"), done.figures
            )
            _quantise(whole, args.out, past, console)
    print(args.out)
    return 0


def _quantise(encoder: Path, out: Path, data: Interactions, console: Console) -> None:
    texts = list(dict.fromkeys(filter(None, map(item_text, data.items))))[:1000]
    quantise_encoder(encoder, out, texts)
    for name, value in quality_of(out).items():
        if "int8" in name:
            console.print(f"  {name} {value:.4f}")


def _weights_of(folder: Path) -> Path:
    weights = folder / "weights" if (folder / "weights").is_dir() else folder
    if not (weights / "config.json").is_file():
        raise DataError(
            f"{folder} holds no BertModel with a config.json: give a directory that `pretrain` wrote"
        )
    return weights


def encoder_of(given: Path | None, cache: Path) -> Path:
    """The text encoder that --text-encoder names, else MiniLM. Raises DataError."""
    if given is None:
        return cached_encoder(cache)
    if not (given / ENCODER).is_file():
        raise DataError(f"{given} holds no {ENCODER}: give a directory that `headwater pretrain` wrote")
    return given


def graph_of(social: bool, past: Interactions, config: TrainingConfig) -> GraphConfig | None:
    """How known users are introduced, None where they are not. Raises DataError for a log without friends."""
    if not social:
        return None
    if not len(past.friends):
        raise DataError(
            "--social wants friends, and the log has none: give --graph FILE, a table of user_id, friend_id"
        )
    return GraphConfig(seed=config.seed, threads=config.threads)
