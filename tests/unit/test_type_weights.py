from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from model_export.commands import main
from model_export.interactions import Interactions, InteractionsBuilder
from model_export.type_weights import WeightOptions, as_toml, learn_weights
from streamer.core.event_types import EventTypes
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT
OPTIONS = WeightOptions(negatives=20, steps=40)


def log(honest: str, noisy: str) -> Interactions:
    """Users of four tastes purchase within their taste; `honest` events are of it, too, `noisy` ones of any."""
    rng = np.random.default_rng(5)
    builder = InteractionsBuilder(TYPES)
    for user in range(150):
        start = int(rng.integers(1_000_000))
        for place in range(12):
            kind = (honest, noisy, "purchase")[place % 3]
            taste = int(rng.integers(4)) if kind == noisy else user % 4
            item = f"{taste}-{int(rng.integers(15))}"
            builder.add(str(user), item, kind, (start + place * 60) * 1000)
    return builder.build().in_time_order(0)


def test_a_type_that_tells_the_taste_weighs_more_than_one_that_does_not() -> None:
    learned = learn_weights(log("view", "click"), TYPES, frozenset({"purchase"}), OPTIONS)
    weight = {each.name: each.weight for each in learned.types}
    assert max(weight["view"], weight["purchase"]) == 1
    assert min(weight["view"], weight["purchase"]) > 3 * weight["click"]
    assert learned.loss_learned < learned.loss_set
    assert weight["rating"] == TYPES.by_name["rating"].weight  # it does not occur


def test_too_few_goals_is_a_sentence() -> None:
    with pytest.raises(DataError, match="too few users with earlier events before a rating"):
        learn_weights(log("view", "click"), TYPES, frozenset({"rating"}), OPTIONS)
    with pytest.raises(DataError, match="'buy' is no event type"):
        learn_weights(log("view", "click"), TYPES, frozenset({"buy"}), OPTIONS)


def test_a_table_survives_its_toml() -> None:
    assert EventTypes.from_table(tomllib.loads(as_toml(TYPES))["event_types"]) == TYPES


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = log("view", "click")
    rows = zip(
        data.user.tolist(), data.item.tolist(), data.type.tolist(), data.timestamp_ms.tolist(), strict=True
    )
    lines = [f"{user},{item},{TYPES.by_code[kind].name},{time}" for user, item, kind, time in rows]
    (tmp_path / "log.csv").write_text("user_id,item_id,type,timestamp_ms\n" + "\n".join(lines))
    assert main(["weights", "--data", str(tmp_path / "log.csv")]) == 0
    printed = EventTypes.from_table(tomllib.loads(capsys.readouterr().out)["event_types"])
    assert printed.by_name["click"].weight < printed.by_name["purchase"].weight
    (tmp_path / "one.csv").write_text("user_id,item_id,timestamp_ms\nu,a,1\nv,a,2\n")
    with pytest.raises(DataError, match=r"all events are of one type, 'view'.*--data view="):
        main(["weights", "--data", str(tmp_path / "one.csv")])
