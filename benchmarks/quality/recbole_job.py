"""One RecBole 1.2.1 model on a prepared leave-one-out split → the rank of each user's test item.

`python recbole_job.py MODEL SPLIT.npz OUT.npz SEED BUDGET_S`: runs in RecBole's own environment and imports
nothing of Headwater. What its old code needs is patched here, by name; settings are RecBole's own, with CE loss for the
sequential models and NDCG@10 on validation to stop by.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

SEQUENTIAL = ("GRU4Rec", "SASRec")


def patch() -> None:
    """RecBole 1.2.1 was written for NumPy 1, torch < 2.6 and scipy < 1.14."""
    numpy: Any = np
    for name, kind in (
        ("float", float),
        ("int", int),
        ("bool", bool),
        ("object", object),
        ("long", np.int64),
        ("float_", np.float64),
        ("complex_", np.complex128),
        ("unicode_", np.str_),
    ):
        if name not in numpy.__dict__:
            setattr(numpy, name, kind)
    pickled: Any = torch
    load = pickled.load
    pickled.load = lambda *arguments, **named: load(*arguments, **{"weights_only": False, **named})
    dok: Any = scipy.sparse.dok_matrix
    if not hasattr(dok, "_update"):
        dok._update = lambda self, data: [self.__setitem__(at, value) for at, value in data.items()]


class OutOfTime(Exception):
    """The budget is spent; the best epoch so far counts."""


def main(model_name: str, split: str, out: str, seed: int, budget_s: float) -> None:
    patch()
    torch.set_num_threads(1)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    log = np.load(split)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _write(Path(folder), log)
        config = Config(model=model_name, dataset="log", config_dict=_settings(model_name, folder, seed))
        init_seed(seed, True)
        dataset = create_dataset(config)
        train, valid, _ = data_preparation(config, dataset)
        init_seed(seed, True)
        model = get_model(config["model"])(config, train.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        started, trace = time.process_time(), []

        def after_epoch(epoch: int, score: float) -> None:
            trace.append((time.process_time() - started, score))
            print(
                f"{model_name} epoch {epoch + 1}: {trace[-1][0]:.0f} s, validation NDCG@10 {score:.4f}",
                flush=True,
            )
            if trace[-1][0] > budget_s:
                raise OutOfTime

        stopped = "early"
        try:
            trainer.fit(train, valid, verbose=False, saved=True, show_progress=False, callback_fn=after_epoch)
        except OutOfTime:
            stopped = "budget"
        seconds = time.process_time() - started
        model.load_state_dict(torch.load(trainer.saved_model_file, map_location="cpu")["state_dict"])
        raw, filtered = _ranks(model.eval(), dataset, log, model_name in SEQUENTIAL)
    np.savez(out, raw=raw, filtered=filtered, seconds=seconds, trace=np.array(trace), stopped=stopped)


def _write(folder: Path, log: Any) -> None:
    """The atomic file: users with their events in order; its time stamps are places, so that ties stay as they are."""
    (folder / "log").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [
        f"u{user}\ti{item}\t{at}"
        for at, (user, item) in enumerate(zip(log["user"], log["item"], strict=True))
    ]
    (folder / "log" / "log.inter").write_text("\n".join(lines) + "\n")


def _settings(model: str, folder: str, seed: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data_path": folder,
        "checkpoint_dir": folder,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "metrics": ["NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "seed": seed,
        "reproducibility": True,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    if model in SEQUENTIAL:
        settings |= {"loss_type": "CE", "train_neg_sample_args": None}
    return settings


def _ranks(model: Any, dataset: Any, log: Any, sequential: bool) -> tuple[np.ndarray, np.ndarray]:
    """(users,) 1-based ranks of the test items over the whole catalogue, and over what the user has not taken before."""
    from recbole.data.interaction import Interaction

    raw, filtered = [], []
    longest = model.max_seq_length if sequential else 0
    edges = np.flatnonzero(np.diff(log["user"], prepend=-1, append=-1))
    for first, last in pairwise(edges.tolist()):
        items = dataset.token2id("item_id", np.array([f"i{item}" for item in log["item"][first:last]]))
        user = int(dataset.token2id("user_id", f"u{log['user'][first]}"))
        history, target = items[:-1], int(items[-1])
        fields: dict[str, Any] = {"user_id": torch.tensor([user])}
        if sequential:
            recent = history[-longest:]
            padded = np.zeros((1, longest), np.int64)
            padded[0, : len(recent)] = recent
            fields |= {"item_id_list": torch.from_numpy(padded), "item_length": torch.tensor([len(recent)])}
        with torch.inference_mode():
            scores = (
                torch.as_tensor(model.full_sort_predict(Interaction(fields)))
                .numpy()
                .astype(np.float64)
                .ravel()
            )
        scores[0] = -np.inf  # the padding
        raw.append(rank(scores, target))
        scores[np.setdiff1d(history, [target])] = -np.inf
        filtered.append(0 if target in history else rank(scores, target))
    return np.array(raw), np.array(filtered)


def rank(scores: np.ndarray, target: int) -> int:
    """1-based; ties go to the lower row."""
    own = scores[target]
    return 1 + int((scores > own).sum()) + int((scores[:target] == own).sum())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
