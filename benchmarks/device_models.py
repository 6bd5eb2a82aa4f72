"""Artefacts with random weights and MiniLM for the GPU benchmark, each built in a process of its own, which imports torch.

`python -m benchmarks.device_models FOLDER DIM` prints where it lies.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path, dim: int) -> Path:
    """States and vectors of `dim` numbers. Raises RuntimeError with what the process said."""
    command = [sys.executable, "-m", "benchmarks.device_models", str(folder), str(dim)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no artefact: {done.stderr.strip()[-3000:]}")
    return Path(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    from model_export.text_export import minilm_dir
    from tests import tiny_artefact

    size = int(sys.argv[2])
    print(tiny_artefact.build(Path(sys.argv[1]) / f"d{size}", hidden=size, dim=size, bert=minilm_dir()))
