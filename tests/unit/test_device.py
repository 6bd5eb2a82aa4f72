"""CUDA is taken when it works, and never quietly replaced when it was asked for by name."""

from __future__ import annotations

import ctypes

import onnxruntime as ort
import pytest

from streamer.errors import DeviceUnavailable, SettingsError
from streamer.serving import device


def test_the_cpu_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_fault", lambda: pytest.fail("probed"))
    assert device.choose_device("cpu").kind == "cpu"


def test_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_fault", lambda: "no driver here")
    found = device.choose_device("auto")
    assert (found.kind, found.reason, found.tolerance) == ("cpu", "CUDA cannot be used: no driver here", 1e-5)
    with pytest.raises(DeviceUnavailable, match="no driver here"):
        device.choose_device("cuda")


def test_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cuda_fault", lambda: None)
    asked, found = device.choose_device("cuda"), device.choose_device("auto")
    assert (asked.kind, asked.strict, asked.tolerance) == ("cuda", True, 1e-3)
    assert (found.kind, found.strict) == ("cuda", False)


def test_the_probe_believes_the_tensor_and_not_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "built without it" in (device.cuda_fault() or "")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: None)
    monkeypatch.setattr(ort, "preload_dlls", lambda **_: print("cudnn is absent"), raising=False)

    def refuse(*_: object) -> None:
        raise RuntimeError("CUDA Provider not available")

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", refuse)
    assert device.cuda_fault() == "CUDA Provider not available cudnn is absent"
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", lambda *_: None)
    assert device.cuda_fault() is None


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match="'tpu'"):
        device.choose_device("tpu")
