"""What less alike lists cost, and lists that spare what everybody takes: NDCG@10 against likeness, coverage and how exposure is
spread, for several values of HEADWATER_DIVERSITY and of HEADWATER_EXPOSURE_DISCOUNT.

`python -m benchmarks.reranking [--users N] [--epochs N] [--json FILE]`: a model is trained on MovieLens-100K but for each user's
last six events, and the five before the very last are judged, each by the list from before it, what was taken left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.figures import Figure, Result
from model_export.event_log import load_log
from model_export.interactions import Interactions
from model_export.run import encoded_texts
from model_export.slices import exposure
from model_export.text_export import cached_encoder
from model_export.training import train
from model_export.training_config import TrainingConfig
from model_export.validation import states_of
from streamer.core.diversity import CANDIDATES, diverse, intra_list_similarity
from streamer.core.event_types import EventTypes
from streamer.core.exposure import discounted
from streamer.core.ranking import rank

Rows = NDArray[np.int64]
F32 = NDArray[np.float32]

K, JUDGED, SEED = 10, 5, 7
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Candidates:
    """n judged events. scores and rows (n, C), best first; vectors (N, D) of the items; taken (N,): by how many in training;
    target (n,).
    """

    scores: F32
    rows: Rows
    vectors: F32
    taken: F32
    target: Rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reranking", description=__doc__)
    parser.add_argument("--users", type=int, default=943, metavar="N", help="(default: all %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(argv)
    found = measure(candidates(options.users, options.epochs))
    for curve in CURVES:
        for strength in STRENGTHS:
            named = (f"{name} {found[f'{name}_{curve}_{strength:g}'].value:.4f}" for name in NAMES)
            print(f"{curve} {strength:g}: " + ", ".join(named))
    if options.json:
        Result.here("reranking", found).write(options.json)
    return 0


NAMES = (
    "ndcg_at_10",
    "hit_rate_at_10",
    "intra_list_similarity",
    "catalogue_coverage",
    "exposure_gini",
    "popularity_lift",
)
CURVES: dict[str, Callable[[Candidates, float], Rows]] = {
    "diversity": lambda found, strength: diverse(found.scores, found.rows, found.vectors, strength, K),
    "exposure_discount": lambda found, strength: discounted(
        found.scores, found.rows, found.taken[found.rows], strength
    )[1][:, :K],
}
"""What a setting makes of candidates: the places (n, 10) that are listed."""


def candidates(users: int, epochs: int) -> Candidates:
    """Of a GRU with default settings, trained on so many users of MovieLens-100K."""
    types = EventTypes.DEFAULT
    data = load_log("ml-100k", types, say=lambda text: print(text, file=sys.stderr))
    chosen = np.random.default_rng(SEED).permutation(len(data.users))[:users]
    data = data.take(np.flatnonzero(np.isin(data.user, chosen))).known_items_only().in_time_order(SEED)
    later = from_the_end(data)
    content = encoded_texts(data, cached_encoder())[0]
    config = replace(TrainingConfig(), epochs=epochs, validation_fraction=0.0, seed=SEED)
    past = data.take(np.flatnonzero(later > JUDGED))
    model = train(past, content, types, config).model
    taken = np.bincount(past.item, minlength=len(content)).astype(np.float32)
    scores, rows, target = [], [], []
    with torch.inference_mode():
        vectors, bias = model.item_table()
        for history in data.take(np.flatnonzero(later > 0)).histories(types):
            states = states_of(model, vectors, [history], None)[0]
            for at in range(max(len(history) - JUDGED, 1), len(history)):
                of_items = torch.addmv(bias, vectors, model.query(states[at - 1 : at])[0])
                of_items[torch.from_numpy(history.item[:at])] = -torch.inf
                best = torch.topk(of_items, K * CANDIDATES)
                scores.append(best.values.numpy())
                rows.append(best.indices.numpy())
                target.append(int(history.item[at]))
    best_scores, best_rows, _ = rank(np.stack(scores), np.stack(rows))
    return Candidates(best_scores, best_rows, vectors.numpy(), taken, np.array(target))


def from_the_end(data: Interactions) -> Rows:
    """How many events of the same user come after each (n,)."""
    order = np.argsort(data.user, kind="stable")
    counts = np.bincount(data.user)[data.user[order]]
    firsts = np.searchsorted(data.user[order], data.user[order])
    later = np.empty(len(order), np.int64)
    later[order] = counts - 1 - (np.arange(len(order)) - firsts)
    return later


def measure(found: Candidates) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for curve, places_of in CURVES.items():
        for strength in STRENGTHS:
            lists = np.take_along_axis(found.rows, places_of(found, strength), 1)
            hits = lists == found.target[:, None]
            values = {
                "ndcg_at_10": (hits / np.log2(np.arange(2, K + 2))).sum(axis=1).mean(),
                "hit_rate_at_10": hits.any(axis=1).mean(),
                "intra_list_similarity": intra_list_similarity(lists, found.vectors),
                **exposure(lists, found.taken, found.target),
            }
            for name in NAMES:
                unit = "cosine" if "similar" in name else "share"
                figures[f"{name}_{curve}_{strength:g}"] = Figure(float(values[name]), unit)
    return figures


if __name__ == "__main__":
    sys.exit(main())
