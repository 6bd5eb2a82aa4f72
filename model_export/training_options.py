"""The fields of TrainingConfig as options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from model_export.training_config import TrainingConfig
from streamer.errors import DataError

OPTIONS = {
    "encoder": "of users: gru (one step per event) or transformer (replays the window for each)",
    "epochs": "train for at most so many epochs",
    "patience": "stop after so many epochs without a better validation NDCG@10",
    "hidden": "size H of a user's state",
    "dim": "size D of an item's vector",
    "layers": "of the transformer",
    "attention": "heads of the transformer's attention",
    "dropout": "on states",
    "input_dropout": "on the items of the inputs",
    "items_from": "what item vectors start from: text, or ials (implicit ALS factors besides)",
    "loss": "softmax, sampled, gbce, or auto: the full softmax up to 50,000 items",
    "negatives": "of the sampled losses",
    "smoothing": "share of the probability that goes to all items alike",
    "later_items": "items after the next one that are targets, too",
    "later_share": "how much of what is learned they are",
    "target_share": "random share of the events that are targets in an epoch: cheaper epochs, less progress",
    "teacher": "checkpoint of a model over the same items to learn from as well",
    "teacher_share": "how much of what is learned comes from the teacher",
    "learning_rate": "of AdamW, at its highest",
    "weight_decay": "of AdamW",
    "average": "decay of a running mean of the weights, which is kept instead of the last ones; 0 for none",
    "batch_events": "events in a batch",
    "validation": "time (the last events of the log) or last-item (each user's last)",
    "validation_fraction": "last part of the training events, by time, that decides when to stop; 0 for none",
    "tasks": "beside the next item: all, or names with commas between (category, category_long_term, rating, purchase)",
    "balance": "of the tasks: fixed, or uncertainty (learned)",
    "head_weight": "of the tasks beside the next item",
    "seed": "of the weights, the batches and the order of events of the same moment",
    "threads": "of torch; more pay for catalogues of many thousand items",
    "precision": "no, bf16 or fp16 (mixed, by accelerate)",
}
"""Fields of TrainingConfig that are options of `train`."""
_METAVARS = {float: "X", int: "N", str: "NAME", Path: "FILE"}


def add_training_options(command: argparse.ArgumentParser) -> None:
    for option in fields(TrainingConfig):
        if option.name in OPTIONS:
            kind = Path if option.name == "teacher" else type(option.default)
            default = "none" if option.default is None else option.default
            command.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=kind,
                metavar=_METAVARS[kind],
                help=f"{OPTIONS[option.name]} (default: {default})",
            )
    command.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        default=None,
        help="keep the model that was validated",
    )


def training_config(args: argparse.Namespace, preset: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The options given, over what a preset says. Raises DataError for a value that cannot be, and for unknown fields."""
    chosen = dict(preset or {})
    unknown = sorted(chosen.keys() - {each.name for each in fields(TrainingConfig)})
    if unknown:
        raise DataError(f"[training] of the preset: {unknown[0]!r} is no field of TrainingConfig")
    names = (*OPTIONS, "refit")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return TrainingConfig(**{**chosen, **given})
