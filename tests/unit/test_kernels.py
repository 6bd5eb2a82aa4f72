"""Who compiles: another process where nothing is kept, nobody where everything is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents import kernels
from streamer.core.compiled import was_compiled

KERNEL = """
from streamer.core.compiled import compiled

@compiled
def doubled(value):
    return 2 * value
"""


def doubled(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("of_a_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.doubled


def test_machine_code_is_compiled_once(tmp_path: Path) -> None:
    (tmp_path / "of_a_test.py").write_text(KERNEL)
    for first in (True, False):
        kernel = doubled(tmp_path / "of_a_test.py")
        assert kernel(3) == 6
        assert was_compiled(kernel) == first


@pytest.mark.parametrize("compiled", [True, False])
def test_another_process_compiles_what_is_not_kept(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    done: list[Any] = []
    monkeypatch.setattr(kernels, "was_compiled", lambda kernel: compiled)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done.append(command))
    monkeypatch.setattr(kernels, "warm_all_up", lambda: done.append("here"))
    kernels.ready()
    assert done == [[sys.executable, "-m", "agents.kernels"]] * compiled + ["here"]
