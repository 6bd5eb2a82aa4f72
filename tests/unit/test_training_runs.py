"""What surrounds the training itself: going on after an interruption, tracking, tuning, the model card."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.checkpoint import Checkpoint, version_of
from model_export.factors import item_factors
from model_export.interactions import NONE, Interactions, InteractionsBuilder
from model_export.leave_one_out import leave_one_out
from model_export.model_card import Card
from model_export.slices import Judgement, Slice
from model_export.tasks import CATEGORY_LONG_TERM, PURCHASE, RATING, Balance, Tasks
from model_export.tracking import scalars, trackers
from model_export.training import Epoch, Trained, train
from model_export.training_config import TrainingConfig
from model_export.tuning import tune
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT
ITEMS = 12
CONFIG = TrainingConfig(hidden=8, dim=8, epochs=3, validation_fraction=0.2, batch_events=100, average=0.9)


def shop(users: int = 30) -> Interactions:
    """Views of a ring of items with ratings now and then; every third event is a purchase of the item just viewed."""
    builder = InteractionsBuilder(TYPES)
    for item in range(ITEMS):
        builder.add_item(ItemRecord(str(item), "", categories=["even" if item % 2 == 0 else "odd"]))
    rng = np.random.default_rng(2)
    for user in range(users):
        item = int(rng.integers(ITEMS))
        for place in range(9):
            kind = ("view", "view", "purchase")[place % 3] if place != 7 else "rating"
            value = 1.0 + item % 5 if kind == "rating" else None
            builder.add(str(user), str(item), kind, 1000 * (9 * user + place), value)
            item = item if place % 3 == 1 else (item + 1) % ITEMS
    return builder.build().in_time_order(0)


def content() -> np.ndarray:
    vectors = np.random.default_rng(1).standard_normal((ITEMS, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fit(config: TrainingConfig, state: Path | None = None, seen: list[Epoch] | None = None) -> Trained:
    watch = (lambda epoch: None) if seen is None else seen.append
    return train(shop(), content(), TYPES, config, state=state, watch=watch)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", [("validate", 2), ("refit", 1)])
def test_an_interrupted_run_goes_on_and_ends_the_same(at: tuple[str, int], tmp_path: Path) -> None:
    whole: list[Epoch] = []
    expected = fit(CONFIG, seen=whole)
    first: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        if (epoch.fit, epoch.number) == at:
            raise Interrupted
        first.append(epoch)

    state = tmp_path / "run.state"
    with pytest.raises(Interrupted):
        train(shop(), content(), TYPES, CONFIG, state=state, watch=stop)
    second: list[Epoch] = []
    found = fit(CONFIG, state, second)
    assert [(e.fit, e.number) for e in first + second] == [(e.fit, e.number) for e in whole]
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name


def test_the_state_of_another_run_is_no_beginning(tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    fit(CONFIG, state)
    seen: list[Epoch] = []
    fit(replace(CONFIG, seed=8), state, seen)
    assert seen[0].number == 1
    state.write_bytes(b"half a file")
    seen = []
    fit(CONFIG, state, seen)
    assert seen[0].number == 1


def test_a_state_that_cannot_be_kept_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot keep the run's state in"):
        fit(CONFIG, tmp_path / "file" / "run.state")


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "transformer"},
        {"loss": "sampled", "negatives": 64},
        {"loss": "gbce", "negatives": 64},
        {"smoothing": 0.1, "target_share": 0.5},
        {"balance": "uncertainty", "validation": "last-item"},
        {"tasks": "category"},
        {"precision": "bf16"},
        {"later_items": 3},
        {"items_from": "ials"},
    ],
    ids=lambda change: next(iter(change)) + "-" + str(next(iter(change.values()))),
)
def test_each_option_learns(change: dict[str, Any]) -> None:
    seen: list[Epoch] = []
    fit(replace(CONFIG, refit=False, epochs=6, patience=6, learning_rate=0.03, **change), seen=seen)
    assert seen[-1].losses["next_item"] < seen[0].losses["next_item"]
    assert all(np.isfinite(list(epoch.losses.values())).all() for epoch in seen)


def test_the_tasks_of_a_log_are_those_that_it_supports() -> None:
    tasks = Tasks(shop(), TYPES)
    assert tasks.names == ("event_type", "category", "category_long_term", "purchase", "rating")
    assert Tasks(shop(), TYPES, frozenset({"rating"})).names == ("event_type", "rating")
    builder = InteractionsBuilder(TYPES)
    builder.add("u", "a", "view", 1)
    assert Tasks(builder.build(), TYPES).names == ("event_type",)


def test_targets_say_what_is_coming() -> None:
    history = shop().histories(TYPES)[0]
    found = Tasks(shop(), TYPES).targets(history, 0, 8)
    coming = [history.item[t + 1 :] % 2 for t in range(8)]
    np.testing.assert_allclose(found[CATEGORY_LONG_TERM][:, 1], [odd.mean() for odd in coming], atol=1e-6)
    bought = history.type == TYPES.by_name["purchase"].code
    assert found[PURCHASE].tolist() == [float(bought[t + 1 : t + 11].any()) for t in range(8)]
    rated = np.flatnonzero(~np.isnan(found[RATING]))
    assert rated.tolist() == [6]  # the event after it is the rating
    assert found[RATING][6] == history.value[7]


def test_learned_noise_balances_the_tasks() -> None:
    """At the optimum of L e^-s + s/2 the noise is s = log 2L, whatever the scale of the loss."""
    balance = Balance(Tasks(shop(), TYPES), weight=1.0, by_uncertainty=True)
    losses = {"next_item": torch.tensor(5.0), "category": torch.tensor(0.7), "purchase": torch.tensor(0.05)}
    optimiser = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        balance(losses).backward()
        optimiser.step()
    assert balance.log_variance is not None
    for task in ("category", "purchase"):
        assert balance.log_variance[task].item() == pytest.approx(np.log(2 * losses[task].item()), abs=0.01)
    fixed = Balance(Tasks(shop(), TYPES), weight=0.1, by_uncertainty=False)
    assert fixed(losses).item() == pytest.approx(5 + 0.075)


def test_a_teacher_is_learned_from_if_it_knows_the_same_items(tmp_path: Path) -> None:
    """Its quality on the same events is told beside the student's."""
    teacher = fit(replace(CONFIG, epochs=6, refit=False, learning_rate=0.03))

    def saved(item_ids: list[str]) -> Path:
        path = tmp_path / f"{len(item_ids)}.pt"
        Checkpoint(
            model=teacher.model,
            version=version_of(teacher.model),
            item_ids=item_ids,
            popularity=teacher.data.popularity,
            head_labels=teacher.head_labels,
            metrics={},
            seed=7,
            data_hash="0",
            window=100,
        ).save(path)
        return path

    config = replace(CONFIG, epochs=2, refit=False, teacher=saved(teacher.data.item_ids), teacher_share=1.0)
    taught: list[Epoch] = []
    of_both = fit(config, seen=taught).validation
    assert of_both["teacher_ndcg_at_10"] == pytest.approx(teacher.validation["ndcg_at_10"])
    alone: list[Epoch] = []
    fit(replace(config, teacher=None), seen=alone)
    assert taught[0].losses["next_item"] != alone[0].losses["next_item"]
    with pytest.raises(DataError, match=r"the teacher .* knows 2 items and the log has 12"):
        fit(replace(config, teacher=saved(["a", "b"])))


