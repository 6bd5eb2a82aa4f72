from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.checkpoint import Checkpoint, version_of
from model_export.commands import main
from model_export.evaluating import (
    Catalogue,
    TorchStepper,
    item_catalogue,
    lists_after,
    prequential,
    previous_rows,
    quality,
    stream_ranks,
    trained_catalogue,
)
from model_export.interactions import NONE, Interactions, InteractionsBuilder
from model_export.network import ModelConfig, UserModel
from model_export.training import Epoch, Trained, TrainingConfig, schedule, train
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT
ITEMS = 30
CONFIG = TrainingConfig(hidden=16, dim=16, epochs=12, validation_fraction=0.0, batch_events=200, threads=1)


@cache
def chains() -> Interactions:
    """120 users, each on a ring of 30 items: after item i comes i + 1 (8 of 10 times) or any other."""
    rng = np.random.default_rng(3)
    builder = InteractionsBuilder(TYPES)
    for item in range(ITEMS):
        builder.add_item(ItemRecord(str(item), "", categories=["even" if item % 2 == 0 else "odd"]))
    for user in range(120):
        left = set(range(ITEMS))
        item = int(rng.integers(ITEMS))
        for place in range(12):
            left.discard(item)
            builder.add(str(user), str(item), "rating", (user * 10 + place) * 1000, float(rng.integers(1, 6)))
            following = (item + 1) % ITEMS
            item = following if following in left and rng.random() < 0.8 else int(rng.choice(sorted(left)))
    return builder.build().in_time_order(0)


