"""An artefact with random weights, in a process of its own: torch needs a gigabyte that a benchmark should not hold.

`python -m benchmarks.artefact FOLDER` prints where it lies.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ITEMS = 1682
"""As many as MovieLens-100K has."""
HIDDEN = DIM = 64


def build(folder: Path) -> Path:
    """Raises RuntimeError with what the process said."""
    command = [sys.executable, "-m", "benchmarks.artefact", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no artefact: {done.stderr.strip()[-3000:]}")
    return Path(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    from tests import tiny_artefact

    print(tiny_artefact.build(Path(sys.argv[1]), hidden=HIDDEN, dim=DIM, items=ITEMS))