def test_factors_of_items_taken_together_are_alike() -> None:
    builder = InteractionsBuilder(TYPES)
    for user in range(40):
        for item in "abc" if user % 2 else "xyz":
            builder.add(str(user), item, "view", user)
    builder.add_item(ItemRecord("nobody's", ""))
    factors = item_factors(builder.build(), 8, seed=0)
    a, b, _, x = factors[[builder.build().item_ids.index(item) for item in ("a", "b", "c", "x")]]
    assert a @ b > 10 * abs(a @ x)
    assert not factors[-1].any()


def test_scalars_go_to_tensorboard_and_unknown_trackers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Epoch("validate", 1, 3, 2.0, {"next_item": 1.9}, {"ndcg_at_10": 0.1})
    assert scalars(epoch) == {
        "validate/loss": 2.0,
        "validate/loss/next_item": 1.9,
        "validate/validation/ndcg_at_10": 0.1,
    }
    (board,) = trackers(tmp_path, [], CONFIG)
    board.scalars(scalars(epoch), 1)
    board.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    with pytest.raises(DataError, match="unknown tracker 'excel': known are mlflow, wandb"):
        trackers(tmp_path, ["excel"], CONFIG)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(DataError, match="pip install mlflow"):
        trackers(tmp_path, ["mlflow"], CONFIG)


