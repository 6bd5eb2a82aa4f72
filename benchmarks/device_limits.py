"""What a device can do at best, measured with onnxruntime itself: memory bandwidth and the rate of a matrix product."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.figures import machine
from streamer.serving.device import Device

NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Of the array whose copy measures the bandwidth: 64 MiB, 1 GiB."""
SIDE = {"cpu": 1024, "cuda": 8192}


def name(device: Device) -> str:
    if device.kind == "cpu":
        return machine()["processor"]
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "a CUDA device"


def bandwidth(device: Device, seconds: float) -> float:
    """Bytes per second, read and written, of −x over a large array."""
    n = NUMBERS[device.kind]
    node = helper.make_node("Neg", ["x"], ["y"])
    return 8 * n * _runs_per_s(device, [node], {"x": [n]}, [n], np.float32, seconds)


def flops(device: Device, seconds: float, dtype: type[Any]) -> float:
    """FLOPs per second of a square matrix product of this type."""
    side = SIDE[device.kind]
    shapes = {"a": [side, side], "b": [side, side]}
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    return 2 * side**3 * _runs_per_s(device, [node], shapes, [side, side], dtype, seconds)


def _runs_per_s(
    device: Device,
    nodes: list[Any],
    inputs: dict[str, list[int]],
    output: list[int],
    dtype: type[Any],
    seconds: float,
) -> float:
    number = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    values = [helper.make_tensor_value_info(each, number, shape) for each, shape in inputs.items()]
    graph = helper.make_graph(nodes, "limit", values, [helper.make_tensor_value_info("y", number, output)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    kind = "CUDAExecutionProvider" if device.kind == "cuda" else "CPUExecutionProvider"
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[kind])
    binding = session.io_binding()
    held = {each: device.hold(np.ones(shape, dtype)) for each, shape in inputs.items()}
    for each, value in held.items():
        binding.bind_ortvalue_input(each, value)
    binding.bind_ortvalue_output("y", device.room(output, np.dtype(dtype)))
    session.run_with_iobinding(binding)
    runs, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or runs == 0:
        session.run_with_iobinding(binding)
        runs += 1
    return runs / spent