def content(items: int) -> np.ndarray:
    vectors = np.random.default_rng(1).standard_normal((items, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@cache
def trained() -> Trained:
    return train(chains(), content(ITEMS), TYPES, CONFIG)


def model() -> UserModel:
    torch.manual_seed(0)
    config = ModelConfig(items=20, hidden=8, dim=6, heads={"category": 3})
    return UserModel(config, torch.from_numpy(content(20))).eval()


def test_stepping_event_by_event_equals_replaying() -> None:
    network = model()
    item, gap, value = torch.randn(4, 9, 6), torch.rand(4, 9), torch.rand(4, 9)
    type, lengths = torch.randint(0, 32, (4, 9)), torch.tensor([9, 4, 1, 0])
    state = torch.zeros(4, 8)
    for t in range(9):
        stepped = network.step(state, item[:, t], type[:, t], gap[:, t], value[:, t])
        state = torch.where((t < lengths)[:, None], stepped, state)
    torch.testing.assert_close(network.replay(item, type, gap, value, lengths), state, atol=1e-5, rtol=0)


def test_scores_leave_out_what_is_excluded() -> None:
    network = model()
    items, bias = network.item_table()
    excluded = torch.tensor([[0, 3], [1, 5], [1, 6]])
    scores, rows = network.score(torch.randn(2, 8), items, bias, excluded, torch.tensor([20]))
    assert rows[0, -1].item() == 3
    assert set(rows[1, -2:].tolist()) == {5, 6}
    assert scores.isneginf().sum().item() == 3
    nothing = torch.zeros((0, 2), dtype=torch.int64)
    assert network.score(torch.randn(2, 8), items, bias, nothing, torch.tensor([4]))[1].shape == (2, 4)


def test_an_untrained_item_is_its_text() -> None:
    network = model()
    vectors, bias = network.tower(network.content)
    torch.testing.assert_close(network.item_vectors(), vectors)
    assert network.item_vectors().shape == (20, 6)
    assert bias.shape == (20,)


def test_the_ring_is_learned() -> None:
    """80 % of the next items are the following one; a random list of 10 of the 18 left or more would have a rank of 5."""
    stepper = TorchStepper(trained().model)
    lists = lists_after(stepper, trained_catalogue(stepper, None), chains(), TYPES)
    found = quality(stream_ranks(lists, chains()))
    assert found["mrr_at_10"] > 0.6
    with torch.inference_mode():
        probabilities = trained().model.heads(torch.zeros(1, 16))
    assert {task: p.sum().item() for task, p in probabilities.items()} == pytest.approx(
        {"category": 1, "category_long_term": 1, "event_type": 1}
    )
    assert trained().head_labels["category"] == ["even", "odd"]
    rating = trained().head_labels["event_type"].index("rating")
    assert probabilities["event_type"][0].argmax().item() == rating


def test_the_same_seed_gives_the_same_weights() -> None:
    short = replace(CONFIG, epochs=2)
    first, second = (train(chains(), content(ITEMS), TYPES, short).model for _ in range(2))
    other = train(chains(), content(ITEMS), TYPES, replace(short, seed=8)).model
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.item_vectors(), other.item_vectors())


def test_early_stopping_refits_for_as_many_epochs_as_were_best() -> None:
    seen: list[Epoch] = []
    config = replace(CONFIG, validation_fraction=0.2, patience=1, epochs=30)
    result = train(chains(), content(ITEMS), TYPES, config, watch=seen.append)
    validated = [epoch for epoch in seen if epoch.fit == "validate"]
    refit = [epoch for epoch in seen if epoch.fit == "refit"]
    quality_of = [epoch.validation["ndcg_at_10"] for epoch in validated]
    assert len(validated) < 30
    assert quality_of.index(max(quality_of)) + 1 == result.epochs == len(refit)
    assert result.validation["ndcg_at_10"] == max(quality_of)
    assert refit[-1].loss < refit[0].loss


def test_nothing_to_learn_is_a_sentence() -> None:
    builder = InteractionsBuilder(TYPES)
    builder.add("u", "a", "view", 1)
    with pytest.raises(DataError, match="no next item to learn"):
        train(builder.build(), content(1), TYPES, CONFIG)


def test_events_without_item_or_with_text_are_learned_from() -> None:
    builder = InteractionsBuilder(TYPES)
    for second in range(6):
        builder.add("u", str(second), "view", second * 3000)
        builder.add("u", None, "search", second * 3000 + 1000, text=f"query {second}")
    data = builder.build()
    result = train(data, content(6), TYPES, replace(CONFIG, epochs=1), texts=content(6))
    stepper = TorchStepper(result.model)
    with_text = lists_after(stepper, trained_catalogue(stepper, content(6)), data, TYPES, k=6)
    assert sorted(with_text[-1].tolist()) == [0, 1, 2, 3, 4, 5]  # a view consumes nothing
    assert not np.array_equal(
        with_text, lists_after(stepper, trained_catalogue(stepper, None), data, TYPES, k=6)
    )


def test_lists_are_those_of_the_sequence_with_the_history_left_out() -> None:
    """Batched over users, step by step: the same as each user's own sequence, scored at each event."""
    network = trained().model
    data = chains().take(slice(0, 300))
    stepper = TorchStepper(network)
    lists = lists_after(stepper, trained_catalogue(stepper, None), data, TYPES, k=10)
    with torch.inference_mode():
        vectors, bias = network.item_table()
        for history in data.histories(TYPES)[:10]:
            inputs = vectors[torch.from_numpy(history.item)][None]
            kind = torch.from_numpy(history.type.astype(np.int64))[None]
            gap, value = torch.from_numpy(history.gap)[None], torch.from_numpy(history.value)[None]
            states = network.sequence(inputs, kind, gap, value)[0]
            scores = (network.query(states) @ vectors.T + bias).numpy()
            for t in range(len(history)):
                scores[t, history.item[: t + 1]] = -np.inf
                expected = np.sort(scores[t])[::-1][:10]
                found = scores[t, lists[history.rows[t]]]
                np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fewer_items_than_places_leave_places_empty() -> None:
    builder = InteractionsBuilder(TYPES)
    for second, item in enumerate("abc"):
        builder.add("u", item, "rating", second)
    stepper = TorchStepper(UserModel(ModelConfig(items=3), torch.from_numpy(content(3))))
    lists = lists_after(stepper, trained_catalogue(stepper, None), builder.build(), TYPES, k=5)
    assert (lists != NONE).sum(axis=1).tolist() == [2, 1, 0]


def test_an_event_is_judged_by_its_users_previous_list() -> None:
    assert previous_rows(np.array([5, 6, 5, 5, 6])).tolist() == [NONE, NONE, 0, 2, 1]
    builder = InteractionsBuilder(TYPES)
    for second, (user, item) in enumerate((("u", "a"), ("v", "b"), ("u", "b"))):
        builder.add(user, item, "rating", second)
    lists = np.array([[0, 1], [1, NONE], [0, 1]])
    assert stream_ranks(lists, builder.build()).tolist() == [0, 0, 2]


def test_prequential_agrees_with_the_ranks_and_judges_the_baselines_beside() -> None:
    past, rest = chains().split(0.7, seed=0)
    assert rest is not None
    stepper = TorchStepper(trained().model)
    catalogue = trained_catalogue(stepper, None)
    judge, published = prequential(stepper, catalogue, past, rest, TYPES)
    ranks = stream_ranks(published, rest)
    assert judge.ranks("stream").tolist() == ranks.tolist()
    assert set(judge.report()["ndcg_at_10"]) == {"stream", "popularity", "item_knn"}
    assert judge.report()["ndcg_at_10"]["stream"] > judge.report()["ndcg_at_10"]["popularity"]


def test_a_catalogue_takes_trained_vectors_and_the_tower_for_the_rest() -> None:
    def tower(contents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return contents[:, :2] * 10, contents[:, 0].copy()

    contents = np.ones((3, 384), np.float32)
    found = item_catalogue(
        ["x", "b", "a"],
        ["a", "b"],
        np.array([[1, 2], [3, 4]], np.float32),
        np.zeros(2, np.float32),
        contents,
        tower,
    )
    assert found.vectors.tolist() == [[10, 10], [3, 4], [1, 2]]
    assert found.bias.tolist() == [1, 0, 0]
    assert isinstance(found, Catalogue)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(progress, 0.1) for progress in (0.0, 0.05, 0.1, 0.55, 0.999)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0
    assert schedule(0.5, 0.0) == pytest.approx(0.5)


def test_a_checkpoint_is_the_model_it_was(tmp_path: Path) -> None:
    network = model()
    saved = Checkpoint(
        model=network,
        version=version_of(network, datetime(2026, 1, 31, 18, 45, 2, tzinfo=UTC)),
        item_ids=[str(row) for row in range(20)],
        popularity=np.arange(20, dtype=np.float32),
        head_labels={"category": ["a", "b", "c"]},
        metrics={"ndcg_at_10": 0.1},
        seed=7,
        data_hash="0" * 64,
        window=100,
    )
    assert saved.version.startswith("20260131-184502-")
    saved.save(tmp_path / "model.pt")
    loaded = Checkpoint.load(tmp_path / "model.pt")
    assert version_of(loaded.model, datetime(2026, 1, 31, 18, 45, 2, tzinfo=UTC)) == saved.version
    assert loaded.model.config == network.config
    assert loaded.popularity.tolist() == saved.popularity.tolist()
    assert (loaded.item_ids, loaded.head_labels, loaded.metrics) == (
        saved.item_ids,
        saved.head_labels,
        saved.metrics,
    )


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["export", "{dir}/none.pt"], "there is no checkpoint at"),
        (["export", "{dir}/text.pt"], "is no checkpoint"),
        (["train", "--data", "{dir}/none", "--out", "{dir}"], "there is no event log at"),
        (
            ["train", "--data", "{dir}", "--out", "{dir}", "--until-fraction", "1.5"],
            r"--until-fraction is 1\.5",
        ),
        (
            ["train", "--data", "{dir}", "--out", "{dir}", "--column", "uid"],
            "--column 'uid' is not NAME=COLUMN",
        ),
        (["evaluate", "{dir}", "--data", "{dir}", "--until", "0=5"], "--until '0=5' is not PARTITION:OFFSET"),
        (["evaluate", "{dir}", "--data", "x", "--event-types", "{dir}/text.pt"], "cannot read event types"),
    ],
)
def test_a_mistake_is_a_sentence(argv: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(DataError, match=sentence):
        main([word.replace("{dir}", str(tmp_path)) for word in argv])
