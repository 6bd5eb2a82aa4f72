"""A benchmark as one runs it: against a real broker, with a peer whose outputs must be Headwater's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("kafka")  # skips where Apache Kafka cannot be had
@pytest.mark.parametrize("workload", ["uniform", "zipf"])
def test_throughput_races_a_peer_that_does_the_same_job(workload: str, tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--json", str(file)]
    command += ["--workload", workload, "--peers", "plain_faust"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "profiles are headwater's" in done.stdout
    figures = json.loads(file.read_bytes())["figures"]
    assert figures["events_per_s"]["value"] > 0
    assert {"vs_plain_faust", "share_of_raw", "headwater_cpu_us", "plain_faust_cpu_us"} <= figures.keys()
