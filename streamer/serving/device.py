"""Where the sessions run: chosen once at start, by trying.

onnxruntime lists CUDA whenever it was built with it. Without the CUDA libraries it prints a line and runs on the CPU all
the same, so the only trustworthy probe is to put a tensor on the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _ort_classes

from streamer.errors import DeviceUnavailable, SettingsError

DeviceKind: TypeAlias = Literal["cpu", "cuda"]

OnnxErrors: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(c for c in vars(_ort_classes).values() if isinstance(c, type) and issubclass(c, Exception)),
)
"""What onnxruntime raises: its own classes have no base but Exception."""


@dataclass(frozen=True)
class Device:
    kind: DeviceKind
    reason: str
    """A sentence for the log: why this one."""
    strict: bool = False
    """CUDA was asked for by name: a session that would run in part on the CPU is refused."""
    bound: bool = False
    """Items, states and results are held in buffers on the device. On the CPU that only costs, and is for tests."""
    half: bool = False
    """Where `bound`: scores are computed in half precision."""

    @property
    def tolerance(self) -> float:
        """How far results may lie from the trainer's (absolute and relative): 1e-5 on the CPU, 1e-3 on CUDA."""
        return 1e-5 if self.kind == "cpu" else 1e-3

    def tolerance_of(self, operation: str) -> float:
        """The same for one operation: half precision has three digits, and scores sum many products.

        States of whole runs are rounded to it after every event, where a sum in another order may turn to the next number.
        """
        if operation == "score" and self.bound and self.half:
            return 3e-2
        return max(self.tolerance, 4e-3) if operation == "steps" else self.tolerance

    def room(self, shape: Sequence[int], dtype: np.dtype[Any]) -> ort.OrtValue:
        """A tensor on the device, not initialised."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, self.kind, 0)

    def hold(self, array: npt.NDArray[Any]) -> ort.OrtValue:
        """A copy of the array on the device."""
        value = self.room(array.shape, array.dtype)
        value.update_inplace(array)
        return value


CPU = Device("cpu", "the CPU was asked for")


def choose_device(wish: str, *, half: bool = False) -> Device:
    """`wish` is "auto", "cpu" or "cuda"; `half`: score in half precision on CUDA.

    Raises DeviceUnavailable if CUDA was asked for and cannot be used.
    """
    if wish == "cpu":
        return CPU
    if wish not in ("auto", "cuda"):
        raise SettingsError(f"device is {wish!r}: must be auto, cpu or cuda")
    fault = cuda_fault()
    if fault is None:
        how = "asked for" if wish == "cuda" else "found"
        return Device(
            "cuda", f"CUDA was {how} and holds a tensor", strict=wish == "cuda", bound=True, half=half
        )
    if wish == "cuda":
        raise DeviceUnavailable(
            f"CUDA was asked for and cannot be used: {fault}. Install headwater[gpu] on a machine with an NVIDIA "
            "driver, or set the device to auto or cpu"
        )
    return Device("cpu", f"CUDA cannot be used: {fault}")


def cuda_fault() -> str | None:
    """Why CUDA cannot be used, in one line; None if a tensor could be put on the device."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime was built without it (onnxruntime-gpu has it)"
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            return f"no NVIDIA driver here ({error})"
    printed = io.StringIO()
    ort.set_default_logger_severity(4)  # onnxruntime would print in red what the returned line says
    try:
        with contextlib.redirect_stdout(printed):
            if preload := getattr(ort, "preload_dlls", None):
                preload(cuda=True, cudnn=True)  # the nvidia-* wheels' libraries
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except OnnxErrors as error:
        return " ".join(f"{error} {printed.getvalue()}".split())[:500]
    finally:
        ort.set_default_logger_severity(3)
    return None
