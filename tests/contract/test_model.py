"""What every scorer promises, asked of the ONNX model and of a fake in numpy; and what Model.load refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from streamer.core.hashing import model_number
from streamer.errors import (
    ArtefactError,
    DigestMismatch,
    ManifestInvalid,
    ParityMismatch,
    StateError,
    TensorMismatch,
)
from streamer.serving import exact
from streamer.serving.device import CPU, Device
from streamer.serving.model import Model
from streamer.serving.parity import read_pairs, write_pairs
from streamer.serving.session import open_session

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Damage = Callable[..., Path]

BOUND = Device("cpu", "a test", bound=True)
NOBODY = np.zeros((0, 2), np.int64)


class Scorer(Protocol):
    def score(self, state: F32, items: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]: ...


class NumpyScorer:
    """The same top-k by a stable sort; the projection to the query is read from the artefact's graph."""

    def __init__(self, artefact: Path) -> None:
        graph = onnx.load(str(artefact / "scorer.onnx")).graph
        weights = [numpy_helper.to_array(w) for w in graph.initializer]
        self._weight = next(w for w in weights if w.ndim == 2)  # (D, H)
        self._bias = next(w for w in weights if w.ndim == 1 and w.dtype == np.float32 and len(w) > 1)  # (D,)

    def score(self, state: F32, items: F32, bias: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        k = min(k, len(items))
        scores = (state @ self._weight.T + self._bias) @ items.T + bias
        scores[excluded[:, 0], excluded[:, 1]] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, rows, axis=1)
        return best.astype(np.float32), np.where(np.isneginf(best), -1, rows)


@pytest.fixture(scope="module")
def model(artefact: Path) -> Model:
    return Model.load(artefact)


@pytest.fixture(scope="module")
def bound(artefact: Path) -> Model:
    """The path of a GPU, on the CPU."""
    return Model.load(artefact, BOUND)


@pytest.fixture(params=["onnx", "bound", "numpy"])
def scorer(request: pytest.FixtureRequest, artefact: Path, model: Model, bound: Model) -> Scorer:
    scorers: dict[str, Scorer] = {"onnx": model, "bound": bound, "numpy": NumpyScorer(artefact)}
    return scorers[request.param]


def states(users: int, seed: int = 0) -> F32:
    return np.tanh(np.random.default_rng(seed).standard_normal((users, 16), dtype=np.float32))


def test_the_best_come_first_and_the_excluded_not_at_all(scorer: Scorer, model: Model) -> None:
    state = states(5)
    everything, order = scorer.score(state, model.item_vectors, model.item_bias, NOBODY, 60)
    assert (np.diff(everything, axis=1) <= 0).all()
    assert [sorted(rows) for rows in order.tolist()] == [list(range(60))] * 5
    best_of_user_2 = np.array([[2, order[2, 0]], [2, order[2, 1]]])
    _, rows = scorer.score(state, model.item_vectors, model.item_bias, best_of_user_2, 3)
    assert rows[2].tolist() == order[2, 2:5].tolist()
    assert rows[[0, 1, 3, 4]].tolist() == order[[0, 1, 3, 4], :3].tolist()


def test_ties_go_to_the_lowest_row(scorer: Scorer, model: Model) -> None:
    same = np.repeat(model.item_vectors[:1], 50, axis=0)
    bias = np.zeros(50, np.float32)
    bias[33] = 1.0
    _, rows = scorer.score(states(3), same, bias, np.array([[1, 0], [1, 2]]), 4)
    assert rows.tolist() == [[33, 0, 1, 2], [33, 1, 3, 4], [33, 0, 1, 2]]


def test_fewer_items_than_k(scorer: Scorer, model: Model) -> None:
    scores, rows = scorer.score(states(2), model.item_vectors[:3], model.item_bias[:3], NOBODY, 10)
    assert scores.shape == rows.shape == (2, 3)
    assert sorted(rows[0].tolist()) == [0, 1, 2]


def test_what_is_left_when_most_or_all_is_excluded(scorer: Scorer, model: Model) -> None:
    excluded = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]])
    scores, rows = scorer.score(states(2), model.item_vectors[:3], model.item_bias[:3], excluded, 3)
    assert rows.tolist() == [[-1, -1, -1], [1, -1, -1]]
    assert np.isneginf(scores[0]).all()
    assert np.isfinite(scores[1]).tolist() == [True, False, False]


def test_a_bias_of_minus_infinity_takes_an_item_out(scorer: Scorer, model: Model) -> None:
    bias = model.item_bias.copy()
    bias[:58] = -np.inf
    _, rows = scorer.score(states(4), model.item_vectors, bias, NOBODY, 3)
    assert [sorted(r) for r in rows.tolist()] == [[-1, 58, 59]] * 4


