"""The GPU path beside its floor and beside the CPU: users per second for step + top-20, sentences per second.

`python -m benchmarks.gpu [--json FILE] [--quick]`

Needs neither a broker nor data, and runs wherever there is a GPU; where there is none it says so, and the same code runs on
the CPU. The floor of a batch is what the device would need if it did nothing but read the items and multiply: bytes over
memory bandwidth or FLOPs over the rate of its matrix product, whichever takes longer, both measured in the same run.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import device_limits, device_models
from benchmarks.figures import Figure, Result, parser, report
from streamer.core.manifest import EXACT_ITEMS
from streamer.serving import ivf
from streamer.serving.device import CPU, Device, choose_device
from streamer.serving.exact import F32, Search
from streamer.serving.model import Model
from streamer.serving.text_encoder import TextEncoder

NAME = "gpu"
TOP, TOKENS, SENTENCES = 20, 32, 512
NOBODY = np.zeros((0, 2), np.int64)
EMBEDDING, LAYERS = 384, 6
"""Of MiniLM."""


@dataclass(frozen=True)
class Plan:
    """dims, items, batches: what is combined. seconds: of one run of a figure, of which there are `runs`."""

    dims: tuple[int, ...] = (64, 128)
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    batches: tuple[int, ...] = (64, 512, 4096)
    seconds: float = 0.5
    runs: int = 3
    sentences: int = SENTENCES


QUICK = Plan((64,), (10_000,), (64, 512), 0.1, 1, 32)


def rates(work: Callable[[], object], units: int, plan: Plan) -> list[float]:
    """Units per second of each run; the first call of all is not counted."""
    work()
    found = []
    for _ in range(plan.runs):
        calls, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < plan.seconds or calls == 0:
            work()
            calls += 1
        found.append(units * calls / spent)
    return found


def catalogue(items: int, dim: int) -> tuple[F32, F32]:
    """vectors (N, D) in clusters, as trained ones lie, and bias (N,)."""
    rng = np.random.default_rng(items + dim)
    centres = rng.standard_normal((max(items // 500, 1), dim), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), items)]
    vectors += 0.7 * rng.standard_normal((items, dim), dtype=np.float32)
    return vectors, 0.5 * rng.standard_normal(items, dtype=np.float32)


def users_per_s(model: Model, search: Search, users: int, plan: Plan) -> list[float]:
    """Step the states of a batch and search its lists, from host arrays to host arrays."""
    rng = np.random.default_rng(users)
    state = np.tanh(rng.standard_normal((users, model.hidden), dtype=np.float32))
    item = model.item_vectors[rng.integers(0, len(model.item_ids), users)]
    kind, gap = rng.integers(1, 4, users), rng.random(users, dtype=np.float32)

    def batch() -> None:
        search.top_k(model.step(state, item, kind, gap, gap), NOBODY, TOP)

    return rates(batch, users, plan)


def cpu_search(model: Model, vectors: F32, bias: F32) -> tuple[Search, float]:
    """As a worker without a GPU would search this catalogue; the recall of its top 20."""
    if len(bias) <= EXACT_ITEMS:
        return model.search(vectors, bias), 1.0
    rng = np.random.default_rng(1)
    lists = ivf.train(vectors, bias)
    state = np.tanh(rng.standard_normal((128, model.hidden), dtype=np.float32))
    spec = ivf.measured(model.query, state, vectors, bias, lists, TOP)
    return ivf.IvfSearch(model.query, vectors, bias, lists, spec.nprobe), spec.recall


class Bench:
    def __init__(self, device: Device, plan: Plan, folder: Path) -> None:
        self._device, self._plan, self._folder = device, plan, folder
        self._half = Device(device.kind, device.reason, device.strict, bound=True, half=True)
        self.figures: dict[str, Figure] = {}

    def run(self) -> dict[str, Figure]:
        self._limits()
        for dim in self._plan.dims:
            path = device_models.build(self._folder, dim)
            models = {"f32": Model.load(path, self._device), "f16": Model.load(path, self._half)}
            host = Model.load(path, CPU)
            for items in self._plan.items:
                self._top_k(models, host, items, dim)
            if dim == self._plan.dims[0]:
                self._sentences(path)
        return self.figures

    def _note(self, key: str, runs: list[float], unit: str) -> None:
        self.figures[key] = Figure.of(runs, unit)
        print(f"{key}: {statistics.median(runs):,.0f} {unit}", flush=True)

    def _limits(self) -> None:
        self._bandwidth = device_limits.bandwidth(self._device, self._plan.seconds)
        self._flops = {
            name: device_limits.flops(self._device, self._plan.seconds, dtype)
            for name, dtype in (("f32", np.float32), ("f16", np.float16))
        }
        self._note("bandwidth", [self._bandwidth / 1e9], "GB/s")
        for name, rate in self._flops.items():
            self._note(f"{name}_rate", [rate / 1e9], "GFLOP/s")

    def _top_k(self, models: dict[str, Model], host: Model, items: int, dim: int) -> None:
        vectors, bias = catalogue(items, dim)
        search, recall = cpu_search(host, vectors, bias)
        exact = None
        self._note(f"cpu_recall_d{dim}_n{items}", [recall], "of the exact top 20")
        for name, model in models.items():
            resident = model.resident(vectors, bias)
            state = np.tanh(np.random.default_rng(2).standard_normal((64, dim), dtype=np.float32))
            _, found = resident.top_k(state, NOBODY, TOP)
            exact = found if exact is None else exact
            if name == "f16":
                self._note(f"f16_overlap_d{dim}_n{items}", [ivf.overlap(exact, found)], "of the f32 top 20")
            for users in self._plan.batches:
                key = f"{name}_d{dim}_n{items}_b{users}"
                self._note(f"users_per_s_{key}", users_per_s(model, resident, users, self._plan), "users/s")
                self._note(f"floor_users_per_s_{key}", [self._floor(name, items, dim, users)], "users/s")
            del resident
        for users in self._plan.batches:
            key = f"cpu_users_per_s_d{dim}_n{items}_b{users}"
            self._note(key, users_per_s(host, search, users, self._plan), "users/s")

    def _floor(self, name: str, items: int, dim: int, users: int) -> float:
        size = 2 if name == "f16" else 4
        read = (items * (dim + 1) * size) / self._bandwidth
        product = (2 * users * items * dim + 2 * users * 3 * dim * (2 * dim + 10)) / self._flops[name]
        return users / max(read, product)

    def _sentences(self, path: Path) -> None:
        n = self._plan.sentences
        layer = 2 * 12 * EMBEDDING**2 * TOKENS + 4 * TOKENS**2 * EMBEDDING
        for name, device in ((self._device.kind, self._device), ("cpu_f32", CPU)):
            encoder = TextEncoder.load(path, device)
            texts = list(sentences(n))
            found = rates(functools.partial(encoder.encode, texts), n, self._plan)
            self._note(f"sentences_per_s_{name}", found, "sentences/s")
        self._note("floor_sentences_per_s", [max(self._flops.values()) / (LAYERS * layer)], "sentences/s")


def sentences(n: int) -> Iterator[str]:
    """Texts of exactly TOKENS tokens, [CLS] and [SEP] included: one common word is one token."""
    words = ["film", "book", "good", "bad", "about", "number", "item", "the"]
    rng = np.random.default_rng(3)
    for _ in range(n):
        yield " ".join(rng.choice(words, TOKENS - 2).tolist())


def measure(*, quick: bool = False) -> Result:
    plan, device = QUICK if quick else Plan(), choose_device("auto")
    if device.kind == "cpu":
        print(f"No GPU here, so the GPU's path runs on the CPU: {device.reason}", flush=True)
        device = Device("cpu", device.reason, bound=True)
    print(f"device: {device_limits.name(device)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="headwater-gpu-") as folder:
        figures = Bench(device, plan, Path(folder)).run()
    result = Result.here(NAME, figures)
    result.machine["device"] = device_limits.name(device)
    return result


def main() -> None:
    options = parser(__doc__).parse_args()
    report(measure(quick=options.quick), options)


if __name__ == "__main__":
    main()
