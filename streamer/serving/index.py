"""Which search serves a large catalogue: exact on a device, an index of inverted lists on the CPU."""

from __future__ import annotations

import logging
import time
from typing import Protocol

import numpy as np

from streamer import telemetry
from streamer.core.hash_index import HashIndex
from streamer.serving import ivf
from streamer.serving.exact import F32, I64, ExactSearch, Search
from streamer.serving.item_table import ItemTable
from streamer.serving.ivf import IvfSearch, Lists
from streamer.serving.model import Model
from streamer.serving.sampling import sample_states
from streamer.serving.snapshot import U64

log = logging.getLogger("headwater.catalogue")


class BaseSearch(Search, Protocol):
    def with_bias(self, bias: F32) -> BaseSearch:
        """The same rows with other biases (N,): the old ones, or -inf for what may no longer be recommended."""


def build(model: Model, table: ItemTable) -> BaseSearch:
    """The index of a model's first large catalogue: by the manifest's lists, else trained and measured here (a minute per
    million items on one core).
    """
    if model.device.bound:
        return _resident(model, table)
    try:
        ivf.load_faiss()
    except ImportError as error:
        log.warning(
            "%d items are searched one by one, since an index needs faiss (%s): install headwater[ann]",
            len(table.ids),
            error,
        )
        return ExactSearch(model.session("score"), table.vectors, table.bias)
    started = time.perf_counter()
    if model.lists is not None:
        known = np.full(len(table.ids), -1, np.int64)
        rows = HashIndex(table.hashes).rows(model.item_hashes)
        known[rows[rows >= 0]] = model.lists.of_rows[rows >= 0]
        lists, spec = _completed(model.lists.centroids, known, table), model.manifest.index
    else:
        lists = ivf.train(table.vectors, table.bias)
        spec = ivf.measured(model.query, sample_states(model), table.vectors, table.bias, lists)
    search = IvfSearch(model.query, table.vectors, table.bias, lists, spec.nprobe)
    telemetry.INDEX_RECALL.set(spec.recall)
    log.info(
        "index of %d items in %.1f s: %d lists, %d probed, recall@%d %.3f, %s",
        len(table.ids), time.perf_counter() - started, spec.nlist, spec.nprobe, spec.k, spec.recall,
        "measured here" if model.lists is None else "as the manifest says",
    )  # fmt: skip
    return search


def rebuild(
    model: Model, table: ItemTable, old: BaseSearch, old_hashes: HashIndex, changed: U64
) -> BaseSearch:
    """The same over a newer table, in the old one's lists; `changed` are the hashes of items whose vectors are new."""
    if isinstance(old, ExactSearch):
        return ExactSearch(model.session("score"), table.vectors, table.bias)
    if not isinstance(old, IvfSearch):
        return _resident(model, table)
    rows = old_hashes.rows(table.hashes)
    known = np.where(rows >= 0, old.lists.of_rows[rows], -1)
    again = HashIndex(table.hashes).rows(changed)
    known[again[again >= 0]] = -1
    lists = _completed(old.lists.centroids, known, table)
    return IvfSearch(model.query, table.vectors, table.bias, lists, old.nprobe)


def _resident(model: Model, table: ItemTable) -> BaseSearch:
    """All items on the device; where they are scored in half precision, said and measured how well that does."""
    search = model.resident(table.vectors, table.bias)
    if model.device.half and len(model.item_ids):
        state = sample_states(model)
        exact = ivf.brute_force(model.query(state), table.vectors, table.bias, k=20)
        _, found = search.top_k(state, np.zeros((0, 2), np.int64), 20)
        share = ivf.overlap(exact, found)
        telemetry.INDEX_RECALL.set(share)
        log.info("scores in half precision: %.3f of the top 20 of %d users are the same", share, len(state))
    return search


def _completed(centroids: F32, known: I64, table: ItemTable) -> Lists:
    missing = np.flatnonzero(known < 0)
    if missing.size:
        known[missing] = ivf.assigned(centroids, table.vectors[missing], table.bias[missing])
    return Lists(centroids, known)
