"""The path of a GPU, run on the CPU: buffers of powers of two, items that stay, a hot block, half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from streamer.core.protocol import ItemVector
from streamer.serving import bound
from streamer.serving.bound import BoundGraph, BoundSearch, power_of_two
from streamer.serving.catalogue import Catalogue
from streamer.serving.device import CPU, Device
from streamer.serving.ivf import brute_force, overlap
from streamer.serving.model import Model
from streamer.serving.session import Session, open_session
from streamer.serving.text_encoder import HALF_TOLERANCE, TextEncoder
from tests.contract.conftest import copy_and_change
from tests.tiny_artefact import item_texts

F32 = npt.NDArray[np.float32]

BOUND = Device("cpu", "a test", bound=True)
HALF = Device("cpu", "a test", bound=True, half=True)
NOBODY = np.zeros((0, 2), np.int64)


@pytest.fixture(scope="module")
def model(artefact: Path) -> Model:
    return Model.load(artefact, BOUND)


@pytest.fixture(scope="module")
def plain(artefact: Path) -> Model:
    return Model.load(artefact)


def states(users: int, seed: int = 0) -> F32:
    return np.tanh(np.random.default_rng(seed).standard_normal((users, 16), dtype=np.float32))


def catalogue(items: int = 300) -> tuple[F32, F32]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((items, 16), dtype=np.float32), rng.standard_normal(items, dtype=np.float32)


def test_powers_of_two() -> None:
    assert [power_of_two(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]


@pytest.mark.parametrize("users", [1, 3, 64, 65])
def test_states_and_heads_are_those_of_the_plain_path(model: Model, plain: Model, users: int) -> None:
    rng = np.random.default_rng(users)
    state, item = states(users), rng.standard_normal((users, 16), dtype=np.float32)
    kind, gap = rng.integers(0, 32, users), rng.random(users, dtype=np.float32)
    assert np.allclose(
        model.step(state, item, kind, gap, gap), plain.step(state, item, kind, gap, gap), atol=1e-6
    )
    assert np.allclose(model.query(state), plain.query(state), atol=1e-6)
    for task, p in plain.interests(state).items():
        assert np.allclose(model.interests(state)[task], p, atol=1e-6)


def test_results_are_not_overwritten_by_the_next_run(model: Model) -> None:
    first = model.query(states(5))
    before = first.copy()
    model.query(states(5, seed=1))
    assert (first == before).all()


def test_few_buffers_are_kept(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "BUFFERS", 2)
    graph = BoundGraph(open_session(artefact / "query.onnx", BOUND))
    expected = [graph.run_rows({"state": states(n)})[0] for n in (1, 5, 9)]
    assert [len(each) for each in expected] == [1, 5, 9]
    assert len(graph._buffers) == 2
    assert np.allclose(graph.run_rows({"state": states(1)})[0], expected[0])


def test_resident_items_in_several_runs(model: Model, plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, bias = catalogue()
    monkeypatch.setitem(bound.SCORES_PER_RUN, "cpu", 16 * 64 * 32)  # 16 users at a time
    rng = np.random.default_rng(5)
    excluded = np.stack([np.sort(rng.integers(0, 50, 900)), rng.integers(0, 300, 900)], axis=1)
    scores, rows = model.resident(vectors, bias).top_k(states(50), excluded, 12)
    expected, expected_rows = plain.score(states(50), vectors, bias, excluded, 12)
    assert np.allclose(scores, expected, atol=1e-5)
    assert (rows == expected_rows).mean() > 0.999  # near ties may turn


def test_as_many_as_there_are_items(model: Model, plain: Model) -> None:
    vectors, bias = catalogue(130)
    search = model.resident(vectors, bias)
    assert (
        search.top_k(states(3), NOBODY, 5)[1] == brute_force(plain.query(states(3)), vectors, bias, 5)
    ).all()
    _, rows = search.top_k(states(3), NOBODY, 500)
    assert [sorted(each) for each in rows.tolist()] == [list(range(130))] * 3


def test_other_biases_in_place(model: Model, plain: Model) -> None:
    vectors, bias = catalogue()
    search = model.resident(vectors, bias)
    search.top_k(states(4), NOBODY, 5)
    fewer = np.where(np.arange(300) % 3 == 0, bias, np.float32(-np.inf))
    _, rows = search.with_bias(fewer).top_k(states(4), NOBODY, 5)
    assert (rows == brute_force(plain.query(states(4)), vectors, fewer, 5)).all()


def test_half_precision_finds_nearly_the_same(artefact: Path, plain: Model) -> None:
    half = Model.load(artefact, HALF)
    vectors, bias = catalogue(2000)
    scores, rows = half.resident(vectors, bias).top_k(states(100), NOBODY, 20)
    exact = brute_force(plain.query(states(100)), vectors, bias, 20)
    assert 0.95 < overlap(exact, rows) <= 1.0
    assert np.allclose(scores[:, 0], plain.score(states(100), vectors, bias, NOBODY, 1)[0][:, 0], atol=0.05)


def test_changes_go_to_a_hot_block(model: Model, plain: Model) -> None:
    hot, cold = Catalogue(), Catalogue()
    encoder, rng = model.manifest.encoder, np.random.default_rng(6)
    for batch in ([f"i{i}" for i in range(40)], ["new1", "new2", "i3"], ["new1", "i7"]):
        for item_id in batch:
            content = rng.standard_normal(384).astype("<f2").tobytes()
            item = ItemVector(item_id, encoder, content, item_id != "i7", ["a"], 0, 1)
            hot.apply([(item_id, item)])
            cold.apply([(item_id, item)])
        one, other = hot.snapshot(model), cold.snapshot(plain)
        scores, rows = one.top_k(states(6), NOBODY, 8)
        expected, expected_rows = other.top_k(states(6), NOBODY, 8)
        assert [[one.ids[r] for r in each] for each in rows.tolist()] == [
            [other.ids[r] for r in each] for each in expected_rows.tolist()
        ]
        assert np.allclose(scores, expected, atol=1e-5)
    base, block = one.parts
    assert isinstance(base.search, BoundSearch)
    assert isinstance(block.search, BoundSearch)
    assert (base.size, one.ids[60:]) == (60, ["i3", "new1", "new2", "i7", "new1"])


def test_texts_in_half_precision(artefact: Path) -> None:
    exact = TextEncoder.load(artefact).encode(item_texts(9))
    half = TextEncoder.load(artefact, BOUND)
    assert np.abs(half.encode(item_texts(9)) - exact).max() < HALF_TOLERANCE
    assert half.digest == TextEncoder.load(artefact, CPU).digest


def test_what_does_not_work_in_half_precision_works_in_full(
    artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def swap(folder: Path) -> None:
        for file in ("device_scorer_f16.onnx", "encoder_f16.onnx"):
            (folder / file).write_bytes(b"no graph")

    broken = copy_and_change(artefact, tmp_path / "broken", swap, sign=True)
    model, encoder = Model.load(broken, HALF), TextEncoder.load(broken, BOUND)
    assert not model.device.half
    assert [text.partition(",")[0] for text in caplog.messages] == [
        "scores are computed in full precision",
        "texts are encoded in full precision",
    ]
    assert np.allclose(
        encoder.encode(item_texts(2)), TextEncoder.load(artefact).encode(item_texts(2)), atol=1e-5
    )


def test_a_run_that_cannot_be_captured_is_run_without_cuda_graphs(
    artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = ort.InferenceSession(str(artefact / "query.onnx"), providers=["CPUExecutionProvider"])

    class Refusing:
        """As a session whose run CUDA will not capture."""

        def __getattr__(self, name: str) -> object:
            return getattr(opened, name)

        def run_with_iobinding(self, *_: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    session = Session(Refusing(), BOUND, lambda: opened)
    before = session.captures
    found = BoundGraph(session).run_rows({"state": states(3)})[0]
    assert np.allclose(found, opened.run(None, {"state": states(3)})[0], atol=1e-6)
    assert (before, session.captures) == (True, False)
    assert "not permitted when stream is capturing" in caplog.text
