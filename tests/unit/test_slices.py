from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.interactions import Interactions, InteractionsBuilder
from model_export.slices import Slice, attribute_groups, exposure, gaps, gini, slices, user_attributes
from streamer.core.event_types import EventTypes
from streamer.errors import DataError


def log(*events: tuple[str, str | None]) -> Interactions:
    builder = InteractionsBuilder(EventTypes.DEFAULT)
    for second, (user, item) in enumerate(events):
        builder.add(user, item, "view" if item else "search", second)
    return builder.build()


def test_quality_by_groups_of_users_and_items() -> None:
    """a has 6 of 11 training events (head), b 4 (middle), c 1 (tail); n is new. u had 6 events, v 5, w none."""
    past = log(*[("u", "a")] * 4, ("u", "b"), ("u", "c"), *[("v", "a")] * 2, *[("v", "b")] * 3)
    rest = log(("u", "a"), ("w", None), ("w", "n"), ("v", "c"), ("w", "b"))
    ranks = np.array([1, 0, 3, 0])
    found = {(each.by, each.group): each for each in slices(past, rest, ranks, {"age": {"u": "7", "v": "8"}})}
    assert {key: each.events for key, each in found.items()} == {
        ("activity", "1 to 5"): 3,  # w has its search before n
        ("activity", "6 to 20"): 1,
        ("popularity", "new"): 1,
        ("popularity", "tail"): 1,
        ("popularity", "middle"): 1,
        ("popularity", "head"): 1,
        ("user", "cold"): 2,
        ("user", "warm"): 2,
        ("item", "cold"): 1,
        ("item", "warm"): 3,
        ("age", "7"): 1,
        ("age", "8"): 1,
        ("age", "unknown"): 2,
    }
    assert found["user", "warm"].ndcg_at_10 == pytest.approx((1 + 1 / np.log2(4)) / 2)
    assert found["item", "cold"].hit_rate_at_10 == 0


def test_a_gap_is_between_groups_that_are_large_enough() -> None:
    found = [
        Slice("age", "young", 60, 0.2, 0.10),
        Slice("age", "old", 70, 0.2, 0.04),
        Slice("age", "few", 3, 0.9, 0.90),
        Slice("user", "warm", 130, 0.2, 0.07),
    ]
    assert gaps(found) == {"age": pytest.approx(0.06)}


def test_how_exposure_is_spread() -> None:
    """Two lists of two over three items: rows 0 and 1 are shown twice each, 2 never. Training: 6, 3 and 1 events."""
    found = exposure(np.array([[0, 1], [1, 0], [-1, -1]]), np.array([6, 3, 1], np.float32), np.array([1, 2]))
    assert found["catalogue_coverage"] == pytest.approx(2 / 3)
    assert found["exposure_gini"] == pytest.approx(1 / 3)
    assert found["popularity_lift"] == pytest.approx(0.45 / 0.2 - 1)
    assert exposure(np.full((1, 2), -1), np.ones(3, np.float32), np.array([0]))["catalogue_coverage"] == 0


def test_gini_is_0_for_equals_and_1_for_one_of_many() -> None:
    assert gini(np.ones(5)) == pytest.approx(0)
    assert gini(np.array([0.0, 1.0])) == pytest.approx(0.5)
    assert gini(np.array([7.0, 0, 0, 0])) == pytest.approx(3 / 4)
    assert gini(np.zeros(3)) == 0


def test_attributes_are_told_apart_by_quarters_or_words() -> None:
    ages = [str(age) for age in range(10, 50)]
    groups = attribute_groups([*ages, ""])
    assert sorted(set(groups.tolist())) == [
        "10 to 19.75",
        "19.75 to 29.5",
        "29.5 to 39.25",
        "39.25 to 49",
        "unknown",
    ]
    assert groups[-2] == "39.25 to 49"
    words = attribute_groups([*"aabbccddeeffgghh", "rare"])
    assert words.tolist() == [*"aabbccddeeffgghh", "other"]


def test_attributes_of_users_come_from_a_table(tmp_path: Path) -> None:
    file = tmp_path / "x.user"
    lines = [f"{user}\t{'MF'[user % 2]}\t{90000 + user}" for user in range(300)]
    file.write_text("\n".join(["user_id:token\tgender:token\tzip_code:token", *lines]))
    found = user_attributes(file)
    assert list(found) == ["gender"]  # a postal code is nobody's group
    assert found["gender"]["7"] == "F"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("id,age\n1,2\n", "one must be called user_id"), ("user_id,age\n1\n", "line 2: 1 values for 2 columns")],
)
def test_a_wrong_table_of_users_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=sentence):
        user_attributes(file)
    with pytest.raises(DataError, match="cannot read user attributes"):
        user_attributes(tmp_path / "none.csv")
