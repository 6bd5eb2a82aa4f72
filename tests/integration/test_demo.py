"""`make demo`, shortened: it exits 0 and its report parses, on Apache Kafka and on the light broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.workers import ROOT


def run_demo(tmp_path: Path, *arguments: str) -> dict[str, object]:
    report = tmp_path / "report.json"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    # The data set and the model are kept from test to test (and from a demo before).
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "demo", "--short", "--report", str(report), *arguments],
        cwd=ROOT,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    found: dict[str, object] = json.loads(report.read_text())
    return found


def check(report: dict[str, object]) -> None:
    wanted = {
        "events",
        "events_per_s",
        "latency_ms",
        "hit_rate_at_10",
        "ndcg_at_10",
        "dead_letters",
        "worker_rss_mb",
    }
    assert wanted | {"model_version"} <= report.keys()
    assert isinstance(report["events"], int)
    assert report["events"] > 0
    assert report["dead_letters"] == 0
    for quality in ("hit_rate_at_10", "ndcg_at_10"):
        measured = report[quality]
        assert isinstance(measured, dict)
        assert set(measured) == {"stream", "popularity", "item_knn"}
        assert all(0 <= value <= 1 for value in measured.values())


def test_on_apache_kafka(kafka: str, tmp_path: Path) -> None:
    check(run_demo(tmp_path))


def test_on_the_light_broker(tmp_path: Path) -> None:
    pytest.importorskip("noida_db")
    check(run_demo(tmp_path, "--light"))
