"""Other people's recommenders on the same split: RecBole 1.2.1 in an environment of its own, and `implicit`'s ALS."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.log import Rows
from streamer.errors import DataError

JOB = Path(__file__).parent / "recbole_job.py"
ENVIRONMENT = Path("~/.cache/headwater/recbole-1.2.1")
PACKAGES = (
    "recbole==1.2.1",
    "pandas<3",
    "setuptools<81",
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "python-dateutil",
    "pytz",
    "tzdata",
    "six",
    "texttable",
    "thop",
    "tabulate",
    "tqdm",
    "PyYAML",
    "psutil",
    "scikit-learn",
    "joblib",
    "threadpoolctl",
    "scipy",
)
"""What RecBole imports on the way to the four models; torch, NumPy and tensorboard are Headwater's own. Its other requirements
(ray, plotly) serve parts that are not used, so nothing is installed for them.
"""
INSTALL_S = 900.0
MODELS = ("Pop", "ItemKNN", "GRU4Rec", "SASRec")

Ranked = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(users,) ranks over everything, and over what the user has not taken before."""


def environment(folder: Path = ENVIRONMENT) -> Path:
    """RecBole's Python, installed on first use. Raises DataError with the reason where it cannot be had.

    Packages that it does not bring (torch, NumPy) are found through a .pth file in Headwater's own environment.
    """
    folder = folder.expanduser()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if (folder / "complete").exists():
        _lend_packages(python)
        return python
    _call([sys.executable, "-m", "venv", "--clear", str(folder)])
    _call(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            *PACKAGES,
        ]
    )
    _lend_packages(python)
    _call(
        [
            str(python),
            "-P",
            "-c",
            "from recbole.config import Config; from recbole.data import create_dataset",
        ]
    )
    (folder / "complete").touch()
    return python


def _lend_packages(python: Path) -> None:
    """Name Headwater's own packages to RecBole's Python; anew each time, for they may have moved since."""
    site = _call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    (Path(site) / "zz_headwater.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"RecBole's environment cannot be made: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise DataError(f"RecBole's environment cannot be made: {last}")
    return done.stdout


def recbole(
    python: Path, model: str, user: Rows, item: Rows, seed: int, budget_s: float
) -> tuple[Ranked, dict[str, Any]]:
    """Train `model` and rank each user's last item. user, item (n,): events by user, each in order; the last two are held out.

    Returns the ranks in the order of users, and how it went: seconds, trace (epochs, 2) of seconds and validation NDCG@10,
    stopped (`early` or `budget`). Raises DataError with what it said when it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        split, out = Path(folder) / "split.npz", Path(folder) / "ranks.npz"
        np.savez(split, user=user, item=item)
        command = [
            str(python),
            "-P",
            "-W",
            "ignore",
            str(JOB),
            model,
            str(split),
            str(out),
            str(seed),
            str(budget_s),
        ]
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode or not out.exists():
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise DataError(f"RecBole's {model} failed: {last}")
        found = dict(np.load(out))
    how = {"seconds": float(found["seconds"]), "trace": found["trace"], "stopped": str(found["stopped"])}
    return (found["raw"], found["filtered"]), how


def als_scores(user: Rows, item: Rows, users: int, items: int, seed: int) -> NDArray[np.float32]:
    """(users, items) scores of implicit's ALS with its default settings (Hu, Koren & Volinsky 2008), one thread.

    Raises DataError where `implicit` is not installed.
    """
    try:
        from implicit.als import AlternatingLeastSquares
    except ImportError as error:
        raise DataError("implicit is not installed: pip install 'headwater[bench]'") from error
    from scipy import sparse

    taken = sparse.csr_matrix((np.ones(len(user), np.float32), (user, item)), shape=(users, items))
    model = AlternatingLeastSquares(random_state=seed, num_threads=1)
    model.fit(taken, show_progress=False)
    scores: NDArray[np.float32] = model.user_factors @ model.item_factors.T
    return scores
