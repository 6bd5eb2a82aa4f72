"""Weights that come with a model, and those that were published beside it: who serves and who goes on learning."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.signals.blend import Blend
from streamer.core.signals.options import HIDDEN
from streamer.core.signals.rows import PAST, SignalRows
from streamer.core.signals.shared import MODELS, WARM_ROWS, SharedSignals
from streamer.core.signals.weights import Published, Shipped, encode_learner

TICK_MS = 250.0


def a_blend(seed: int, version: int = 7) -> Blend:
    blend = Blend(HIDDEN, 0.003, seed)
    rng = np.random.default_rng(seed)
    for name, each in blend.served.items():
        blend.served[name] = rng.standard_normal(each.shape).astype(np.float32)
    blend.version = version
    return blend


def rows(n: int, first: int = 0) -> SignalRows:
    return SignalRows(
        np.arange(first, first + n),
        1_000_000 + np.arange(first, first + n) * 1_000,
        (1 + np.arange(first, first + n) % 5).astype(np.uint64),
        np.ones(n, np.float32),
        np.zeros(n, np.int64),
        np.zeros((n, PAST), np.uint64),
    )


def has_begun(shared: SharedSignals) -> bool:
    return shared.signals is not None


def to_publish(shared: SharedSignals) -> str | None:
    """The model of the weights that the learner has to publish."""
    return None if shared.unpublished is None else shared.unpublished.model


def serving(shared: SharedSignals) -> np.ndarray:
    assert shared.signals is not None
    return shared.signals.blend.serving["linear"]


def test_shipped_weights_come_back_and_what_is_none_is_said() -> None:
    shipped = Shipped.of(a_blend(1), TICK_MS)
    again = Shipped.decode(shipped.learner)
    assert again == shipped
    for wrong in (b"", b"junk", encode_learner(a_blend(1), "m")):
        with pytest.raises(ValueError, match=r"."):
            Shipped.decode(wrong)
    with pytest.raises(ValueError, match="shape"):
        Shipped.decode(Shipped.of(Blend(HIDDEN + 1, 0.0, 0), TICK_MS).learner)
    with pytest.raises(ValueError, match="tick_ms"):
        Shipped.decode(Shipped.of(a_blend(1), 0.0).learner)


def test_names_are_unique_to_weights_and_model() -> None:
    named = [Published.of(a_blend(seed), None, model).name for seed in (1, 2) for model in ("a", "b")]
    named.append(Published.of(a_blend(1), 3, "a").name)
    assert len(set(named)) == 5
    again = Published.decode(named[0], Published.of(a_blend(1), None, "a").encode())
    assert (again.model, again.alone) == ("a", None)


def test_the_first_row_is_enough_where_weights_were_shipped() -> None:
    shipped, patient = SharedSignals(), SharedSignals()
    shipped.meet("a", Shipped.of(a_blend(1), TICK_MS))
    patient.meet("a", None)
    ready = [shipped.ready]
    for shared in (shipped, patient):
        shared.absorb(0, rows(1))
    assert [*ready, shipped.ready] == [False, True]
    assert shipped.signals is not None
    assert shipped.signals.options.tick_ms == TICK_MS
    np.testing.assert_array_equal(serving(shipped), a_blend(1).served["linear"])
    assert not has_begun(patient)
    patient.absorb(0, rows(WARM_ROWS, 1))
    assert has_begun(patient)
    assert not patient.ready, "nobody has learned any weights"


def test_rows_that_came_before_the_model_are_counted() -> None:
    shared = SharedSignals()
    shared.absorb(0, rows(10))
    shared.meet("a", Shipped.of(a_blend(1), TICK_MS))
    assert shared.signals is not None
    assert shared.signals.counts.events == 10


def test_weights_of_a_long_log_wait_for_counts() -> None:
    shared = SharedSignals()
    shared.meet("a", Shipped.of(a_blend(1), TICK_MS, rows=20))
    shared.absorb(0, rows(20))
    assert not shared.ready
    shared.absorb(1, rows(1))
    assert shared.ready


def test_published_weights_of_the_model_win_over_shipped_ones_and_others_wait() -> None:
    shared = SharedSignals()
    shared.serve(Published.of(a_blend(2), None, "a"))
    shared.serve(Published.of(a_blend(3), 4, "b"))
    shared.meet("a", Shipped.of(a_blend(1), TICK_MS))
    shared.absorb(0, rows(3))
    np.testing.assert_array_equal(serving(shared), a_blend(2).served["linear"])
    assert to_publish(shared) is None
    shared.serve(Published.of(a_blend(5), None, "b"))
    np.testing.assert_array_equal(serving(shared), a_blend(2).served["linear"])
    shared.meet("b", None)
    np.testing.assert_array_equal(serving(shared), a_blend(5).served["linear"])
    shared.meet("c", Shipped.of(a_blend(6), TICK_MS))
    np.testing.assert_array_equal(serving(shared), a_blend(6).served["linear"])
    assert to_publish(shared) == "c"
    shared.meet("a", None)  # a roll-back
    np.testing.assert_array_equal(serving(shared), a_blend(2).served["linear"])


def test_only_the_last_models_are_remembered() -> None:
    shared = SharedSignals()
    for each in range(MODELS + 1):
        shared.serve(Published.of(a_blend(each), None, str(each)))
    shared.meet("0", None)
    assert shared.published is None
    shared.meet("1", None)
    assert shared.published is not None


def test_learning_goes_on_from_the_learner_of_this_model_only() -> None:
    shared = SharedSignals()
    shared.meet("a", Shipped.of(a_blend(1, version=70), TICK_MS))
    shared.absorb(0, rows(3))
    assert shared.signals is not None
    assert shared.signals.blend.version == 70
    shared.go_on_from(encode_learner(a_blend(2, version=90), "b"))
    assert shared.signals.blend.version == 70
    shared.go_on_from(encode_learner(a_blend(2, version=80), "a"))
    assert shared.signals.blend.version == 80
    for wrong in (b"junk", Shipped.of(a_blend(1), TICK_MS).learner):
        with pytest.raises((ValueError, OSError)):
            shared.go_on_from(wrong)
    shared.meet("a", Shipped.of(a_blend(1, version=70), TICK_MS))
    assert shared.signals.blend.version == 80, "what could not be read left no trace"
