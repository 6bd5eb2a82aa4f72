"""First weights of the blend: learned on a tiny log by a model that has not seen its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_export import blending
from model_export.blending import first_blend
from model_export.interactions import Interactions
from model_export.training import Trained, train
from model_export.training_config import TrainingConfig
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.weights import Shipped, restore_learner

ITEMS, EVENTS, TICK_MS = 30, 1_500, 60_000


def a_log() -> Interactions:
    """After an even item mostly the one above it."""
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, 40, EVENTS), rng.integers(0, ITEMS, EVENTS)
    last: dict[int, int] = {}
    for at, each in enumerate(user.tolist()):
        if last.get(each, 1) % 2 == 0 and rng.random() < 0.9:
            item[at] = last[each] + 1
        last[each] = int(item[at])
    return Interactions(
        user=user,
        item=item,
        type=np.ones(EVENTS, np.uint8),
        value=np.zeros(EVENTS, np.float32),
        timestamp_ms=1_700_000_000_000 + np.arange(EVENTS) * TICK_MS,
        users=[f"u{row}" for row in range(40)],
        items=[ItemRecord(f"i{row}", f"item {row}") for row in range(ITEMS)],
    ).known_items_only()


@pytest.fixture(scope="module")
def trained() -> Trained:
    config = TrainingConfig(hidden=8, dim=8, epochs=1, validation_fraction=0.4, validation="time")
    content = np.random.default_rng(0).normal(size=(ITEMS, 384)).astype(np.float32)
    return train(a_log(), content, EventTypes.DEFAULT, config)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "ALONE_STEPS", 200)
    monkeypatch.setattr(blending, "STEPS", 100)


def test_the_blend_ships_its_clock_and_weights_that_are_better_than_the_model(trained: Trained) -> None:
    assert trained.earlier is not None
    assert trained.earlier.events == EVENTS * 6 // 10
    found = first_blend(trained, EventTypes.DEFAULT, 0)
    assert found is not None
    assert found.shipped.tick_ms == pytest.approx(TICK_MS, rel=0.01)
    assert Shipped.decode(found.shipped.learner) == found.shipped
    blend = Blend(HIDDEN, 0.0, 0)
    restore_learner(blend, found.shipped.learner)
    assert blend.version >= 300
    assert found.ndcg_at_10 > found.model_ndcg_at_10 + 0.1
    assert set(found.metrics) == {
        "validation_blend_ndcg_at_10",
        "validation_blend_model_alone_ndcg_at_10",
    }


def test_the_same_log_and_seed_give_the_same_weights(trained: Trained) -> None:
    first, second = (first_blend(trained, EventTypes.DEFAULT, 0) for _ in range(2))
    assert first is not None
    assert first == second


def test_too_little_ships_nothing(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_blend(replace(trained, earlier=None), EventTypes.DEFAULT, 0) is None
    monkeypatch.setattr(blending, "FEWEST", EVENTS)
    assert first_blend(trained, EventTypes.DEFAULT, 0) is None
