"""The state's kernels: plain formulations of them, and no compilation in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamer.core import absorb_kernels, counts_kernels, interests_kernels, window_kernels
from streamer.core.columns import EventColumns
from streamer.core.event_types import EventTypes
from streamer.core.interests import Decay, add
from streamer.core.runs import Runs
from streamer.core.state_records import INTEREST, INTEREST_SLOTS
from streamer.core.user_state import Outcome, UserStates
from streamer.core.warm_up import warm_up

Slots = list[list[float]]
"""Of one user: label, short and long weight."""


def added(slots: Slots, time: int, event: tuple[int, list[int], float], decay: Decay) -> int:
    """One event onto one user's slots, straight from the definition; the new time."""
    at, labels, weight = event
    for slot in slots:
        slot[1] *= 2 ** (-max(at - time, 0) / decay.short_ms)
        slot[2] *= 2 ** (-max(at - time, 0) / decay.long_ms)
    for label in labels:
        named = [slot for slot in slots if slot[0] == label]
        free = [slot for slot in slots if slot[0] == 0]
        if not named:
            named = free[:1] or [min(slots, key=lambda slot: slot[2])]
            named[0][:] = [label, 0.0, 0.0]
        late = max(time - at, 0)
        named[0][1] += weight / len(labels) * 2 ** (-late / decay.short_ms)
        named[0][2] += weight / len(labels) * 2 ** (-late / decay.long_ms)
    return max(time, at)


@pytest.mark.parametrize("labels", [5, 12, 40])
def test_interests_are_added_one_event_after_the_other(labels: int) -> None:
    rng = np.random.default_rng(labels)
    decay = Decay(50_000, 900_000)
    users, n = 6, 400
    user, time = rng.integers(0, users, n), rng.integers(1, 1_000_000, n)
    named = rng.integers(1, labels + 1, (n, 4)).astype(np.uint32)
    named[np.arange(4) >= rng.integers(1, 5, n)[:, None]] = 0
    weight = rng.random(n, np.float32) + np.float32(0.1)
    plain: list[Slots] = [[[0.0] * 3 for _ in range(INTEREST_SLOTS)] for _ in range(users)]
    newest = [0] * users
    for each in range(n):
        who = int(user[each])
        event = (int(time[each]), [int(label) for label in named[each] if label], float(weight[each]))
        newest[who] = added(plain[who], newest[who], event, decay)
    runs = Runs.of(user)
    found, times = add(
        np.zeros((users, INTEREST_SLOTS), INTEREST),
        np.zeros(users, np.int64),
        runs,
        time[runs.order],
        named[runs.order],
        weight[runs.order],
        decay,
    )
    assert times.tolist() == newest
    for who in range(users):
        expected = [tuple(slot) for slot in plain[who]]
        assert found["label"][who].tolist() == [slot[0] for slot in expected]
        np.testing.assert_allclose(found["short"][who], [slot[1] for slot in expected], rtol=1e-4)
        np.testing.assert_allclose(found["long"][who], [slot[2] for slot in expected], rtol=1e-4)


def test_the_outcomes_have_the_same_codes() -> None:
    kernel = (
        absorb_kernels.APPLIED, absorb_kernels.REPLAYED, absorb_kernels.LATE, absorb_kernels.DUPLICATE,
            absorb_kernels.REFRESH,
    )  # fmt: skip
    assert kernel == tuple(Outcome)


def test_a_batch_compiles_nothing_after_the_warm_up() -> None:
    warm_up()
    kernels: list[Any] = [
        absorb_kernels.absorb,
        interests_kernels.add,
        counts_kernels.merge,
        counts_kernels.by_type,
        window_kernels.items,
        window_kernels.recent,
    ]
    compiled = [len(kernel.signatures) for kernel in kernels]
    for hidden in (3, 8):
        for users in (1, 7):
            keys = [str(user).encode() for user in range(users)]
            states = UserStates.load(keys, dict[bytes, bytes]().get, hidden, 20, EventTypes.DEFAULT)
            n = 60 * users
            states.absorb_all(
                EventColumns(
                    user=np.arange(n) % users,
                    offset=np.arange(n),
                    time=np.arange(n),
                    type=np.ones(n, np.uint8),
                    value=np.zeros(n, np.float32),
                    item=np.ones(n, np.uint64),
                    event=np.arange(1, n + 1, dtype=np.uint32),
                    known=np.ones(n, np.bool_),
                    labels=np.ones((n, 6), np.uint32),
                    person=np.zeros(n, np.bool_),
                )
            )
            view = states.view(np.arange(users), 16)
            assert view.heads["version"].tolist() == [60] * users
            assert view.activity(np.arange(users)).sum() == 3 * n
            assert (view.recent == 1).all()
            states.changes()
    assert [len(kernel.signatures) for kernel in kernels] == compiled == [1] * len(kernels)
