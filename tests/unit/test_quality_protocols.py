"""What leave-one-out holds out, how its recommenders are ranked, and what the command says when it cannot go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality import figures, leave_one_out
from benchmarks.quality.leave_one_out import Held, Split
from benchmarks.quality.log import Source, load
from benchmarks.quality.peers import als_scores
from streamer.errors import DataError

LINES = ["a,1,1", "b,1,2", "a,2,3", "c,9,4", "b,2,5", "a,1,6", "b,3,7", "a,3,8", "c,8,9"]


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    monkeypatch.setattr("benchmarks.quality.log.MIN_EVENTS", 1)
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,time\n" + "\n".join(LINES))
    return Split.of(load(Source(file, "user_id", "item_id", "time"), 1))


def test_the_last_event_is_the_test_and_the_one_before_it_trains_nothing(split: Split) -> None:
    items = {"1": 0, "2": 1, "3": 2, "8": 3, "9": 4}
    assert split.log.users == 2  # c has only two events
    assert split.test.tolist() == [items["3"], items["3"]]
    assert split.histories == [[items["2"], items["1"]], [items["1"], items["2"]]]  # a took 1, 2 and 1 again
    assert list(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (0, 1),
    ]
    assert len(split.before) == 5


def test_nobody_with_three_events_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.quality.log.MIN_EVENTS", 1)
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,time\na,1,1\nb,2,2\n")
    with pytest.raises(DataError, match="no user has three events"):
        Split.of(load(Source(file, "user_id", "item_id", "time"), 1))


def test_ranks_with_and_without_the_history(split: Split) -> None:
    held = Held(2)
    scores = np.array([5, 4, 3, 2, 1], np.float32)
    leave_one_out._score(held, "pop", lambda user, history: scores, split, np.array([0, 1]))
    ((raw, filtered),) = held.ranks["pop"]
    assert raw.tolist() == [3, 3]
    assert filtered.tolist() == [1, 1]


def test_figures_of_leave_one_out_have_a_run_for_each_seed_and_an_error_over_users() -> None:
    ranks = [
        (np.array([1, 0, 3, 0]), np.array([1, 0, 1, 0])),
        (np.array([0, 0, 0, 0]), np.array([1, 0, 0, 0])),
    ]
    held = Held(
        4, ranks={"headwater_gru": ranks, "recbole_gru4rec": ranks[1:]}, seconds={"headwater_gru": [1.0, 3.0]}
    )
    found = figures.of_leave_one_out(held)
    assert "training_speed_at_gru4rec_quality" not in found
    held.traces["recbole_gru4rec"] = np.array([[10.0, 0.1], [20.0, 0.3], [30.0, 0.2]])
    found = figures.of_leave_one_out(held)
    assert found["training_speed_at_gru4rec_quality"].runs == [20.0, 20 / 3]
    assert found["ndcg_at_10_stream"].runs == [0.5, 0.25]
    assert found["ndcg_at_10_headwater_gru_raw"].runs == [0.375, 0.0]
    assert found["hit_rate_at_10_recbole_gru4rec"].value == 0.25
    assert found["ndcg_at_10_stream_over_best_recbole"].value == pytest.approx(0.375 / 0.25)
    assert found["training_seconds_headwater_gru"].value == 2.0
    per_user = np.array([1, 0, 0.5, 0])
    assert found["ndcg_at_10_headwater_gru_standard_error"].value == (pytest.approx(per_user.std(ddof=1) / 2))


def test_als_prefers_what_its_kind_of_user_took() -> None:
    pytest.importorskip("implicit")
    rng = np.random.default_rng(0)
    pairs = sorted({(user, user % 2 * 20 + int(rng.integers(20))) for user in range(40) for _ in range(12)})
    user, item = np.array(pairs).T
    scores = als_scores(user, item, 40, 40, seed=1)
    assert scores.shape == (40, 40)
    assert scores[0, :20].mean() > scores[0, 20:].mean() + 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no prequential evidence: name its column with --time"),
        (["--time", "when"], "has no column 'when'; its columns are user_id, item_id, time"),
        (["--time", "time"], "9 usable events are too few"),
        (["--time", "time", "--user", "time"], "too few"),
        (["--time", "time", "--items", "nowhere.csv", "--item-text", "title"], "too few"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,time\n" + "\n".join(LINES))
    assert command.main(["--events", str(file), *arguments]) == 1
    assert said in capsys.readouterr().err
