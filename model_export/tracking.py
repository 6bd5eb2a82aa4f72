"""Where a run's figures go: TensorBoard always, MLflow or Weights & Biases where asked for and installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from model_export.training_config import Epoch, TrainingConfig
from streamer.errors import DataError

TRACKERS = ("mlflow", "wandb")


class Tracker(Protocol):
    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def scalars(epoch: Epoch) -> dict[str, float]:
    """Tag → value."""
    values = {"loss": epoch.loss}
    values |= {f"loss/{task}": loss for task, loss in epoch.losses.items()}
    values |= {f"validation/{metric}": value for metric, value in epoch.validation.items()}
    return {f"{epoch.fit}/{name}": value for name, value in values.items()}


def trackers(tensorboard: Path, further: Sequence[str], config: TrainingConfig) -> list[Tracker]:
    """Raises DataError for a tracker that is unknown or not installed."""
    made: list[Tracker] = [TensorBoard(tensorboard)]
    for name in further:
        if name not in TRACKERS:
            raise DataError(
                f"unknown tracker {name!r}: known are {', '.join(TRACKERS)}; TensorBoard is always written"
            )
        made.append(MLflow(config) if name == "mlflow" else WeightsAndBiases(config))
    return made


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """The server is MLFLOW_TRACKING_URI's."""

    def __init__(self, config: TrainingConfig) -> None:
        self._mlflow = _imported("mlflow")
        self._mlflow.start_run(run_name=config.encoder)
        self._mlflow.log_params(_flat(config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class WeightsAndBiases:
    """Account and project are the environment's: WANDB_API_KEY, WANDB_PROJECT."""

    def __init__(self, config: TrainingConfig) -> None:
        self._run = _imported("wandb").init(config=_flat(config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        # Steps of two fits overlap, and W&B's own step must not fall: the epoch is a value beside.
        self._run.log({**values, "epoch": step})

    def close(self) -> None:
        self._run.finish()


def _flat(config: TrainingConfig) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"tracking with {name} needs its package: pip install {name}") from error
