"""After warm_up nothing is compiled any more, whatever lists and profiles are made of."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from streamer.core import json_kernels, ranking_kernels
from streamer.core.compiled import fixed
from streamer.core.event_types import EventTypes
from streamer.core.profile import CategoryTexts, LabelTexts, profiles
from streamer.core.ranking import ItemTexts, because, rank, recommendations
from streamer.core.stamp import Stamp
from streamer.core.state_records import fresh_head
from streamer.core.user_state import UserStates
from streamer.core.warm_up import warm_up
from streamer.serving import selection

MODULES = (json_kernels, ranking_kernels, selection)


def specialisations(module: ModuleType) -> dict[str, int]:
    kernels: dict[str, Any] = {name: each for name, each in vars(module).items() if hasattr(each, "py_func")}
    return {name: len(each.signatures) for name, each in kernels.items() if each.signatures}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_compiled_after_warm_up(n: int, frozen: bool) -> None:
    warm_up()
    selection.warm_up()
    before = {module.__name__: specialisations(module) for module in MODULES}
    vectors, bias = np.ones((4, 3), np.float32), np.zeros(4, np.float32)
    if frozen:
        vectors, bias = fixed(vectors), fixed(bias)
    scores, rows = np.empty((n, 2), np.float32), np.empty((n, 2), np.int64)
    selection.best(np.ones((n, 4), np.float32), bias, np.zeros((1, 2), np.int64), scores, rows)
    scores, rows, _ = rank(scores, rows)
    reasons = because(np.zeros((n, 5), np.int64), rows, vectors)
    states = UserStates.load(
        [b"u%d" % i for i in range(n)], dict[bytes, bytes]().get, 2, 10, EventTypes.DEFAULT
    )
    heads, zeros = np.concatenate([fresh_head(2, 7)] * n), np.zeros(n, np.int64)
    stamp = Stamp.of(heads, [b"u"] * n, "m", ["events"], zeros, zeros)
    items = ItemTexts(["a", "b", "c", "d"])
    recommendations(scores, rows, reasons, np.ones(n, np.bool_), stamp, items)
    recommendations(scores, rows, reasons, np.ones(n, np.bool_), stamp, items, signals=reasons, weights="w")
    for tasks in ({}, {"one": (LabelTexts(["a"]), np.ones((n, 1), np.float32))}):
        users = np.arange(n)
        profiles(states, users, stamp, tasks=tasks, categories=CategoryTexts({}), types=EventTypes.DEFAULT)
    assert {module.__name__: specialisations(module) for module in MODULES} == before
