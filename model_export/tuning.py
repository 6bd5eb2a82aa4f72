"""`headwater tune`: a search for better training options, which can be stopped and taken up again.

Tree-structured Parzen estimator and median pruning of Optuna: Akiba et al. 2019, arXiv:1907.10902. Only the training part of a
log is seen: trials are judged on what is held out from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.interactions import Interactions
from model_export.training import train
from model_export.training_config import Epoch, TrainingConfig
from streamer.core.event_types import EventTypes
from streamer.errors import DataError

SPACE: dict[str, Callable[[Any], Any]] = {
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-3, 2e-2, log=True),
    "dropout": lambda trial: trial.suggest_float("dropout", 0.0, 0.6, step=0.05),
    "input_dropout": lambda trial: trial.suggest_float("input_dropout", 0.0, 0.6, step=0.05),
    "id_dropout": lambda trial: trial.suggest_float("id_dropout", 0.0, 0.3, step=0.05),
    "smoothing": lambda trial: trial.suggest_float("smoothing", 0.0, 0.2, step=0.05),
    "weight_decay": lambda trial: trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
    "average": lambda trial: trial.suggest_categorical("average", [0.0, 0.98, 0.99, 0.995]),
    "dim": lambda trial: trial.suggest_categorical("dim", [32, 64, 96, 128]),
    "hidden": lambda trial: trial.suggest_categorical("hidden", [32, 64, 96, 128]),
    "batch_events": lambda trial: trial.suggest_categorical("batch_events", [800, 1500, 3000]),
    "head_weight": lambda trial: trial.suggest_float("head_weight", 0.01, 0.5, log=True),
    "layers": lambda trial: trial.suggest_int("layers", 1, 3),
    "items_from": lambda trial: trial.suggest_categorical("items_from", ["text", "ials"]),
}
"""Option → how a trial draws it."""
DEFAULT_SPACE = ("learning_rate", "dropout", "input_dropout", "id_dropout", "smoothing", "average")
Say = Callable[[str], None]


def tune(
    data: Interactions,
    content: NDArray[np.float32],
    types: EventTypes,
    config: TrainingConfig,
    *,
    texts: NDArray[np.float32] | None,
    window: int,
    trials: int,
    space: Sequence[str],
    store: Path,
    say: Say,
) -> TrainingConfig:
    """Run until the study in `store` (SQLite) has so many finished trials; `config` with the best options found in all.

    A study belongs to a log and the options that are not searched: others in the same store are left alone. Raises DataError.
    """
    if trials < 1:
        raise DataError(f"trials is {trials}: it must be at least 1")
    unknown = sorted(set(space) - SPACE.keys())
    if unknown:
        raise DataError(f"cannot search {unknown[0]!r}: what can be searched is {', '.join(SPACE)}")
    if not config.validation_fraction:
        raise DataError("tuning needs events to judge on: take a validation_fraction above 0")
    optuna = _optuna()
    fixed = replace(config, refit=False)
    study = optuna.create_study(
        study_name=_study_name(fixed, data, space),
        storage=_storage(optuna, store),
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        load_if_exists=True,
    )
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def objective(trial: Any) -> float:
        tried = replace(fixed, **{name: SPACE[name](trial) for name in space})

        def watch(epoch: Epoch) -> None:
            trial.report(epoch.validation["ndcg_at_10"], epoch.number)
            if trial.should_prune():
                raise optuna.TrialPruned

        trained = train(data, content, types, tried, texts=texts, window=window, watch=watch)
        trial.set_user_attr("epochs", trained.epochs)
        trial.set_user_attr("seconds", trained.seconds)
        return trained.validation["ndcg_at_10"]

    def told(_: Any, trial: Any) -> None:
        what = (
            "stopped early"
            if trial.value is None or trial.state == finished[1]
            else f"NDCG@10 {trial.value:.4f}"
        )
        say(f"trial {trial.number}: {what} {trial.params}")

    done = len(study.get_trials(deepcopy=False, states=finished))
    if done:
        say(f"{store} holds {done} trials of this study: going on")
    if trials > done:
        study.optimize(objective, n_trials=trials - done, callbacks=[told])
    return replace(config, **study.best_params)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise DataError("tuning needs optuna: pip install 'headwater[train]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _storage(optuna: Any, store: Path) -> Any:
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(f"sqlite:///{store}")
    except Exception as error:  # sqlalchemy's own tree, which is no dependency of this module
        raise DataError(f"cannot keep the study in {store}: {error}") from error


def _study_name(config: TrainingConfig, data: Interactions, space: Sequence[str]) -> str:
    fixed = sorted((name, str(value)) for name, value in asdict(config).items() if name not in space)
    described = json.dumps([fixed, sorted(space)]).encode()
    return f"{config.encoder} {data.digest()[:16]} {hashlib.sha256(described).hexdigest()[:16]}"