def test_a_study_is_taken_up_again(tmp_path: Path) -> None:
    said: list[str] = []

    def search(trials: int) -> TrainingConfig:
        return tune(
            shop(),
            content(),
            TYPES,
            replace(CONFIG, epochs=1),
            texts=None,
            window=100,
            trials=trials,
            space=["dropout", "learning_rate"],
            store=tmp_path / "study.db",
            say=said.append,
        )

    search(1)
    best = search(2)
    assert sum(line.startswith("trial ") for line in said) == 2
    assert any("holds 1 trials" in line for line in said)
    assert best.refit is CONFIG.refit
    assert re.search(rf"'dropout': {best.dropout}", "\n".join(said))
    with pytest.raises(DataError, match="cannot search 'colour'"):
        tune(
            shop(),
            content(),
            TYPES,
            CONFIG,
            texts=None,
            window=100,
            trials=1,
            space=["colour"],
            store=tmp_path / "study.db",
            say=said.append,
        )


def test_a_card_tells_what_was_trained_and_for_whom(tmp_path: Path) -> None:
    data = shop()
    card = Card(
        version="20260131-1",
        config=CONFIG,
        data=data,
        data_hash=data.digest(),
        seconds=12.0,
        best_epoch=1,
        epochs=[Epoch("validate", 1, 2, 2.5, {}, {"ndcg_at_10": 0.1}), Epoch("refit", 1, 1, 2.4, {}, {})],
        validation={"ndcg_at_10": 0.1},
        judgement=Judgement(
            report={"ndcg_at_10": {"stream": 0.2, "popularity": 0.1}},
            events=77,
            slices=[Slice("activity", "none", 60, 0.1, 0.05), Slice("activity", "1 to 5", 60, 0.3, 0.15)],
            exposure={"exposure_gini": 0.5},
        ),
    )
    text = card.write(tmp_path / "card").read_text()
    assert f"{len(data):,} events of 30 users and 12 items, 1970-01-01" in text
    assert "| popularity | 0.1000 |" in text
    assert "| activity | none | 60 | 0.1000 | 0.0500 |" in text
    assert "by activity: 0.1000" in text
    plots = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert plots == ["loss.png", "quality.png", "activity.png"]
    for name in plots:
        assert (tmp_path / "card" / name).read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the model card"):
        card.write(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoder": "lstm"}, "encoder is 'lstm': it must be one of gru, transformer"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"target_share": 0.0}, r"target_share is 0\.0: it must lie in \(0, 1\]"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"encoder": "transformer", "hidden": 9}, "2 attention heads do not divide a state of 9"),
    ],
)
def test_a_configuration_that_cannot_be_is_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        replace(CONFIG, **change)


def test_leave_one_out_ranks_each_users_last_item() -> None:
    """Each user walks a ring of 12 items from anywhere, so the last of 9 is the next one of the 4 left."""
    builder = InteractionsBuilder(TYPES)
    for user in range(60):
        for place in range(9):
            builder.add(str(user), str((user + place) % ITEMS), "rating", 1000 * (9 * user + place), 3.0)
    config = replace(CONFIG, epochs=12, patience=12, learning_rate=0.03, batch_events=50)
    trained, found = leave_one_out(builder.build(), content(), TYPES, config)
    assert len(trained.data) == 60 * 8  # without the test
    assert trained.validation["hit_rate_at_10"] == found["hit_rate_at_10"] == 1
    assert found["mrr_at_10"] > 0.8  # by chance (1 + 1/2 + 1/3 + 1/4) / 4 = 0.52


def test_the_sampled_loss_is_taken_above_fifty_thousand_items() -> None:
    assert (CONFIG.loss_for(50_000), CONFIG.loss_for(50_001)) == ("softmax", "sampled")
    assert NONE == -1
