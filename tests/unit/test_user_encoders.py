from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.encoders import TransformerEncoder
from model_export.evaluating import TorchStepper, lists_after, stream_ranks, trained_catalogue
from model_export.export import export_artefact
from model_export.interactions import InteractionsBuilder
from model_export.network import ModelConfig, UserModel
from model_export.validation import HeldOut, judge
from streamer.core.event_types import EventTypes
from streamer.serving.model import Model
from tests.tiny_artefact import tiny_encoder

TYPES = EventTypes.DEFAULT


def content(items: int) -> np.ndarray:
    vectors = np.random.default_rng(1).standard_normal((items, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def model(encoder: str, window: int = 100) -> UserModel:
    torch.manual_seed(0)
    config = ModelConfig(
        items=20, hidden=8, dim=6, heads={"event_type": len(list(TYPES))}, encoder=encoder, window=window
    )
    return UserModel(config, torch.from_numpy(content(20))).eval()


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_a_state_depends_on_the_past_alone(encoder: str) -> None:
    network = model(encoder)
    item, gap, value = torch.randn(2, 9, 6), torch.rand(2, 9), torch.rand(2, 9)
    type = torch.randint(0, 32, (2, 9))
    states = network.sequence(item, type, gap, value)
    changed = item.clone()
    changed[:, 5:] = torch.randn(2, 4, 6)
    again = network.sequence(changed, type, gap, value)
    torch.testing.assert_close(again[:, :5], states[:, :5])
    assert not torch.allclose(again[:, 5:], states[:, 5:])


def test_a_window_may_be_cut_anywhere() -> None:
    """Distances count, not places: the same last events after nothing give the same state as at the end of a padded row."""
    network = model("transformer")
    item, gap, value = torch.randn(1, 9, 6), torch.rand(1, 9), torch.rand(1, 9)
    type = torch.randint(0, 32, (1, 9))
    alone = network.replay(item[:, :4], type[:, :4], gap[:, :4], value[:, :4], torch.tensor([4]))
    padded = network.replay(item, type, gap, value, torch.tensor([4]))
    torch.testing.assert_close(alone, padded)
    nothing = network.replay(item, type, gap, value, torch.tensor([0]))
    assert not nothing.any()


def test_attention_heads_must_divide_the_state() -> None:
    with pytest.raises(ValueError, match="3 attention heads do not divide a state of 8"):
        TransformerEncoder(6, 8, layers=1, attention=3, window=10, dropout=0.0)


def test_a_transformer_has_no_step() -> None:
    zeros = torch.zeros(1)
    with pytest.raises(TypeError, match="transformer has no step"):
        model("transformer").step(torch.zeros(1, 8), torch.zeros(1, 6), zeros.long(), zeros, zeros)


def log(users: int = 6, events: int = 9) -> InteractionsBuilder:
    rng = np.random.default_rng(5)
    builder = InteractionsBuilder(TYPES)
    for item in range(20):
        builder.add("nobody", str(item), "view", 0)
    for user in range(users):
        for place, item in enumerate(rng.integers(0, 20, events - user)):
            builder.add(str(user), str(item), "rating" if place % 2 else "view", 1000 * place, 3.0)
    return builder


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_validation_ranks_are_those_of_the_published_lists(encoder: str) -> None:
    """Whole sequences at once, against event by event as the worker does it; repeats and what was consumed included."""
    network, data = model(encoder), log().build()
    stepper = TorchStepper(network)
    lists = lists_after(stepper, trained_catalogue(stepper, None), data, TYPES)
    judged = judge(network, HeldOut.stream(data, TYPES), TYPES)
    order = np.argsort(judged.rows)
    np.testing.assert_array_equal(judged.ranks[order], stream_ranks(lists, data))
    assert judged.ranks.any()


def test_a_transformer_is_given_no_more_than_its_window() -> None:
    stepper = TorchStepper(model("transformer", window=3))
    data = log(users=1).build()
    catalogue = trained_catalogue(stepper, None)
    lists = lists_after(stepper, catalogue, data, TYPES, k=20)
    last = np.flatnonzero(data.user == data.users.index("0"))
    tail = lists_after(stepper, catalogue, data.take(last[-3:]), TYPES, k=20)[-1]
    earlier = last[:-3]
    consumed = set(data.item[earlier][data.type[earlier] == TYPES.by_name["rating"].code].tolist())
    assert [row for row in tail.tolist() if row not in consumed][:5] == lists[last[-1]].tolist()[:5]


def test_each_users_last_item_is_held_out() -> None:
    builder = InteractionsBuilder(TYPES)
    for second, (user, item) in enumerate(
        (("u", "a"), ("v", "a"), ("u", "b"), ("u", None), ("w", "c"), ("w", "a"))
    ):
        builder.add(user, item, "view" if item else "search", second)
    first, held_out = HeldOut.last_items(builder.build(), TYPES)
    assert sorted(zip(first.user.tolist(), first.item.tolist(), strict=True)) == [(0, 0), (1, 0), (2, 2)]
    assert [history.item[at] for history, at in zip(held_out.histories, held_out.first, strict=True)] == [
        1,
        0,
    ]
    assert len(held_out) == 2


def test_an_artefact_names_its_user_encoder(tmp_path: Path) -> None:
    network = model("transformer")
    path = export_artefact(
        network,
        tmp_path,
        item_ids=[str(row) for row in range(20)],
        content=content(20),
        popularity=np.ones(20, np.float32),
        head_labels={"event_type": [each.name for each in TYPES]},
        metrics={},
        seed=0,
        data_hash="0" * 16,
        window=100,
        encoder_dir=tiny_encoder(),
    )
    served = Model.load(path)
    assert served.manifest.user_encoder == "transformer"
    assert not served.recurrent
    assert not list(path.glob("gru_step*.onnx"))
    data = log().build()
    catalogue = trained_catalogue(TorchStepper(network), None)
    mine = lists_after(TorchStepper(network), catalogue, data, TYPES)
    np.testing.assert_array_equal(lists_after(served, catalogue, data, TYPES), mine)