def test_no_items_no_users(scorer: Scorer, model: Model) -> None:
    scores, rows = scorer.score(states(2), model.item_vectors[:0], model.item_bias[:0], NOBODY, 10)
    assert scores.shape == rows.shape == (2, 0)
    scores, rows = scorer.score(states(0), model.item_vectors, model.item_bias, NOBODY, 10)
    assert scores.shape == rows.shape == (0, 10)


def test_onnx_and_numpy_agree_over_several_blocks(
    artefact: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "SCORES_PER_BLOCK", 20 * 60)
    monkeypatch.setattr(exact, "LEAST_USERS", 1)
    rng = np.random.default_rng(1)
    excluded = np.stack([rng.integers(0, 130, 700), rng.integers(0, 60, 700)], axis=1)  # in no order of users
    state = states(130)
    scores, rows = model.score(state, model.item_vectors, model.item_bias, excluded, 10)
    expected, expected_rows = NumpyScorer(artefact).score(
        state, model.item_vectors, model.item_bias, excluded, 10
    )
    assert np.allclose(scores, expected, atol=1e-5)
    assert (rows == expected_rows).mean() > 0.999  # near ties may turn


def test_the_scorer_for_onnxruntime_alone_finds_the_same(artefact: Path, model: Model) -> None:
    scorer = open_session(artefact / "scorer.onnx", CPU)
    items, k = np.ascontiguousarray(np.repeat(model.item_vectors, 3, axis=0)), np.array([12])
    bias, excluded = np.repeat(model.item_bias, 3), np.array([[0, 5], [3, 179], [3, 7]])
    feeds = {"state": states(70), "items": items.T.copy(), "bias": bias, "excluded": excluded, "k": k}
    expected, expected_rows = scorer.run(feeds)
    scores, rows = model.score(states(70), items, bias, excluded, 12)
    assert (scores == expected).all()
    assert (rows == expected_rows).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused(model: Model, value: float) -> None:
    state = states(5)
    state[3, 7] = value
    with pytest.raises(StateError, match="row 3 of 5"):
        model.score(state, model.item_vectors, model.item_bias, NOBODY, 10)


@pytest.mark.parametrize("pair", [[0, -1], [0, 60], [2, 0], [-1, 0]])
def test_an_exclusion_outside_is_refused(model: Model, pair: list[int]) -> None:
    with pytest.raises(ValueError, match="excluded names"):
        model.score(states(2), model.item_vectors, model.item_bias, np.array([pair]), 10)


def test_step_does_not_depend_on_the_batch(model: Model) -> None:
    rng = np.random.default_rng(2)
    item = rng.standard_normal((9, 16), dtype=np.float32)
    type_, gap = rng.integers(0, 32, 9), rng.random(9, dtype=np.float32)
    together = model.step(states(9), item, type_, gap, gap)
    alone = [
        model.step(states(9)[i : i + 1], item[i : i + 1], type_[i : i + 1], gap[i : i + 1], gap[i : i + 1])
        for i in range(9)
    ]
    assert np.allclose(together, np.concatenate(alone), atol=1e-6)
    assert model.step(states(0), item[:0], type_[:0], gap[:0], gap[:0]).shape == (0, 16)


@pytest.mark.parametrize("device", ["onnx", "bound"])
@pytest.mark.parametrize("cut", [0, 1, 6, 11])
def test_steps_go_through_whole_runs_wherever_they_are_cut(
    model: Model, bound: Model, device: str, cut: int
) -> None:
    asked = {"onnx": model, "bound": bound}[device]
    rng = np.random.default_rng(4)
    item = rng.standard_normal((11, 5, 16), dtype=np.float32)
    type_, gap = rng.integers(0, 32, (11, 5)), rng.random((11, 5), dtype=np.float32)
    one_by_one = states(5)
    for t in range(11):
        stepped = model.step(one_by_one, item[t], type_[t], gap[t], gap[t])
        one_by_one = stepped.astype(np.float16).astype(np.float32)
    state = states(5)
    for part in (slice(0, cut), slice(cut, 11)):
        state = asked.steps(state, item[part], type_[part], gap[part], gap[part])
    # Both are rounded to half precision after every event; a sum in another order may turn to the next number.
    assert np.array_equal(state, state.astype(np.float16))
    assert np.allclose(state, one_by_one, atol=2e-3)
    assert (np.abs(state - one_by_one) < 1e-4).mean() > 0.75  # without rounding in between: 0.6
    assert asked.steps(states(0), item[:, :0], type_[:, :0], gap[:, :0], gap[:, :0]).shape == (0, 16)


