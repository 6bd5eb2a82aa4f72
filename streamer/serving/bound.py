"""Graphs with their inputs and outputs held on the device: IOBinding over buffers that are made once.

Batches are padded to powers of two, so that few sizes exist: each has buffers, and a CUDA graph where the session allows
it. The same path runs on the CPU (`Device("cpu", …, bound=True)`), which is how it is tested.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from streamer.core.manifest import GROUP
from streamer.serving.exact import F32, I64, blocks
from streamer.serving.session import Array, Session

BUFFERS = 24
"""Batch shapes whose buffers are kept, the last used ones."""
LEAST_GROUPS = 32
SCORES_PER_RUN = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Scores (users × columns) at a time: 512 MiB on a device."""


@dataclass(eq=False)
class _Buffers:
    """One batch shape: inputs, outputs, and what binds them."""

    binding: ort.IOBinding
    inputs: dict[str, ort.OrtValue]
    outputs: list[ort.OrtValue]
    options: ort.RunOptions | None


class BoundGraph:
    """A session run through bound buffers. One run at a time; callers wait for each other."""

    def __init__(self, session: Session, fixed: Mapping[str, ort.OrtValue] | None = None) -> None:
        """`fixed`: inputs that stay, by name."""
        self._session, self._device, self._fixed = session, session.device, dict(fixed or {})
        self._buffers: OrderedDict[tuple[tuple[int, ...], ...], _Buffers] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Array], outputs: Mapping[str, tuple[int, ...]]) -> list[Array]:
        """Inputs whose sizes are few (`padded`), shapes of the outputs → the outputs, as new arrays."""
        with self._lock:
            key = tuple(array.shape for array in feeds.values())
            while True:
                buffers = self._buffers.get(key)
                if buffers is None:
                    buffers = self._buffers[key] = self._made(feeds, outputs)
                    while len(self._buffers) > BUFFERS and not self._session.captures:
                        self._buffers.popitem(last=False)
                self._buffers.move_to_end(key)
                for name, array in feeds.items():
                    buffers.inputs[name].update_inplace(array)
                if self._session.run_bound(buffers.binding, buffers.options):
                    return [np.array(value.numpy()) for value in buffers.outputs]
                self._buffers.clear()

    def run_rows(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Inputs and outputs all have one row per user (n, …); the rows are padded on the way."""
        rows = len(next(iter(feeds.values())))
        width = power_of_two(rows)
        dims = {name: dims for name, (_, dims) in self._session.tensors.outputs.items()}
        shapes = {name: (width, *(int(d) for d in each[1:])) for name, each in dims.items()}
        wide = {name: padded(array, width) for name, array in feeds.items()}
        return [found[:rows] for found in self.run(wide, shapes)]

    def by_name(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As Session.by_name, of rows."""
        feeds = {name: inputs[name] for name in self._session.tensors.inputs}
        return dict(zip(self._session.outputs, self.run_rows(feeds), strict=True))

    def _made(self, feeds: Mapping[str, Array], outputs: Mapping[str, tuple[int, ...]]) -> _Buffers:
        binding, device = self._session.binding(), self._device
        inputs = {name: device.hold(array) for name, array in feeds.items()}
        for name, value in {**inputs, **self._fixed}.items():
            binding.bind_ortvalue_input(name, value)
        held = []
        for name in self._session.outputs:
            value = device.room(outputs[name], np.dtype(self._session.tensors.outputs[name][0]))
            binding.bind_ortvalue_output(name, value)
            held.append(value)
        return _Buffers(binding, inputs, held, self._session.capture_options())


def padded(array: Array, rows: int) -> Array:
    """Zeros below, up to `rows`."""
    if len(array) == rows:
        return array
    wide = np.zeros((rows, *array.shape[1:]), array.dtype)
    wide[: len(array)] = array
    return wide


def power_of_two(n: int) -> int:
    """The least that is not below n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


class BoundSearch:
    """A `Search` whose items and biases lie on the device."""

    def __init__(self, session: Session, vectors: F32, bias: F32) -> None:
        """`session`: a device scorer that nobody else binds; vectors (N, D), bias (N,)."""
        self._session, self._vectors, self._bias = session, vectors, bias
        self._device = session.device
        self._number = np.dtype(session.tensors.inputs["items"][0])
        self._lay_out(max(len(bias) // GROUP + 1, LEAST_GROUPS))  # one column at least is nobody's

    def _lay_out(self, groups: int) -> None:
        self._groups = groups
        items = np.zeros((groups * GROUP, self._vectors.shape[1]), self._number)
        items[: len(self._vectors)] = self._vectors
        items = items.reshape(groups, GROUP, -1).transpose(2, 1, 0).reshape(items.shape[1], -1)
        self._held_bias = self._device.hold(self._biases(self._bias))
        self._graphs: dict[int, BoundGraph] = {}
        self._fixed = {
            "items": self._device.hold(np.ascontiguousarray(items)),
            "bias": self._held_bias,
            "groups": self._device.hold(np.array([groups], np.int64)),
        }

    def _biases(self, bias: F32) -> Array:
        """In the order of the columns."""
        wide = np.full(self._groups * GROUP, -np.inf, self._number)
        wide[: len(bias)] = bias
        return np.ascontiguousarray(wide.reshape(self._groups, GROUP).T).ravel()

    def with_bias(self, bias: F32) -> BoundSearch:
        """This one, from now on with the biases (N,): captured graphs have their address, so they are written in place."""
        self._bias = bias
        self._held_bias.update_inplace(self._biases(bias))
        return self

    def top_k(self, state: F32, excluded: I64, k: int) -> tuple[F32, I64]:
        """As Search says; of equal scores the lower row comes first, as far as the device's top-k keeps their order."""
        users, n = len(state), len(self._bias)
        k = min(k, n)
        scores, rows = np.empty((users, k), np.float32), np.empty((users, k), np.int64)
        if users == 0 or k <= 0:
            return scores, rows
        if k > self._groups:
            self._lay_out(power_of_two(k))
        groups, columns = self._groups, self._groups * GROUP
        most = max(1, power_of_two(SCORES_PER_RUN[self._device.kind] // columns + 1) // 2)
        graph = self._graph(k)
        for start, stop, part in blocks(excluded, users, most):
            width, pairs = power_of_two(stop - start), np.full((power_of_two(len(part)), 2), columns - 1)
            pairs[:, 0] = 0  # what fills up excludes the column that is nobody's
            pairs[: len(part), 0] = part[:, 0]
            pairs[: len(part), 1] = part[:, 1] % GROUP * groups + part[:, 1] // GROUP
            shape = (width, k)
            best, at = graph.run(
                {"state": padded(state[start:stop], width), "excluded": pairs},
                {"scores": shape, "columns": shape},
            )
            at = at[: stop - start]
            scores[start:stop], rows[start:stop] = best[: stop - start], at % groups * GROUP + at // groups
        rows[np.isneginf(scores)] = -1
        return scores, rows

    def _graph(self, k: int) -> BoundGraph:
        graph = self._graphs.get(k)
        if graph is None:
            # The number of results is read on the host, whatever the device.
            count = ort.OrtValue.ortvalue_from_numpy(np.array([k], np.int64))
            graph = self._graphs[k] = BoundGraph(self._session, {**self._fixed, "k": count})
        return graph
