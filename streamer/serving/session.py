"""onnxruntime sessions as Headwater wants them: one thread, no spinning, memory for shapes that vary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
import onnxruntime as ort

from streamer.core.manifest import Tensor, TensorSpecs
from streamer.errors import ArtefactError, DeviceUnavailable
from streamer.serving.device import Device, OnnxErrors

log = logging.getLogger("headwater.device")

Array: TypeAlias = npt.NDArray[Any]

MOST_GRAPHS = 16
"""CUDA graphs per session: batch shapes beyond run without."""

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}


class Session:
    """An open ONNX file. `run` releases the GIL and may be called from several threads at once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        plain: Callable[[], ort.InferenceSession] | None = None,
    ) -> None:
        """`plain` opens the file again without CUDA graphs, where `session` captures them."""
        self._session, self._plain, self._captured = session, plain, 0
        self.device = device
        self.tensors = TensorSpecs(
            {a.name: _tensor(a.type, a.shape) for a in session.get_inputs()},
            {a.name: _tensor(a.type, a.shape) for a in session.get_outputs()},
        )
        self.outputs = tuple(self.tensors.outputs)
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map

    def run(self, feeds: Mapping[str, Array | ort.OrtValue]) -> list[Array]:
        """Outputs in the order of `outputs`. Contiguous inputs are read in place; outputs are new arrays."""
        if self.device.kind == "cpu":
            outputs: list[Array] = self._session.run(None, feeds)
            return outputs
        options = None
        if self.captures:  # what is not bound has other addresses next time
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", "-1")
        return [v.numpy() for v in self._session.run_with_ort_values(None, _on_host(feeds), options)]

    # ------------------------------------------------------------------ bound buffers
    @property
    def captures(self) -> bool:
        """Runs through bound buffers are captured as CUDA graphs."""
        return self._plain is not None

    def binding(self) -> ort.IOBinding:
        return self._session.io_binding()

    def capture_options(self) -> ort.RunOptions | None:
        """For the runs of one binding, whose addresses never change; None where nothing is captured.

        Every captured graph keeps the memory of its run, so there are MOST_GRAPHS at most.
        """
        if self._plain is None:
            return None
        self._captured += 1
        options = ort.RunOptions()
        options.add_run_config_entry(
            "gpu_graph_id", str(self._captured) if self._captured <= MOST_GRAPHS else "-1"
        )
        return options

    def run_bound(self, binding: ort.IOBinding, options: ort.RunOptions | None) -> bool:
        """Run; False if CUDA would not capture the run: the session was opened again, and all bindings are void."""
        try:
            self._session.run_with_iobinding(binding, options)
        except OnnxErrors as error:
            if self._plain is None:
                raise
            log.warning("no CUDA graphs from here on, a run could not be captured: %s", _line(error))
            self._session, self._plain = self._plain(), None
            return False
        return True

    def by_name(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; inputs that the graph does not have are left out."""
        feeds = {name: inputs[name] for name in self.tensors.inputs}
        return dict(zip(self.outputs, self.run(feeds), strict=True))


def open_session(path: Path, device: Device, *, arena: bool = True, capture: bool = False) -> Session:
    """Open an ONNX file; raises ArtefactError if it is none, DeviceUnavailable if CUDA was asked for and not taken.

    Without `arena` the memory of a run goes back to the system after it: for graphs with large and rare runs. `capture`:
    take CUDA graphs of its bound runs, where CUDA and the graph allow it.
    """
    if capture and device.kind == "cuda":
        try:
            session = _open(path, device, arena, capture=True)
        except (ArtefactError, DeviceUnavailable) as error:
            log.warning("%s runs without CUDA graphs: %s", path.name, error)
        else:
            return Session(session, device, lambda: _open(path, device, arena, capture=False))
    return Session(_open(path, device, arena, capture=False), device)


def _open(path: Path, device: Device, arena: bool, *, capture: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about the graph's optimisation
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # plans memory for one shape; ours differ from batch to batch
    options.enable_cpu_mem_arena = arena
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device.kind == "cuda":
        # TF32 would cost three digits. Without "strict", what CUDA has no kernel for runs on the CPU.
        cuda = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        if capture:
            cuda["enable_cuda_graph"] = "1"
        providers = [("CUDAExecutionProvider", cuda)]
        if device.strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        else:
            providers.append("CPUExecutionProvider")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except OnnxErrors as error:
        line = _line(error)
        if device.strict:
            raise DeviceUnavailable(f"{path.name} cannot run on CUDA alone: {line}") from error
        raise ArtefactError(f"{path.name} cannot be opened: {line}") from error
    if device.kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceUnavailable(
            f"{path.name}: onnxruntime fell back to {session.get_providers()}; is cuDNN 9 installed?"
        )
    return session


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _tensor(dtype: str, shape: list[int | str | None]) -> Tensor:
    return _DTYPES.get(dtype, dtype), ["?" if d is None else d for d in shape]


def _on_host(feeds: Mapping[str, Array | ort.OrtValue]) -> dict[str, ort.OrtValue]:
    return {
        name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)
        for name, value in feeds.items()
    }
