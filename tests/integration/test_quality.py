"""The quality benchmark as a stranger runs it: a file, a few column names, figures in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.integration.workers import ROOT


def test_a_log_never_seen_before_is_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lines, place = ["visitor;sku;at;action"], np.zeros(40, int)
    for number in range(1_200):
        user = int(rng.integers(40))
        place[user] = (
            (place[user] + 1) % 60 if rng.random() < 0.8 else rng.integers(60)
        )  # mostly the next one on the shelf
        lines.append(
            f"v{user};sku-{place[user]};2024-03-{1 + number // 60:02d} {number % 24:02d}:{number % 60:02d};look"
        )
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--events", str(tmp_path / "shop.csv")]
    command += ["--user", "visitor", "--item", "sku", "--time", "at", "--type", "action"]
    command += ["--json", str(tmp_path / "found.json"), "--plots", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"name", "commit", "machine", "figures"} <= set(found)
    figures = {key: figure["value"] for key, figure in found["figures"].items()}
    recommenders = [
        "pop",
        "pop_decayed_10",
        "pop_decayed_300",
        "pop_decayed_10000",
        "repeat_last",
        "markov",
        "item_knn",
    ]
    recommenders += ["knn_pop", "gru_static", "gru_nightly", "stream", "stream_unasked", "stream_asked"]
    for name in recommenders:
        for metric in ("ndcg_at_10", "hit_rate_at_10", "mrr_at_10"):
            assert 0 <= figures[f"{metric}_{name}"] <= 1
        assert 0 < figures[f"coverage_{name}"] <= 1
    assert figures["judged_events"] == 240
    assert (
        figures["ndcg_at_10_markov"] > 2 * figures["ndcg_at_10_pop"]
    )  # the shelf has an order, and Markov sees it
    low, high = (figures[f"ndcg_at_10_stream_minus_markov_{end}"] for end in ("low", "high"))
    assert low <= figures["ndcg_at_10_stream_minus_markov"] <= high
    assert (tmp_path / "quality-prequential-shop.png").stat().st_size > 10_000
