"""An artefact with random weights, built in a process of its own: torch needs a gigabyte that a benchmark should not hold.

Kept in `.headwater/bench/` for as long as the exporter's sources stay the same.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".headwater" / "bench"
SOURCES = (
    "model_export/*.py",
    "tests/tiny_artefact.py",
    "streamer/core/manifest.py",
    "streamer/core/signals/*.py",
    "streamer/serving/*.py",
)
HIDDEN = DIM = 64


def built(items: int) -> Path:
    """The directory of an artefact for "i0" to "i<items - 1>". Raises RuntimeError with what the exporter said."""
    folder = KEPT / f"{items}-{_digest()}"
    if not list(folder.glob("*/manifest.json")):
        command = [sys.executable, "-m", "benchmarks.artefact", str(folder), str(items)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"no artefact: {done.stderr.strip()[-3000:]}")
    return next(folder.glob("*/manifest.json")).parent


def _digest() -> str:
    found = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


if __name__ == "__main__":
    from tests import tiny_artefact

    tiny_artefact.build(Path(sys.argv[1]), hidden=HIDDEN, dim=DIM, items=int(sys.argv[2]), tick_ms=1.0)