def test_replay_ignores_what_lies_behind_the_length(model: Model) -> None:
    rng = np.random.default_rng(3)
    item, type_ = rng.standard_normal((3, 6, 16), dtype=np.float32), rng.integers(0, 32, (3, 6))
    gap = rng.random((3, 6), dtype=np.float32)
    state = model.replay(item, type_, gap, gap, np.array([6, 2, 0]))
    assert np.allclose(
        state[1:2],
        model.replay(item[1:2, :2], type_[1:2, :2], gap[1:2, :2], gap[1:2, :2], np.array([2])),
        atol=1e-6,
    )
    assert not state[2].any()
    with pytest.raises(ValueError, match="6 columns"):
        model.replay(item, type_, gap, gap, np.array([7, 2, 0]))


def test_interests_are_probabilities_of_the_labels(model: Model) -> None:
    interests = model.interests(states(7))
    assert {task: p.shape for task, p in interests.items()} == {"category": (7, 3), "event_type": (7, 4)}
    assert all(np.allclose(p.sum(axis=1), 1.0, atol=1e-6) for p in interests.values())
    assert {task: p.shape for task, p in model.interests(states(0)).items()} == {
        "category": (0, 3),
        "event_type": (0, 4),
    }


def test_a_model_knows_its_items(model: Model) -> None:
    assert model.item_ids[:3] == ["i0", "i1", "i2"]
    assert model.item_vectors.shape == (60, 16)
    assert model.popularity[0] > model.popularity[59] > 0
    assert model.number == model_number(model.version)


# ---- what load refuses


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "gru_step.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "gru_step.onnx").write_bytes(content)


def nudge_a_weight(folder: Path) -> None:
    graph = onnx.load(str(folder / "gru_step.onnx"))
    weight = max(graph.graph.initializer, key=lambda w: int(np.prod(w.dims)))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(1e-3), weight.name))
    onnx.save(graph, str(folder / "gru_step.onnx"))


def test_a_changed_file(damaged: Damage) -> None:
    with pytest.raises(DigestMismatch, match=r"gru_step\.onnx"):
        Model.load(damaged(flip_a_byte, sign=False))


@pytest.mark.parametrize("file", ["parity.npz", "encoder.onnx", "items.ids"])
def test_a_missing_file(damaged: Damage, file: str) -> None:
    with pytest.raises(DigestMismatch, match="absent"):
        Model.load(damaged(lambda folder: (folder / file).unlink(), sign=False))


def test_other_weights(damaged: Damage) -> None:
    with pytest.raises(ParityMismatch, match="next_state"):
        Model.load(damaged(nudge_a_weight, sign=True))


def test_runs_stepped_with_other_weights(damaged: Damage) -> None:
    def swap_a_weight(folder: Path) -> None:
        graph = onnx.load(str(folder / "gru_steps.onnx"))
        weight = max(graph.graph.initializer, key=lambda w: int(np.prod(w.dims)))
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
        onnx.save(graph, str(folder / "gru_steps.onnx"))

    with pytest.raises(ParityMismatch, match="steps: next_state"):
        Model.load(damaged(swap_a_weight, sign=True))


def test_another_graph(damaged: Damage) -> None:
    swap = damaged(lambda folder: shutil.copy(folder / "heads.onnx", folder / "item_tower.onnx"), sign=True)
    with pytest.raises(TensorMismatch, match=r"item_tower\.onnx"):
        Model.load(swap)


def test_no_onnx_at_all(damaged: Damage) -> None:
    with pytest.raises(ArtefactError, match=r"heads\.onnx cannot be opened"):
        Model.load(damaged(lambda folder: (folder / "heads.onnx").write_bytes(b"no graph"), sign=True))


def test_golden_pairs_of_another_shape(damaged: Damage) -> None:
    def shorten(folder: Path) -> None:
        kept = read_pairs(folder)
        kept["heads.out.category"] = kept["heads.out.category"][:-1]
        write_pairs(folder, kept)

    with pytest.raises(ParityMismatch, match="heads: category has shape"):
        Model.load(damaged(shorten, sign=True))


def test_tables_that_do_not_fit(damaged: Damage) -> None:
    short = damaged(lambda folder: np.save(folder / "items.bias.npy", np.zeros(59, np.float32)), sign=True)
    with pytest.raises(ArtefactError, match=r"items\.bias\.npy is float32\(59,\)"):
        Model.load(short)


def test_tables_with_nan(damaged: Damage) -> None:
    nan = damaged(
        lambda folder: np.save(folder / "unknown.f32.npy", np.full(16, np.nan, np.float32)), sign=True
    )
    with pytest.raises(ArtefactError, match="NaN"):
        Model.load(nan)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestInvalid, match="cannot be read"):
        Model.load(tmp_path)
